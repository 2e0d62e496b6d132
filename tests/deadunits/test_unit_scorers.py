"""Units: closed forms, the fast way against a forward pass a unit, MRS against its definition in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from deadunits import data, mean_replacement, models, unit_scorers
from deadunits.batches import sample_losses
from deadunits.data import Batch
from deadunits.mean_replacement import MeanReplacement, mean_replacement_penalty, observe, replaced
from toys import linear, make_batch, make_net, small

LAYERS = ["conv1", "conv2", "fc1"]


def outputs(net, batch, layer):
    """What a layer gives, and the gradient of each image's loss there, by plain means."""
    names = list(net._modules)
    head, tail = net[: names.index(layer) + 1], net[names.index(layer) + 1 :]
    h = copy.deepcopy(head)(batch.x).detach().requires_grad_()
    (g,) = torch.autograd.grad(sample_losses(copy.deepcopy(tail)(h.clone()), batch.y).sum(), h)
    h, g = (one if one.dim() == 4 else one[:, :, None, None] for one in (h.detach(), g))
    return h.flatten(2), g.flatten(2)  # (N, units, positions)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_statistics_are_those_of_the_definition(activation, batch_norm):
    net, batch = small(activation, batch_norm)
    layers = [*LAYERS, "act2", *(["bn1"] if batch_norm else [])]
    for layer, units in observe(net, batch, layers).items():
        h, g = outputs(net, batch, layer)
        torch.testing.assert_close(units.mean, h.mean((0, 2)), rtol=0, atol=1e-12)
        torch.testing.assert_close(units.variance, h.var((0, 2), correction=0), rtol=0, atol=1e-12)
        mrs = ((units.mean[:, None] - h) * g).sum(2).abs().mean(0)
        torch.testing.assert_close(units.mrs, mrs, rtol=0, atol=1e-12)
        torch.testing.assert_close(units.gradient, g.norm(dim=2).mean(0), rtol=0, atol=1e-12)
    (units,) = observe(net, batch, ["conv1"], absolute="element").values()
    h, g = outputs(net, batch, "conv1")
    torch.testing.assert_close(
        units.mrs, ((units.mean[:, None] - h) * g).abs().sum(2).mean(0), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("constant", ["mean", "median", "zero", "own"])
def test_penalty_is_that_of_a_forward_pass_a_unit(constant):
    net, batch = small("tanh", batch_norm=True)
    h, _ = outputs(net, batch, "conv2")
    values = h.movedim(1, 0).flatten(1)  # (units, values)
    c = {
        "mean": values.mean(1),
        "median": values.median(1).values,
        "zero": torch.zeros(3, dtype=torch.float64),
        "own": torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64),
    }[constant]
    given = {"conv2": c} if constant == "own" else constant
    found = mean_replacement_penalty(net, batch, ["conv2"], constant=given)["conv2"]
    signed = mean_replacement_penalty(net, batch, ["conv2"], constant=given, absolute=False)["conv2"]
    before = sample_losses(net(batch.x), batch.y)
    for unit in range(3):
        with replaced(net, {"conv2": {unit: float(c[unit])}}):
            change = sample_losses(net(batch.x), batch.y) - before
        assert found[unit].item() == pytest.approx(change.abs().mean().item(), abs=1e-12)
        assert signed[unit].item() == pytest.approx(change.mean().item(), abs=1e-12)


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = linear(3, 4), linear(4, 2)

    def forward(self, x):
        h = self.first(x)
        return self.second(torch.relu_(h) + 0.5 * h)


def test_any_module_and_modules_that_run_twice():
    net = make_net(Skip())
    batch = make_batch(6, (3,), 2)
    with pytest.warns(
        UserWarning, match=r"0\.first: 4 forward passes a batch.*changed in place and used again"
    ):
        exact = mean_replacement_penalty(net, batch, ["0.first"])["0.first"]
    mean = observe(net, batch, ["0.first"])["0.first"].mean
    torch.testing.assert_close(mean, net[0].first(batch.x).mean(0).detach(), rtol=0, atol=1e-12)
    before = sample_losses(net(batch.x), batch.y)
    with replaced(net, {"0.first": {1: float(mean[1])}}):
        change = (sample_losses(net(batch.x), batch.y) - before).abs().mean()
    assert exact[1].item() == pytest.approx(change.item(), abs=1e-12)
    layer = linear(3, 3)
    twice = make_net(layer, nn.ReLU(inplace=True), layer)
    units = observe(twice, batch, ["0"])["0"]
    h1 = layer(batch.x).detach()
    h2 = layer(h1.relu()).detach()
    torch.testing.assert_close(units.mean, torch.cat([h1, h2]).mean(0), rtol=0, atol=1e-12)


def test_a_linear_loss_makes_the_estimate_exact():
    """ℓ = v·h: replacing h_i by its mean changes ℓ_n by v_i (c_i - h_ni), which is MRS's first order."""
    net, batch = make_net(linear(3, 2), linear(2, 1, bias=False)), make_batch(9, (3,), 1)

    def first(out, y):
        return out[:, 0]

    found = {
        name: score(net, batch, ["0"], loss=first)["0"]
        for name, score in unit_scorers.UNIT_SCORERS.items()
        if name in ("mrp", "mrs")
    }
    h, v = net[0](batch.x).detach(), net[1].weight.detach()[0]
    expected = (v * (h.mean(0) - h)).abs().mean(0)
    torch.testing.assert_close(found["mrs"], expected)
    torch.testing.assert_close(found["mrp"], expected)
    torch.testing.assert_close(unit_scorers.taylor(net, batch, ["0"], loss=first)["0"], (v * h).abs().mean(0))


@pytest.mark.parametrize("scorer", unit_scorers.UNIT_SCORERS)
def test_streams_over_batches_and_leaves_the_network_as_it_was(scorer):
    net, batch = small(batch_norm=True)
    net.conv1.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    parts = [Batch(batch.x[i : i + 3], batch.y[i : i + 3]) for i in range(0, 7, 3)]

    def score(batches):
        generator = torch.Generator().manual_seed(1)
        return unit_scorers.UNIT_SCORERS[scorer](net, batches, LAYERS, generator=generator)

    random = torch.get_rng_state()
    whole = score(batch)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        for layer, one in score(iter(parts)).items():
            assert one.shape == (len(net.get_submodule(layer).weight),)
            torch.testing.assert_close(one, whole[layer], rtol=0, atol=1e-13)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 7
    assert not any(module._forward_hooks for module in net.modules())


def test_hooks_are_gone_after_an_error_and_blocks_nest():
    net, batch = small()

    def fail():
        with MeanReplacement(net, ["conv1"]) as units:
            units.observe(batch)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(module._forward_hooks for module in net.modules())
    with MeanReplacement(net, ["conv1"]) as outer, MeanReplacement(net, ["conv1"]) as inner:
        inner.observe(batch)
        outer.observe(batch)
        twin = copy.deepcopy(net)
    torch.testing.assert_close(outer.seen()["conv1"].mrs, inner.seen()["conv1"].mrs)
    assert torch.equal(twin(batch.x), net(batch.x))


def test_bad_input_is_named():
    net, batch = small(batch_norm=True)
    with pytest.raises(ValueError, match="no module 'conv9'; there are: conv1"):
        MeanReplacement(net, ["conv9"])
    with pytest.raises(ValueError, match="one of mean, median, zero"):
        MeanReplacement(net, ["conv1"], constant="max")
    with pytest.raises(ValueError, match="one of sample, element"):
        MeanReplacement(net, ["conv1"], absolute="total")
    with pytest.raises(ValueError, match=r"net.eval\(\)"):
        observe(net.train(), batch, ["conv1"])
    with pytest.raises(ValueError, match="did not run: use MeanReplacement as a `with` block"):
        MeanReplacement(net.eval(), ["conv1"]).observe(batch)
    with pytest.raises(ValueError, match="no images"):
        observe(net, [], ["conv1"])
    with pytest.raises(ValueError, match="no linear or convolutional layer 'pool1'"):
        unit_scorers.norm_l1(net, batch, ["pool1"])


def test_the_size_of_activations_and_the_squared_taylor_score():
    net, batch = small("tanh", batch_norm=True)
    found = unit_scorers.mean_activation(net, batch, LAYERS)
    for layer, act in zip(LAYERS, ("act1", "act2", "act3"), strict=True):
        sizes = net[: list(net._modules).index(act) + 1](batch.x).detach().abs()
        mean = sizes.movedim(1, 0).flatten(1).mean(1)
        torch.testing.assert_close(found[layer], mean / mean.mean(), rtol=0, atol=1e-12)
    by_name = unit_scorers.mean_activation(net, batch, ["act2"])["act2"]
    assert torch.equal(by_name, found["conv2"])
    # by Euler: Σ_p h_p ∂L/∂h_p is Σ_k w_k ∂L/∂w_k over a filter's weights and its bias
    loss = sample_losses(net(batch.x), batch.y).mean()
    weight, bias = net.conv2.weight, net.conv2.bias
    by_weight, by_bias = torch.autograd.grad(loss, [weight, bias])
    expected = ((weight * by_weight).flatten(1).sum(1) + bias * by_bias).square().detach()
    squared = unit_scorers.taylor_squared(net, batch, ["conv2"])["conv2"]
    torch.testing.assert_close(squared, expected, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="no nonlinearity is known behind 'fc2'"):
        unit_scorers.mean_activation(net, batch, ["fc2"])


def test_dead_and_frozen_are_different_things():
    """One unit of each kind: as the others, dead and not frozen, frozen and not dead, both."""
    net, batch = make_net(linear(3, 4), nn.Hardtanh(-1, 1), linear(4, 2)), make_batch(50, (3,), 2)
    first, last = net[0], net[2]
    with torch.no_grad():
        first.weight[:] = torch.tensor([1.0, 2.0, 3.0])
        first.bias.zero_()
        last.weight[:] = torch.tensor([[1.0], [-1.0]])
        first.weight[1] *= 1e-4  # hardly moves, but what it sends matters: dead, gets a gradient
        first.weight[2] *= 1e6  # always at one of the two flat ends, whose mean is far from both
        last.weight[:, 3] = 0  # nobody listens: dead and frozen
    dead, frozen = (
        of(net, batch, ["0"])["0"].tolist() for of in (mean_replacement.dead, mean_replacement.frozen)
    )
    assert dead == [False, True, False, True]
    assert frozen == [False, False, True, True]
    with pytest.raises(ValueError, match="a share of the layer's mean"):
        mean_replacement.dead(net, batch, ["0"], below=5)


class InPlace(nn.Module):
    """Changes what its first layer gives, in place and without a module that says so."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = linear(3, 4), linear(4, 4), linear(4, 2)

    def forward(self, x):
        return self.last(self.second(self.first(x).mul_(2)).relu_())


def test_what_is_changed_in_place_is_kept_as_it_was():
    net, batch = make_net(InPlace()), make_batch(9, (3,), 2)
    found = observe(net, batch, ["0.first", "0.second"])
    h1 = net[0].first(batch.x).detach().requires_grad_()
    h2 = net[0].second(h1 * 2)
    losses = sample_losses(net[0].last(h2.relu()), batch.y)
    for h, g, units in zip(
        (h1, h2), torch.autograd.grad(losses.sum(), (h1, h2)), found.values(), strict=True
    ):
        expected = ((h.mean(0) - h) * g).abs().mean(0).detach()
        torch.testing.assert_close(units.mrs, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(units.mean, h.mean(0).detach(), rtol=0, atol=1e-12)


def test_an_error_half_way_leaves_no_half_of_a_batch_behind(monkeypatch):
    net, batch = small()
    monkeypatch.setattr(mean_replacement, "_CHUNK", 3)
    calls = []

    def breaks(out, y):
        calls.append(len(y))
        if len(calls) == 2:
            raise KeyError
        return sample_losses(out, y)

    with MeanReplacement(net, ["conv1"]) as units:
        with pytest.raises(KeyError):
            units.observe(batch, breaks)
        units.observe(batch)
    assert calls == [3, 3]
    whole = observe(net, batch, ["conv1"])["conv1"]
    torch.testing.assert_close(units.seen()["conv1"].mrs, whole.mrs, rtol=0, atol=1e-14)
    assert all(p.requires_grad for p in net.parameters())


def test_a_network_of_one_unit_and_one_image():
    net, batch = make_net(linear(2, 1), nn.Tanh(), linear(1, 2)), make_batch(1, (2,), 2)
    assert mean_replacement_penalty(net, batch, ["0"])["0"].tolist() == pytest.approx([0], abs=1e-15)
    assert observe(net, batch, ["0"])["0"].mrs.tolist() == pytest.approx([0], abs=1e-15)
    nothing = Batch(batch.x[:0], batch.y[:0])
    with pytest.raises(ValueError, match="no images"):
        mean_replacement_penalty(net, nothing, ["0"])


@pytest.mark.parametrize("inplace", [False, True])
def test_the_loss_of_the_observed_images_comes_along(inplace):
    net = make_net(linear(4, 3), nn.ReLU(inplace), linear(3, 2))
    batch = make_batch(7, (4,), 2)
    with MeanReplacement(net, ["0"]) as units:
        assert math.isnan(units.loss)
        for part in (slice(5), slice(5, 7)):
            units.observe(type(batch)(batch.x[part], batch.y[part]))
    assert units.loss == pytest.approx(nn.functional.cross_entropy(net(batch.x), batch.y).item(), rel=1e-12)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_dead_unit_costs_exactly_nothing(layer, batch_norm):
    """Not what another order of summation makes of it: a count of dead units asks for 0."""
    images = data.digits(probe_size=30)
    net = models.small_cnn(images.shape, batch_norm=batch_norm, seed=0).eval()
    with torch.no_grad():
        net.get_submodule(layer).bias[2] = -1e3
    mrp = unit_scorers.mrp(net, images.probe, [layer])[layer]
    assert mrp[2] == 0
    assert (mrp != 0).sum() > len(mrp) / 2
