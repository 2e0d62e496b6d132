"""Networks trained as a stack are those trained one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from deadunits import models, training
from deadunits.attack import Attack, Schedule
from deadunits.recorder import Recorder
from deadunits.stacked import Stack
from torch import nn
from toys import make_batch

LAYERS = ["conv1", "conv2", "fc1"]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
SCHEDULE = Schedule(start=3, interval=4, repeats=5)


def nets(number, batch_norm, device="cpu", seeds=None):
    """Of different seeds, in float64."""
    return [
        models.small_cnn((1, 20, 20), 3, (2, 3, 4), "relu", batch_norm, seed).double().to(device)
        for seed in seeds or range(number)
    ]


def linear(*sizes):
    return nn.utils.skip_init(nn.Linear, *sizes)


def on(batch, device):
    return type(batch)(batch.x.to(device), batch.y.to(device))


def optimizer(net, kind):
    if kind == "adam":
        return torch.optim.Adam(net.parameters(), lr=0.003)
    more = {"momentum": 0.9, "weight_decay": 1e-3} if kind == "momentum" else {}
    return torch.optim.SGD(net.parameters(), lr=0.02, **more)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("seeds", [[5, 5, 5], [5, 6, 5]], ids=["one order", "two orders"])
def test_a_hundred_steps_are_those_of_single_runs(seeds, batch_norm, kind, device):
    """One of three is attacked; 1e-6 is what is asked, in float64 it is far closer."""
    images = on(make_batch(44, (1, 20, 20), 3), device)  # 6 minibatches, the last one smaller
    single, stacked = nets(3, batch_norm, device), nets(3, batch_norm, device)
    expected = []
    for number, (net, seed) in enumerate(zip(single, seeds, strict=True)):
        one, losses = optimizer(net, kind), []
        how = {"epochs": 17, "lr": 0, "batch_size": 8, "seed": seed, "optimizer": one}
        with Attack(net, one, "conv1", [1], SCHEDULE, 10 if number == 1 else 1):
            for step in training.sgd(net, images, **how):
                losses.append(step.loss)
        expected.append(losses)
    optimizers, found = [optimizer(net, kind) for net in stacked], []
    with Attack(stacked[1], optimizers[1], "conv1", [1], SCHEDULE, 10):
        for steps in Stack(stacked).sgd(images, optimizers, epochs=17, batch_size=8, seeds=seeds):
            found.append([step.loss for step in steps])
    assert (len(found), steps[0].number, steps[0].epoch) == (102, 102, 17)
    torch.testing.assert_close(torch.tensor(found).T, torch.tensor(expected), rtol=0, atol=1e-6)
    for one, other in zip(single, stacked, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("number", [1, 2])
def test_the_networks_of_a_stack_can_be_recorded_and_copied(number):
    images = make_batch(9, (1, 20, 20), 3)
    own = nets(number, True)
    alone = copy.deepcopy(own[-1])
    optimizers = [optimizer(net, "sgd") for net in own]
    recorder, reference = Recorder(own[-1], LAYERS), Recorder(alone, LAYERS)
    how = {"epochs": 1, "batch_size": 3}
    steps = Stack(own).sgd(images, optimizers, **how, seeds=[2] * number)
    for _, _ in zip(steps, training.sgd(alone, images, **how, lr=0.02, seed=2), strict=True):
        recorder.follow()
        reference.follow()
        (loss, units), (wanted, expected) = recorder.measure(images), reference.measure(images)
        assert loss == pytest.approx(wanted, abs=1e-9)
        for layer in LAYERS:
            for column, values in expected[layer].items():
                torch.testing.assert_close(units[layer][column], values, rtol=1e-6, atol=1e-8)
    twin = copy.deepcopy(own[-1])
    with torch.no_grad():
        twin.conv1.weight.add_(1)
    assert not torch.equal(twin.conv1.weight, own[-1].conv1.weight)


def test_a_pass_that_fails_leaves_weights_and_gradients():
    own = nets(2, False)
    stack, batch = Stack(own), make_batch(4, (1, 20, 20), 3)
    stack.backward(*batch)
    before = [one.clone() for net in own for one in (*net.parameters(), *(p.grad for p in net.parameters()))]
    with pytest.raises(RuntimeError):
        stack.backward(batch.x[:, :, :4], batch.y)
    after = [one for net in own for one in (*net.parameters(), *(p.grad for p in net.parameters()))]
    assert all(map(torch.equal, before, after))


def test_what_is_no_stack_is_refused():
    with pytest.raises(ValueError, match="one network at least"):
        Stack([])
    with pytest.raises(ValueError, match="the same layers, types and device"):
        Stack([linear(2, 3), linear(2, 4)])
    with pytest.raises(ValueError, match="the same layers, types and device"):
        Stack([linear(2, 3), linear(2, 3).double()])
    own = nets(2, False)
    with pytest.raises(ValueError, match="2 networks need as many optimizers and seeds"):
        next(Stack(own).sgd(make_batch(4, (1, 20, 20), 3), [], epochs=1, batch_size=2, seeds=[0, 0]))
