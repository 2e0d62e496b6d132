"""Networks with branches: the traced way against a forward pass a unit or a weight, in float64."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deadunits import batches, data, graph, mean_replacement, scorers, training, unit_scorers
from deadunits.batches import sample_losses
from deadunits.data import Batch
from deadunits.incremental import Incremental, Snapshot, coverage
from deadunits.mean_replacement import observe, replaced
from networks import NETWORKS, Wide
from residual_net import eight_layers
from toys import make_batch, make_net


def build(name):
    net, shape, ways = NETWORKS[name]()
    return net, make_batch(5, shape, 3), ways


def penalties(net, batch, layer, loss=sample_losses):
    """MRP by a forward pass a unit."""
    c = observe(net, batch, [layer], loss=loss)[layer].mean
    before = loss(net(batch.x), batch.y)
    rows = []
    for unit, value in enumerate(c.tolist()):
        with replaced(net, {layer: {unit: value}}), torch.no_grad():
            rows.append((loss(net(batch.x), batch.y) - before).abs().mean())
    return torch.stack(rows).detach()


@pytest.mark.parametrize("name", NETWORKS)
def test_penalties_are_those_of_forward_passes(name):
    net, batch, ways = build(name)
    found = coverage(net, batch.x)
    assert {layer: found[layer] for layer in ways} == ways
    exact = unit_scorers.mrp(net, batch, list(ways))
    for layer in ways:
        torch.testing.assert_close(exact[layer], penalties(net, batch, layer), rtol=0, atol=1e-10)
        assert exact[layer].max() > 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_changes_are_those_of_a_forward_pass_a_weight(name):
    net, batch, ways = build(name)
    names = [f"{layer}.{kind}" for layer in ways for kind in ("weight", "bias")]
    names = [one for one in names if one in dict(net.named_parameters())]
    exact = scorers.loss_change(
        net, [Batch(batch.x[:3], batch.y[:3]), Batch(batch.x[3:], batch.y[3:])], names
    )
    for one in names:
        slow = scorers.loss_change_slow(net, batch, one) / 5
        torch.testing.assert_close(exact[one], slow, rtol=0, atol=1e-10)


@settings(max_examples=40)
@given(
    images=st.integers(1, 5),
    k=st.integers(0, 5),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    units=st.integers(1, 3),
    step=st.integers(1, 3),
)
def test_any_values_before_any_convolution(images, k, size, stride, padding, units, step):
    convolutions = nn.Conv2d(1, units, 2), nn.Conv2d(units, 2, size, stride, padding)
    net, batch = (
        make_net(convolutions[0], nn.ReLU(), convolutions[1], nn.Flatten()),
        make_batch(images, (1, 6, 5), 2),
    )
    way = Incremental(Snapshot(graph.trace(net, batch.x), batch, sample_losses), "0")
    way.step = step  # candidates at a time: no matter
    noise = torch.randn(k, images, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    chosen = torch.arange(k) % units
    fast = way.losses(chosen, noise)
    assert fast.shape == (k, images)
    for unit, candidate, losses in zip(chosen, noise, fast, strict=True):
        h = net[0](batch.x).detach()
        h[:, unit] = candidate
        torch.testing.assert_close(losses, sample_losses(net[1:](h), batch.y).detach(), rtol=0, atol=1e-12)


def test_sample_losses_is_cross_entropy():
    batch = make_batch(50, (10,), 10)
    expected = F.cross_entropy(batch.x * 30, batch.y, reduction="none")
    torch.testing.assert_close(sample_losses(batch.x * 30, batch.y), expected)


def test_stacks_and_portions_of_any_size(monkeypatch):
    net, batch = make_net(eight_layers((1, 12, 12), 3, width=4)), make_batch(3, (1, 12, 12), 3)
    layers = ["0.blocks.1.shortcut.0", "0.blocks.2.conv2"]
    slow = {layer: penalties(net, batch, layer) for layer in layers}
    for floats in (1, 1 << 10, 1 << 22):
        monkeypatch.setattr("deadunits.incremental.FLOATS", floats)
        monkeypatch.setattr("deadunits.incremental.KEPT", floats * 100)
        for layer, exact in unit_scorers.mrp(net, batch, layers).items():
            torch.testing.assert_close(exact, slow[layer], rtol=0, atol=1e-10)


def test_tracing_leaves_the_module_untouched():
    class Stores(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, mask=None, scale=2.0):
            self.seen = x
            h = self.first(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
            return self.second(h if mask is None else h * mask) * scale

    net = make_net(Stores())[0]
    net.first.weight.grad = torch.ones_like(net.first.weight)
    batch = make_batch(4, (3,), 2)
    names, state = [set(vars(module)) for module in net.modules()], copy.deepcopy(net.state_dict())
    assert coverage(net, batch.x) == {"first": "fast", "second": "fast"}
    assert not hasattr(net, "seen") or isinstance(net.seen, torch.Tensor)
    net.__dict__.pop("seen", None)
    assert names == [set(vars(module)) for module in net.modules()]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(net.first.weight.grad, torch.ones(4, 3).double())
    assert not net.training
    masked = Batch((batch.x, torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).double()), batch.y)
    by_name = Batch({"x": masked.x[0], "mask": masked.x[1]}, batch.y)
    exact = unit_scorers.mrp(net, masked, ["first"])["first"]
    torch.testing.assert_close(unit_scorers.mrp(net, by_name, ["first"])["first"], exact)
    expected = penalties(Called(net, masked.x[1]), batch, "net.first")
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-12)


class Called(nn.Module):
    def __init__(self, net, mask):
        super().__init__()
        self.net, self.mask = net, mask

    def forward(self, x):
        return self.net(x, self.mask)


class Branching(nn.Module):
    """What `torch.fx` cannot trace."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.first(x)
        return self.second(h if h.sum() > 0 else -h)


def test_what_cannot_be_traced_takes_a_pass_a_unit_and_says_how_many():
    net = Branching().double().eval()
    batch = make_batch(5, (3,), 2)
    with pytest.warns(
        UserWarning, match=r"first: 4 forward passes a batch, one a unit, because of .*TraceError"
    ):
        exact = unit_scorers.mrp(net, batch, ["first"])["first"]
    torch.testing.assert_close(exact, penalties(net, batch, "first"), rtol=0, atol=1e-12)


def test_images_that_see_each_other_take_the_slow_way():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.first(x)
            return self.second((h - h.mean(0)).tanh() + h.sum(0).cos())

    net = Centred().double().eval()
    batch = make_batch(5, (3,), 2)
    with pytest.warns(UserWarning, match="4 forward passes"):
        exact = unit_scorers.mrp(net, batch, ["first"])["first"]
    torch.testing.assert_close(exact, penalties(net, batch, "first"), rtol=0, atol=1e-12)


def test_hooks_of_the_user_are_respected():
    net, batch, _ = build("residual")
    net[1].b.register_forward_hook(lambda module, inputs, h: 2 * h)
    net[1].side.register_forward_pre_hook(lambda module, inputs: (inputs[0].sin(),))
    chain = make_net(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    chain[1].register_forward_hook(lambda module, inputs, h: h.flip(1))
    cases = [(net, batch, ["0", "1.a", "1.b"]), (chain, make_batch(5, (4,), 3), ["0"])]
    for hooked, images, layers in cases:
        for layer, exact in unit_scorers.mrp(hooked, images, layers).items():
            torch.testing.assert_close(exact, penalties(hooked, images, layer), rtol=0, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = scorers.loss_change(chain, cases[1][1], ["0.weight"])["0.weight"]
    slow = scorers.loss_change_slow(chain, cases[1][1], "0.weight") / 5
    torch.testing.assert_close(exact, slow, rtol=0, atol=1e-12)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Flipped(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.flip(1))


@pytest.mark.parametrize("kind", ["linear", "convolution", "parametrized"])
def test_subclasses_and_parametrizations_are_what_they_do(kind):
    if kind == "convolution":
        net = make_net(nn.Conv2d(1, 3, 3), nn.ReLU(), Flipped(3, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    else:
        second = Doubling(5, 4) if kind == "linear" else nn.Linear(5, 4)
        net = make_net(nn.Linear(4, 5), nn.ReLU(), second, nn.ReLU(), nn.Linear(4, 3))
    if kind == "parametrized":
        nn.utils.parametrizations.weight_norm(net[2])
    batch = make_batch(5, (1, 8, 8) if kind == "convolution" else (4,), 3)
    for layer in ("0", "2"):
        exact = unit_scorers.mrp(net, batch, [layer])[layer]
        torch.testing.assert_close(exact, penalties(net, batch, layer), rtol=0, atol=1e-12)


def test_units_of_a_linear_layer_on_tokens_are_its_last_dimension():
    chain = make_net(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Flatten(), nn.Linear(10, 3))
    batch = make_batch(5, (5, 4), 3)  # as many tokens as units
    seen = observe(chain, batch, ["0"])["0"]
    h = chain[0](batch.x).detach().requires_grad_()
    (g,) = torch.autograd.grad(sample_losses(chain[1:](h), batch.y).sum(), h)
    h, c = h.detach(), h.detach().mean((0, 1))
    torch.testing.assert_close(seen.mean, c)
    torch.testing.assert_close(seen.mrs, ((c - h) * g).sum(1).abs().mean(0))
    before, expected = sample_losses(chain(batch.x), batch.y), []
    for unit in range(5):
        put = h.clone()
        put[:, :, unit] = c[unit]
        expected.append((sample_losses(chain[1:](put), batch.y) - before).abs().mean())
    exact = unit_scorers.mrp(chain, batch, ["0"])["0"]
    torch.testing.assert_close(exact, torch.stack(expected).detach(), rtol=0, atol=1e-12)
    sizes = unit_scorers.mean_activation(chain, batch, ["0"])["0"]
    torch.testing.assert_close(sizes, h.relu().mean((0, 1)) / h.relu().mean())
    score = scorers.loss_change(chain, batch, ["0.weight"])["0.weight"]
    slow = scorers.loss_change_slow(chain, batch, "0.weight") / 5
    torch.testing.assert_close(score, slow, rtol=0, atol=1e-12)
    for score in ("mrp", "mrs", "mean_activation"):
        with pytest.raises(ValueError, match="'0' gives tokens, so that the units of 1 cannot be told"):
            unit_scorers.UNIT_SCORERS[score](chain, batch, ["1"])


def test_units_of_a_nonlinearity_on_a_map_of_tokens_cannot_be_told():
    class Permuted(nn.Sequential):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).mean((1, 2))  # (N, H, W, channels) inside

    net, batch = make_net(Permuted(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 3))), make_batch(4, (2, 4, 4), 3)
    with pytest.raises(ValueError, match=r"'0\.0' gives tokens, so that the units of 0\.1 cannot"):
        observe(net, batch, ["0.1"])


@pytest.mark.parametrize("dims", [1, 2])
def test_units_of_a_nonlinearity_behind_a_convolution_are_its_channels(dims):
    conv, size = (nn.Conv1d, nn.Conv2d)[dims - 1], (5,) * dims
    net = make_net(conv(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 3**dims, 4))
    batch = make_batch(6, (2, *size), 4)
    exact = unit_scorers.mrp(net, batch, ["1"])["1"]
    h = net[:2](batch.x).detach()
    before, expected = sample_losses(net(batch.x), batch.y), []
    for unit in range(3):
        put = h.clone()
        put[:, unit] = h[:, unit].mean()
        expected.append((sample_losses(net[2:](put), batch.y) - before).abs().mean())
    torch.testing.assert_close(exact, torch.stack(expected).detach(), rtol=0, atol=1e-12)
    assert unit_scorers.mrs(net, batch, ["1"])["1"].shape == (3,)


def test_images_may_stand_in_another_dimension():
    class Sequence(nn.Module):
        """Tokens first, as in `nn.MultiheadAttention` without `batch_first`."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.second(torch.tanh(self.first(x.transpose(0, 1)))).mean(0)

    net = Sequence().double().eval()
    batch = make_batch(5, (5, 4), 3)
    assert coverage(net, batch.x) == {"first": "fast", "second": "fast"}
    exact = unit_scorers.mrp(net, batch, ["first"])["first"]
    torch.testing.assert_close(exact, penalties(net, batch, "first"), rtol=0, atol=1e-12)
    h = net.first(batch.x).detach().requires_grad_()
    (g,) = torch.autograd.grad(sample_losses(net.second(h.tanh()).mean(1), batch.y).sum(), h)
    mrs = ((h.mean((0, 1)) - h) * g).sum(1).abs().mean(0).detach()
    torch.testing.assert_close(observe(net, batch, ["first"])["first"].mrs, mrs)


def test_compiled_networks_are_refused_with_the_way_out():
    chain = make_net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    batch = make_batch(4, (3,), 2)
    compiled = torch.compile(chain, backend="eager")
    scores = {unit_scorers.mrp: "0", unit_scorers.mrs: "0", unit_scorers.mean_activation: "1"}
    for score, layer in scores.items():
        with pytest.raises(ValueError, match=r"do not run in a compiled network.*net\._orig_mod"):
            score(compiled, batch, [f"_orig_mod.{layer}"])
    inner = make_net(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2))
    inner[0].compile(backend="eager")
    with pytest.raises(ValueError, match=r"'0\.0' do not run"), replaced(inner, {"0.0": {1: 0.0}}):
        pass


def test_a_layer_that_does_not_run_is_named():
    net, batch, _ = build("tokens")
    for score in (unit_scorers.mrp, unit_scorers.mrs):
        with pytest.raises(ValueError, match=r"0\.attention\.out_proj did not run"):
            score(net, batch, ["0.attention.out_proj"])
    with pytest.raises(ValueError, match="did not run"), replaced(net, {"0.attention.out_proj": {0: 0.0}}):
        net(batch.x)


@pytest.mark.parametrize("score", ["mrp", "mrs", "taylor", "loss_change", "taylor1", "taylor2", "diagonal"])
def test_a_loss_that_is_a_mean_is_named(score):
    net, batch = make_net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), make_batch(4, (3,), 2)
    known = unit_scorers.UNIT_SCORERS | scorers.SCORERS
    name = "0" if score in unit_scorers.UNIT_SCORERS else "0.weight"
    with pytest.raises(ValueError, match=r"the loss of each sample, \(4,\), got \(\).*reduction='none'"):
        known[score](net, batch, [name], loss=F.cross_entropy)


def test_targets_of_any_shape():
    net = make_net(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    images = make_batch(5, (1, 6, 6), 3)
    maps = Batch(images.x, (images.x[:, 0] > 0).long())
    with pytest.raises(
        ValueError, match=r"default loss takes outputs \(N, classes\).*\(5, 3, 6, 6\) and \(5, 6, 6\)"
    ):
        unit_scorers.mrp(net, maps, ["0"])

    def by_pixel(outputs, y):
        return F.cross_entropy(outputs, y, reduction="none")

    with pytest.raises(ValueError, match=r"got \(5, 6, 6\): take the mean of each sample"):
        unit_scorers.mrp(net, maps, ["0"], loss=by_pixel)

    def mean_pixel(outputs, y):
        return by_pixel(outputs, y).flatten(1).mean(1)

    flat = make_net(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 3))
    soft = Batch(images.x, torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).double().softmax(1))
    cases = [(net, maps, "0", mean_pixel), (flat, soft, "1", by_pixel)]
    cases += [(nn.ModuleList([net])[0], maps, "2", mean_pixel)]
    for model, batch, layer, loss in cases:
        exact = unit_scorers.mrp(model, batch, [layer], loss=loss)[layer]
        torch.testing.assert_close(exact, penalties(model, batch, layer, loss), rtol=0, atol=1e-12)
        score = scorers.loss_change(model, batch, [f"{layer}.weight"], loss=loss)[f"{layer}.weight"]
        slow = scorers.loss_change_slow(model, batch, f"{layer}.weight", loss=loss) / 5
        torch.testing.assert_close(score, slow, rtol=0, atol=1e-12)


def test_pairs_and_loaders_are_batches():
    net, batch = make_net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), make_batch(10, (3,), 2)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), 4, shuffle=True)
    for score, at in ((unit_scorers.mrp, "0"), (unit_scorers.mrs, "0"), (scorers.taylor1, "0.weight")):
        whole = score(net, batch, [at])[at]
        for form in (tuple(batch), list(batch), [tuple(batch)], loader):
            torch.testing.assert_close(score(net, form, [at])[at], whole, rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match=r"a batch must be a pair \(x, y\).*got Tensor"):
        unit_scorers.mrs(net, batch.x, ["0"])
    with pytest.raises(ValueError, match=r"x and y must have one length, got \(10, 3\) and \(9,\)"):
        unit_scorers.mrs(net, (batch.x, batch.y[1:]), ["0"])


def test_types_are_named_with_both_sides_and_half_precision_warns():
    net, batch = make_net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), make_batch(4, (3,), 2)
    for score, at in ((unit_scorers.mrp, "0"), (unit_scorers.mrs, "0"), (scorers.loss_change, "0.weight")):
        with pytest.raises(
            ValueError, match=r"images are torch\.float32, the network's weights torch\.float64"
        ):
            score(net, Batch(batch.x.float(), batch.y), [at])
    half = copy.deepcopy(net).bfloat16()
    for score, at in ((unit_scorers.mrp, "0"), (scorers.loss_change, "0.weight")):
        with pytest.warns(UserWarning, match=r"in torch\.bfloat16: differences of losses drown"):
            score(half, Batch(batch.x.bfloat16(), batch.y), [at])
        with torch.autocast("cpu"), pytest.warns(UserWarning, match="in autocast: differences"):
            score(net.float(), Batch(batch.x.float(), batch.y), [at])
        net.double()


def test_a_snapshot_serves_all_layers_and_knows_the_images():
    net, batch, _ = build("residual")
    traced = graph.trace(net, batch.x)
    snapshot = Snapshot(traced, batch, sample_losses)
    torch.testing.assert_close(snapshot.baseline, sample_losses(net(batch.x), batch.y).detach())
    way = Incremental(snapshot, "1.a")
    same = way.losses(torch.tensor([2, 2]), way.h[:, 2].expand(2, -1, -1, -1))
    torch.testing.assert_close(same, snapshot.baseline.expand(2, -1), rtol=0, atol=1e-13)
    with pytest.raises(graph.Untraceable, match="'1' does not run once"):
        Incremental(snapshot, "1")


def test_helpers_take_tensors_in_any_container():
    x = {"a": torch.ones(2), "b": (torch.zeros(2), 3)}
    assert [tensor.sum().item() for tensor in batches.tensors(x)] == [2, 0]
    assert batches.mapped(lambda tensor: tensor + 1, x)["b"][1] == 3
    assert [len(part.y) for part in batches.split(Batch(x["a"], x["a"]), 1)] == [1, 1]
    assert mean_replacement.unit_axis(nn.Linear(1, 1)) == -1


@pytest.mark.parametrize("name", ["mnasnet0_5", "shufflenet_v2_x0_5"])
def test_builders_of_torchvision_are_covered(name):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torchvision.models.get_model(name, num_classes=4).eval()
    found = coverage(net, make_batch(2, (3, 48, 48), 4).x.float())
    units = {layer: len(net.get_submodule(layer).weight) for layer in found}
    traced = sum(count for layer, count in units.items() if found[layer] in ("fast", "partly"))
    assert traced == sum(units.values())


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    images=st.integers(1, 40),
    units=st.integers(1, 12),
    share=st.floats(0, 1),
    chain=st.booleans(),
    kept=st.sampled_from([1 << 8, 1 << 27]),
    parts=st.sampled_from([1, 4, 16, 64]),
)
def test_the_lowest_are_those_of_all_penalties(seed, images, units, share, chain, kept, parts):
    wide = Wide(3, units, 4)
    net = make_net(*wide.children(), seed=seed) if chain else make_net(wide, seed=seed)
    layer, batch, k = "0" if chain else "0.first", make_batch(images, (3,), 4, seed), round(share * units)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deadunits.incremental.KEPT", kept)
        patch.setattr(mean_replacement, "_PARTS", parts)
        found = mean_replacement.lowest(net, batch, layer, k)
    exact = unit_scorers.mrp(net, batch, [layer])[layer]
    assert found.units.unique().shape == found.units.shape == (k,)
    assert 0 <= found.share <= 1
    torch.testing.assert_close(found.penalties, exact[found.units], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.penalties, exact.sort().values[:k], rtol=1e-9, atol=1e-13)
    ordered = exact.sort().values
    if 0 < k < units and ordered[k] - ordered[k - 1] > 1e-9:
        assert set(found.units.tolist()) == set(exact.argsort()[:k].tolist())


def test_the_lowest_of_a_trained_residual_network_take_less_than_a_third_of_the_losses():
    """Eight layers, trained on the digits; a tenth of the units of each layer of the last stage."""
    net = eight_layers((1, 28, 28), 10)
    images = data.digits(probe_size=200)
    for _ in training.sgd(net, images.train, epochs=8, lr=0.1, batch_size=32, seed=0):
        pass
    net.eval()
    for layer in ("blocks.2.conv1", "blocks.2.conv2"):
        found = mean_replacement.lowest(net, images.train_probe, layer, 3)
        exact = unit_scorers.mrp(net, images.train_probe, [layer])[layer]
        assert set(found.units.tolist()) == set(exact.argsort()[:3].tolist())
        assert found.share <= 0.3


def test_the_number_of_the_lowest_is_checked():
    net, batch, _ = build("residual")
    with pytest.raises(ValueError, match=r"k must be from 0 to the 4 units of 1\.a, got 5"):
        mean_replacement.lowest(net, batch, "1.a", 5)
    assert len(mean_replacement.lowest(net, batch, "1.a", 0).units) == 0
