from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deadunits import models, training
from deadunits.attack import Attack, Schedule
from toys import make_batch

SCHEDULE = Schedule(start=2, interval=3, repeats=2)  # steps 2 and 5
SETTINGS = {"epochs": 3, "lr": 0.1, "batch_size": 4, "seed": 3}  # 9 steps


def setup(dtype=torch.float64):
    images = make_batch(10, (1, 16, 16), 3)
    images = type(images)(images.x.to(dtype), images.y)
    return models.small_cnn((1, 16, 16), 3, (2, 3, 4), batch_norm=True).to(dtype), images


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 10))
def test_the_schedule_is_the_list_of_its_steps(start, interval, repeats):
    schedule = Schedule(start, interval, repeats)
    expected = [start + i * interval for i in range(repeats)]
    assert [step for step in range(300) if step in schedule] == expected
    assert schedule.last == (expected[-1] if expected else start - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layer", "units"), [("conv1", [1]), ("conv2", [0, 2]), ("fc1", [3]), ("conv1", [])])
def test_beside_plain_sgd_it_is_the_gradient_multiplied_bit_for_bit(dtype, layer, units):
    attacked, images = setup(dtype)
    by_hand = copy.deepcopy(attacked)
    optimizer = torch.optim.SGD(attacked.parameters(), lr=0.1)
    with Attack(attacked, optimizer, layer, units, SCHEDULE, 100):
        steps = list(training.sgd(attacked, images, optimizer=optimizer, **SETTINGS))
    assert len(steps) == 9
    order, other = torch.Generator().manual_seed(3), torch.optim.SGD(by_hand.parameters(), lr=0.1)
    x = images.x.contiguous(memory_format=torch.channels_last)
    number = 0
    for _ in range(3):
        for chosen in torch.randperm(10, generator=order).split(4):
            number += 1
            other.zero_grad()
            F.cross_entropy(by_hand(x[chosen]), images.y[chosen]).backward()
            if number in (2, 5):
                by_hand.get_parameter(f"{layer}.weight").grad[units] *= 100
            other.step()
    for name, value in attacked.state_dict().items():
        assert torch.equal(value, by_hand.state_dict()[name]), name


def run(make, multiplier, steps=9):
    """Weights of two units through some steps with given gradients; unit 0 is attacked."""
    net = nn.Sequential()
    net.add_module("fc", nn.utils.skip_init(nn.Linear, 3, 2, dtype=torch.float64))
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in net.parameters():
            one.copy_(torch.randn(one.shape, generator=chance, dtype=torch.float64))
    optimizer = make(net.parameters())
    weights, gradients, biases = [net.fc.weight.detach().clone()], [], []
    with Attack(net, optimizer, "fc", [0], SCHEDULE, multiplier):
        for _ in range(steps):
            for one in net.parameters():
                one.grad = torch.randn(one.shape, generator=chance, dtype=torch.float64)
            gradients.append(net.fc.weight.grad.clone())
            optimizer.step()
            assert torch.equal(net.fc.weight.grad, gradients[-1])
            weights.append(net.fc.weight.detach().clone())
            biases.append(net.fc.bias.detach().clone())
    return weights, gradients, biases, optimizer


def sgd_by_hand(w, g, m, momentum, decay, lr=0.1):
    w, velocity = w.clone(), torch.zeros_like(w)
    for number, gradient in enumerate(g, 1):
        velocity = momentum * velocity + gradient + decay * w
        factor = torch.ones(2, 1, dtype=torch.float64)
        factor[0] = m if number in (2, 5) else 1
        w = w - factor * lr * velocity
    return w


def adam_by_hand(w, g, m, lr=0.1, betas=(0.9, 0.999), eps=1e-8):
    w, first, second = w.clone(), torch.zeros_like(w), torch.zeros_like(w)
    for number, gradient in enumerate(g, 1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        update = first / (1 - betas[0] ** number) / ((second / (1 - betas[1] ** number)).sqrt() + eps)
        factor = torch.ones(2, 1, dtype=torch.float64)
        factor[0] = m if number in (2, 5) else 1
        w = w - factor * lr * update
    return w


@pytest.mark.parametrize(("momentum", "decay"), [(0, 0), (0.9, 0), (0, 0.01), (0.9, 0.01)])
def test_beside_sgd_it_is_the_recurrence_by_hand(momentum, decay):
    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=momentum, weight_decay=decay)

    weights, gradients, *_ = run(make, 100.0)
    expected = sgd_by_hand(weights[0], gradients, 100.0, momentum, decay)
    torch.testing.assert_close(weights[-1], expected, rtol=0, atol=1e-12)


def test_beside_adam_it_is_the_recurrence_by_hand_and_leaves_its_state():
    def make(parameters):
        return torch.optim.Adam(parameters, lr=0.1)

    weights, gradients, biases, optimizer = run(make, 100.0)
    expected = adam_by_hand(weights[0], gradients, 100.0)
    torch.testing.assert_close(weights[-1], expected, rtol=0, atol=1e-12)
    plain, _, other_biases, other = run(make, 1.0)
    for one, two in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(map(torch.equal, biases, other_biases))
    assert all(torch.equal(one[1], two[1]) for one, two in zip(weights, plain, strict=True))
    assert not torch.allclose(weights[-1][0], plain[-1][0])


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("gone", [True, False])  # gradients that stand from the step before, or none
def test_a_closure_is_attacked_as_well(kind, gone):
    """Its gradient is computed within the step."""

    def trained(closed, multiplier=100.0):
        net, images = setup()
        optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.01)

        def closure():
            optimizer.zero_grad(set_to_none=gone)
            loss = F.cross_entropy(net(images.x), images.y)
            loss.backward()
            return loss

        with Attack(net, optimizer, "fc1", [0], Schedule(1, 2, 2), multiplier):
            for _ in range(4):
                optimizer.step(closure) if closed else (closure(), optimizer.step())
        return net.fc1.weight.detach()

    torch.testing.assert_close(trained(True), trained(False), rtol=0, atol=1e-12)
    assert not torch.allclose(trained(True)[0], trained(True, 1.0)[0])


def test_hooks_are_gone_after_an_exception():
    net, _ = setup()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), Attack(net, optimizer, "fc1", [0], SCHEDULE, 10):
        raise ZeroDivisionError
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_a_layer_without_a_gradient_is_left_alone():
    net, _ = setup()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net.fc1.weight.detach().clone()
    with Attack(net, optimizer, "fc1", [0], Schedule(1, 1, 3), 10):
        optimizer.step()
    assert torch.equal(net.fc1.weight, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "fc9"}, "no linear or convolutional layer 'fc9'; there are: conv1"),
        ({"layer": "act1"}, "no linear or convolutional layer"),
        ({"units": [4]}, "fc1 has units 0 to 3, got 4"),
        ({"units": [-1]}, "got -1"),
        ({"multiplier": math.inf}, "finite"),
    ],
)
def test_bad_input_is_named_before_any_training(change, message):
    net, _ = setup()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    chosen = {"layer": "fc1", "units": [0], "schedule": SCHEDULE, "multiplier": 10} | change
    with pytest.raises(ValueError, match=message):
        Attack(net, optimizer, **chosen)


def test_weights_that_are_not_trained_are_refused():
    net, _ = setup()
    with pytest.raises(ValueError, match=r"does not train fc1\.weight"):
        Attack(net, torch.optim.SGD(net.conv1.parameters(), lr=0.1), "fc1", [0], SCHEDULE, 10)


@pytest.mark.parametrize("change", [{"start": 0}, {"interval": 0}, {"repeats": -1}, {"start": 1.5}])
def test_a_bad_schedule_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Schedule(**({"start": 1} | change))
