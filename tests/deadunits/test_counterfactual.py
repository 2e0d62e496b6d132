"""The mechanism behind exact scores against full forward passes, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deadunits.counterfactual import Counterfactual, sample_losses
from toys import make_batch, make_net

CHAINS = {
    "conv, pool, relu, conv": (
        (1, 12, 12),
        "0",
        lambda: [
            nn.Conv2d(1, 3, 3),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 5),
        ],
    ),
    "in-place relu": (
        (1, 12, 12),
        "0",
        lambda: [
            nn.Conv2d(1, 3, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 2, 3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(128, 5),
        ],
    ),
    "batch norm, padding, stride, dilation": (
        (2, 11, 9),
        "0",
        lambda: [
            nn.Conv2d(2, 3, (3, 2), padding=(1, 2), stride=2),
            nn.BatchNorm2d(3, affine=False),
            nn.Tanh(),
            nn.Conv2d(3, 4, (2, 3), padding=1, stride=(1, 2), dilation=(2, 1)),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.LazyLinear(5),
        ],
    ),
    "overlapping pool, then linear": (
        (1, 12, 12),
        "0",
        lambda: [
            nn.Conv2d(1, 3, 3),
            nn.MaxPool2d(3, 2),
            nn.Tanh(),
            nn.Flatten(),
            nn.BatchNorm1d(48),
            nn.Linear(48, 5),
        ],
    ),
    "padded pool": (
        (1, 12, 12),
        "0",
        lambda: [nn.Conv2d(1, 3, 3), nn.MaxPool2d(2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(108, 5)],
    ),
    "second conv": (
        (1, 12, 12),
        "2",
        lambda: [
            nn.Conv2d(1, 3, 3),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 5),
        ],
    ),
    "last linear": ((7,), "2", lambda: [nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5)]),
    "hidden linear": (
        (7,),
        "0",
        lambda: [nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 5)],
    ),
}


def build(name: str):
    shape, layer, layers = CHAINS[name]
    modules = layers()
    nn.Sequential(*modules).eval()(torch.zeros(2, *shape))  # lazy layers take their shape
    return make_net(*modules), make_batch(6, shape, 5), layer


def slow(net, batch, layer, unit, candidates, loss=sample_losses):
    """A full forward pass a candidate, with a hook that puts it in place."""
    rows = []
    for candidate in candidates:

        def replace(module, inputs, output, candidate=candidate):
            output = output.clone()
            output[:, unit] = candidate
            return output

        handle = net.get_submodule(layer).register_forward_hook(replace)
        with torch.no_grad():
            rows.append(loss(net(batch.x), batch.y))
        handle.remove()
    return torch.stack(rows)


@pytest.mark.parametrize("name", CHAINS)
def test_equals_full_forward_passes(name):
    with torch.random.fork_rng():
        net, batch, layer = build(name)
    asked = Counterfactual(net, batch, layer)
    units = asked.h.shape[1]
    for unit in (0, units - 1):
        k = 4
        noise = torch.randn(
            k, *asked.h[:, unit].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        torch.testing.assert_close(
            asked.losses(unit, noise), slow(net, batch, layer, unit, noise), rtol=0, atol=1e-12
        )


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
def test_any_convolution_behind(images, k, size, stride, padding, units, step):
    with torch.random.fork_rng():
        net = make_net(
            nn.Conv2d(1, units, 2), nn.ReLU(), nn.Conv2d(units, 2, size, stride, padding), nn.Flatten()
        )
    batch = make_batch(images, (1, 6, 5), 2)
    asked = Counterfactual(net, batch, "0")
    asked.step = step  # candidates at a time: no matter
    noise = torch.randn(k, images, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    fast = asked.losses(units - 1, noise)
    assert fast.shape == (k, images)
    if k:
        torch.testing.assert_close(fast, slow(net, batch, "0", units - 1, noise), rtol=0, atol=1e-12)


def test_own_pre_activation_changes_nothing():
    with torch.random.fork_rng():
        net, batch, layer = build("conv, pool, relu, conv")
    asked = Counterfactual(net, batch, layer)
    torch.testing.assert_close(asked.losses(1, asked.h[:, 1][None])[0], asked.baseline, rtol=0, atol=1e-14)


def test_closed_form_of_a_linear_net():
    """Logits (h, 0): the cross entropy of label 0 is log(1 + exp(-h))."""
    with torch.random.fork_rng():
        net = make_net(nn.Linear(1, 2))
    batch = make_batch(3, (1,), 1)
    with torch.no_grad():
        net[0].weight.zero_(), net[0].bias.zero_()
    h = torch.tensor([[0.0, 1.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(Counterfactual(net, batch, "0").losses(0, h), torch.log1p(torch.exp(-h)))


def test_sample_losses_is_cross_entropy():
    batch = make_batch(50, (10,), 10)
    expected = F.cross_entropy(batch.x * 30, batch.y, reduction="none")
    torch.testing.assert_close(sample_losses(batch.x * 30, batch.y), expected)


def test_train_mode_batch_norm_is_refused_with_the_way_out():
    with torch.random.fork_rng():
        net, batch, layer = build("hidden linear")
    net.train()
    with pytest.raises(ValueError, match=r"BatchNorm1d.*call net.eval\(\) first"):
        Counterfactual(net, batch, layer)


@pytest.mark.parametrize(
    "behind",
    [nn.Softmax(1), nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False)],
    ids=lambda module: type(module).__name__,
)
def test_unknown_structure_is_not_supported(behind):
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Linear(2, 3), behind, nn.Linear(3, 2)).eval()
    assert not Counterfactual.supports(net, "0")
    with pytest.raises(ValueError, match="not a chain of known ones"):
        Counterfactual(net, make_batch(2, (2,), 2), "0")


def test_candidates_and_images_are_left_alone_by_in_place_layers():
    with torch.random.fork_rng():
        net = make_net(nn.ELU(inplace=True), nn.Linear(3, 4), nn.ELU(inplace=True), nn.Linear(4, 2))
    batch = make_batch(1, (3,), 2)
    images, noise = batch.x.clone(), torch.tensor([[-1.0]], dtype=torch.float64)
    fast = Counterfactual(net, batch, "1").losses(0, noise)
    assert torch.equal(batch.x, images)
    assert noise.item() == -1
    expected = slow(net, batch._replace(x=images.clone()), "1", 0, noise)
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-14)


def test_a_nonlinearity_used_twice_counts_twice():
    tanh = nn.Tanh()
    with torch.random.fork_rng():
        net = make_net(nn.Linear(3, 4), tanh, nn.Linear(4, 4), tanh, nn.Linear(4, 2))
    batch = make_batch(5, (3,), 2)
    for layer in ("0", "2"):
        asked = Counterfactual(net, batch, layer)
        noise = make_batch(5, (2,), 2, seed=1).x.T  # (2, 5)
        torch.testing.assert_close(
            asked.losses(1, noise), slow(net, batch, layer, 1, noise), rtol=0, atol=1e-12
        )


def test_shared_weights_are_left_to_the_slow_way():
    with torch.random.fork_rng():
        layer, tied, last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        tied.weight = layer.weight
        assert not Counterfactual.supports(nn.Sequential(layer, nn.ReLU(), layer, last), "0")
        assert not Counterfactual.supports(nn.Sequential(layer, nn.ReLU(), tied, last), "0")
        assert Counterfactual.supports(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), last), "0")
