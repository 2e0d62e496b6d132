from __future__ import annotations

import copy

import pytest
import torch

from deadunits import models


def test_the_network_of_the_thesis_has_20522_parameters():
    net = models.small_cnn((1, 28, 28))
    assert sum(p.numel() for p in net.parameters()) == 20_522
    assert [name for name, _ in net.named_children()][:4] == ["conv1", "pool1", "act1", "conv2"]
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 16), (2, 17, 30)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_other_shapes(shape, batch_norm):
    net = models.small_cnn(shape, classes=4, widths=(2, 3, 5), batch_norm=batch_norm).eval()
    assert net(torch.zeros(2, *shape)).shape == (2, 4)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="8 x 8 are too small"):
        models.small_cnn((1, 8, 8))
    with pytest.raises(ValueError, match="'gelu'; there are: relu, tanh"):
        models.small_cnn((1, 28, 28), activation="gelu")


def test_initial_weights_come_from_the_seed_and_are_uniform():
    first, again, other = (models.small_cnn((1, 28, 28), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)
    assert first.fc1.weight.abs().max() <= 1 / 16
    assert first.fc1.weight.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.02)
    assert first.conv2.bias.abs().max() <= 200**-0.5


def test_deepcopy_and_state_dict():
    net = models.small_cnn((1, 28, 28), batch_norm=True)
    other = models.small_cnn((1, 28, 28), batch_norm=True, seed=9)
    other.load_state_dict(copy.deepcopy(net).state_dict())
    x = torch.ones(2, 1, 28, 28)
    assert torch.equal(net.eval()(x), other.eval()(x))
