from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deadunits import models, scorers, training
from deadunits.data import Batch
from toys import make_batch

SETTINGS = {"epochs": 2, "lr": 0.1, "batch_size": 4, "seed": 3}


def setup(batch_norm=True):
    images = make_batch(10, (1, 16, 16), 3)
    return models.small_cnn((1, 16, 16), 3, (2, 3, 4), batch_norm=batch_norm).double(), images


def test_the_same_weights_bit_for_bit_whether_or_not_something_is_measured():
    plain, images = setup()
    measured = copy.deepcopy(plain)
    for _ in training.sgd(plain, images, **SETTINGS):
        pass
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in training.sgd(measured, images, **SETTINGS):
            measured.eval()
            for scorer in scorers.SCORERS.values():
                scorer(measured, images, ["conv1.weight"], generator=chance)
            with torch.enable_grad():
                F.cross_entropy(measured(images.x), images.y).backward()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, measured.state_dict()[name]), name


def test_equals_the_plain_loop_of_pytorch():
    net, images = setup(batch_norm=False)
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    order, optimizer = torch.Generator().manual_seed(3), torch.optim.SGD(plain.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        for chosen in torch.randperm(10, generator=order).split(4):
            optimizer.zero_grad()
            loss = F.cross_entropy(plain(images.x[chosen]), images.y[chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    steps = list(training.sgd(net, images, **SETTINGS))
    assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [step.epoch for step in steps] == pytest.approx([0.4, 0.8, 1, 1.4, 1.8, 2])
    assert [step.loss for step in steps] == pytest.approx(losses, abs=1e-12)
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_one_update_by_hand():
    """L = -log softmax of logits w x: with w = 0 and two classes the gradient is (1/2 - [label]) x."""
    net = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        net.weight.zero_()
    images = Batch(torch.tensor([[3.0]], dtype=torch.float64), torch.tensor([0]))
    (step,) = training.sgd(net, images, epochs=1, lr=0.1, batch_size=32, seed=0)
    assert step.loss == pytest.approx(0.6931471805599453)
    assert net.weight.flatten().tolist() == pytest.approx([0.15, -0.15])
