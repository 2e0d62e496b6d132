"""Scores of weights: closed forms, and the fast way against the slow one in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from deadunits import scorers
from deadunits.data import Batch
from toys import make_batch, make_net, small

NAMES = ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]


@pytest.mark.parametrize("delta", [scorers.removal, scorers.sensitivity(0.01)])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_exact_loss_change_equals_a_forward_pass_a_weight(activation, batch_norm, delta):
    net, batch = small(activation, batch_norm)
    every = [name for name, _ in net.named_parameters()]  # the whole network, biases too
    scores = scorers.loss_change(net, batch, every, delta=delta)
    for name in every:
        slow = scorers.loss_change_slow(net, batch, name, delta) / len(batch.y)
        torch.testing.assert_close(scores[name], slow, rtol=0, atol=1e-12)


def test_exact_loss_change_of_a_weight_that_is_used_twice():
    layer = nn.Linear(3, 3)
    net = make_net(layer, nn.Tanh(), layer, nn.Linear(3, 2))
    batch = make_batch(4, (3,), 2)
    with pytest.warns(UserWarning, match=r"0\.weight: 9 forward passes"):
        score = scorers.loss_change(net, batch, ["0.weight"])["0.weight"]
    slow = scorers.loss_change_slow(net, batch, "0.weight") / 4
    torch.testing.assert_close(score, slow, rtol=0, atol=1e-12)


def quadratic(n=4):
    """L(w) = mean of (w·x - y)² is its own second-order expansion: H = 2 mean x xᵀ."""
    net = make_net(nn.Linear(n, 1, bias=False))
    x, y = make_batch(6, (n,), 1).x, torch.arange(6.0, dtype=torch.float64)
    return net, Batch(x, y), lambda out, y: (out[:, 0] - y) ** 2, 2 * x.T @ x / len(x)


@pytest.mark.parametrize("delta", [scorers.removal, scorers.sensitivity(0.3)])
def test_second_order_scores_of_a_quadratic_loss(delta):
    net, batch, loss, h = quadratic()
    names = ["0.weight"]

    def score(scorer, **more):
        return scorer(net, batch, names, delta=delta, loss=loss, **more)["0.weight"][0]

    w = net[0].weight.detach()[0]
    dw, g = delta(w), 2 * ((batch.x @ w - batch.y)[:, None] * batch.x).mean(0)
    torch.testing.assert_close(score(scorers.taylor1), dw * g)
    torch.testing.assert_close(score(scorers.hessian), dw * (h @ dw))
    torch.testing.assert_close(score(scorers.taylor2, lam=1.0), dw * (g + h @ dw))
    torch.testing.assert_close(score(scorers.diagonal, lam=1.0), dw * (g + h.diag() * dw))
    # alone, a weight's second-order expansion is exact; together, the scores add up to the joint change
    torch.testing.assert_close(score(scorers.diagonal), score(scorers.loss_change))
    joint = (loss(batch.x @ (w + dw)[:, None], batch.y) - loss(batch.x @ w[:, None], batch.y)).mean()
    torch.testing.assert_close(score(scorers.taylor2).sum(), joint)
    torch.testing.assert_close(score(scorers.SCORERS["taylor2_abs"]), score(scorers.taylor2).abs())


@pytest.mark.parametrize("scorer", [name for name in scorers.SCORERS if name != "random"])
def test_streams_over_batches(scorer):
    net, batch = small()
    whole = scorers.SCORERS[scorer](net, batch, NAMES)
    parts = [Batch(batch.x[i : i + 3], batch.y[i : i + 3]) for i in range(0, 7, 3)]
    for name, score in scorers.SCORERS[scorer](net, iter(parts), NAMES).items():
        torch.testing.assert_close(score, whole[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("scorer", scorers.SCORERS)
def test_leaves_the_network_as_it_was(scorer):
    net, batch = small(batch_norm=True)
    net.fc1.weight.grad = torch.ones_like(net.fc1.weight)
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    with torch.no_grad():  # scores do not depend on the caller's mode
        scores = scorers.SCORERS[scorer](net, batch, NAMES, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), random)
    for name, score in scores.items():
        assert score.shape == net.get_parameter(name).shape
        assert not score.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net.fc1.weight.grad, torch.ones_like(net.fc1.weight))
    assert net.conv1.weight.grad is None
    assert not net.training


def test_slow_way_restores_the_weight_when_the_loss_raises():
    net, batch = small()
    before = net.fc2.bias.detach().clone()
    calls = []

    def failing(out, y):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no")
        return scorers.sample_losses(out, y)

    with pytest.raises(RuntimeError, match="no"):
        scorers.loss_change(net, batch, ["fc2.bias"], loss=failing)
    assert torch.equal(net.fc2.bias, before)


def test_magnitude_and_random():
    net, batch = small()
    scores = scorers.magnitude(net, batch, NAMES)
    assert torch.equal(scores["fc1.weight"], net.fc1.weight.abs())
    draw = [
        scorers.random(net, batch, NAMES, generator=torch.Generator().manual_seed(5))["fc1.weight"]
        for _ in range(2)
    ]
    assert torch.equal(*draw)
    assert 0 <= draw[0].min() < draw[0].max() < 1
    with pytest.raises(ValueError, match="need a generator"):
        scorers.random(net, batch, NAMES)


@pytest.mark.parametrize("names", [["conv9.weight"], "conv1.weight"])
@pytest.mark.parametrize("scorer", scorers.SCORERS)
def test_unknown_names_are_named(scorer, names):
    net, batch = small()
    with pytest.raises(ValueError, match=r"among: conv1.weight, conv1.bias"):
        scorers.SCORERS[scorer](net, batch, names, generator=torch.Generator())


def test_no_images_and_one_image():
    net, batch = small()
    for nothing in ([], Batch(batch.x[:0], batch.y[:0])):
        with pytest.raises(ValueError, match="no images"):
            scorers.loss_change(net, nothing, ["conv1.weight"])
    one = Batch(batch.x[:1], batch.y[:1])
    fast = scorers.loss_change(net, one, ["conv1.weight"])["conv1.weight"]
    torch.testing.assert_close(fast, scorers.loss_change_slow(net, one, "conv1.weight"), rtol=0, atol=1e-12)


def test_train_mode_dropout_is_refused():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"Dropout.*net.eval\(\)"):
        scorers.taylor1(net, make_batch(2, (2,), 2), ["0.weight"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_same_scores_on_a_gpu():
    net, batch = small()
    gpu = Batch(batch.x.cuda(), batch.y.cuda())
    for scorer in set(scorers.SCORERS) - {"random"}:
        here = scorers.SCORERS[scorer](net, batch, NAMES)
        there = scorers.SCORERS[scorer](copy.deepcopy(net).cuda(), gpu, NAMES)
        for name in NAMES:
            torch.testing.assert_close(there[name].cpu(), here[name], rtol=0, atol=1e-10)
