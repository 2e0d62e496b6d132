"""Derivatives of the loss: closed forms, and the fast ways against the dense Hessian in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deadunits import derivatives
from deadunits.data import Batch
from toys import linear, make_batch, make_net, small


def squared(out, y):
    return (out[:, 0] - y) ** 2


def test_closed_form_of_a_quadratic_loss():
    """L = mean (w·x - y)²: gradient 2 mean (w·x - y) x, Hessian 2 mean x xᵀ."""
    net = make_net(linear(3, 1, bias=False))
    x, y = make_batch(5, (3,), 1).x, torch.arange(5.0, dtype=torch.float64)
    batch, w = Batch(x, y), net[0].weight.detach()[0]
    expected = 2 * x.T @ x / 5
    g = derivatives.gradient(net, batch, ["0.weight"], loss=squared)["0.weight"][0]
    torch.testing.assert_close(g, 2 * ((x @ w - y)[:, None] * x).mean(0))
    torch.testing.assert_close(derivatives.hessian(net, batch, ["0.weight"], loss=squared), expected)
    v = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    product = derivatives.hessian_vector(net, batch, {"0.weight": v}, loss=squared)["0.weight"]
    torch.testing.assert_close(product[0], expected @ v[0])
    diagonal = derivatives.hessian_diagonal(net, batch, ["0.weight"], loss=squared)["0.weight"]
    torch.testing.assert_close(diagonal[0], expected.diag())


def test_closed_form_of_softmax():
    """Cross entropy of logits W x: H = mean (diag p - p pᵀ) ⊗ x xᵀ."""
    net, batch = make_net(linear(2, 3, bias=False)), make_batch(4, (2,), 3)
    p = net(batch.x).softmax(1).detach()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    expected = torch.einsum("ncd,nj,nk->cjdk", curvature, batch.x, batch.x).reshape(6, 6) / 4
    torch.testing.assert_close(derivatives.hessian(net, batch, ["0.weight"]), expected)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_products_and_diagonals_are_those_of_the_dense_hessian(activation, batch_norm):
    net, batch = small(activation, batch_norm)
    names = ["conv1.weight", "fc1.weight", "fc2.weight", "fc2.bias"]
    dense = derivatives.hessian(net, batch, names)
    torch.testing.assert_close(dense, dense.T, rtol=0, atol=1e-12)
    generator = torch.Generator().manual_seed(1)
    vector = {
        name: torch.randn(net.get_parameter(name).shape, generator=generator, dtype=torch.float64)
        for name in names
    }

    def flat(tensors):
        return torch.cat([tensors[name].flatten() for name in names])

    product = derivatives.hessian_vector(net, batch, vector)
    torch.testing.assert_close(flat(product), dense @ flat(vector), rtol=0, atol=1e-12)
    diagonal = derivatives.hessian_diagonal(net, batch, names)
    torch.testing.assert_close(flat(diagonal), dense.diag(), rtol=0, atol=1e-12)
    exact = [derivatives.gauss_newton_is_exact(net, name) for name in names]
    assert exact == [activation == "relu", activation == "relu", True, False]


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 99),
)
def test_gauss_newton_of_any_convolution(units, channels, padding, stride, in_place, seed):
    net = _conv_net(units, channels, padding, stride, in_place, seed)
    batch = make_batch(3, (channels, 7, 7), 3, seed)
    dense = derivatives.hessian(net, batch, ["0.weight"])
    found = derivatives.hessian_diagonal(net, batch, ["0.weight"])["0.weight"].flatten()
    torch.testing.assert_close(found, dense.diag(), rtol=0, atol=1e-11)


def _conv_net(units, channels, padding, stride, in_place, seed):
    side = ((7 + 2 * padding - 3) // stride + 1) // 2
    return make_net(
        nn.utils.skip_init(nn.Conv2d, channels, units, 3, stride, padding),
        nn.ReLU(inplace=in_place),
        nn.AvgPool2d(2),
        nn.Flatten(),
        linear(units * side * side, 3),
        seed=seed,
    )


def test_frozen_weights_weights_used_twice_and_linear_losses():
    layer = linear(3, 3)
    net = make_net(layer, nn.Tanh(), layer).requires_grad_(False)
    batch = make_batch(4, (3,), 3)
    dense = derivatives.hessian(net, batch, ["0.weight"])
    found = derivatives.hessian_diagonal(net, batch, ["0.weight"])["0.weight"]
    torch.testing.assert_close(found.flatten(), dense.diag(), rtol=0, atol=1e-12)
    assert not any(p.requires_grad for p in net.parameters())
    assert net[0].weight is net[2].weight
    chain = make_net(linear(3, 1))
    vector = {"0.weight": torch.ones(1, 3, dtype=torch.float64)}
    product = derivatives.hessian_vector(chain, batch, vector, loss=lambda out, y: out[:, 0])
    assert product["0.weight"].count_nonzero() == 0
    assert derivatives.hessian(chain, batch, ["0.bias"], loss=lambda out, y: out[:, 0]).tolist() == [[0.0]]


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1", "fc2"])
def test_signals_are_the_gradients_of_single_images_and_their_factors(layer):
    net, batch = small()
    found = derivatives.signals(net, batch, layer)
    weight = net.get_parameter(f"{layer}.weight")
    for n in range(len(batch.y)):
        alone = derivatives.gradient(net, Batch(batch.x[n : n + 1], batch.y[n : n + 1]), [f"{layer}.weight"])
        torch.testing.assert_close(
            found.gradients[n].view(weight.shape), alone[f"{layer}.weight"], rtol=0, atol=1e-14
        )
    product = torch.einsum("nup,nkp->nuk", found.outputs, found.inputs)
    torch.testing.assert_close(product, found.gradients, rtol=0, atol=1e-14)


def test_hooks_are_gone_also_after_an_error():
    net, batch = small()

    def failing(out, y):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        derivatives.signals(net, batch, "conv1", loss=failing)
    with pytest.raises(ValueError, match=r"nn.Linear or an nn.Conv2d"):
        derivatives.signals(net, batch, "pool1")
    with pytest.raises(RuntimeError):
        derivatives.signals(net, Batch(batch.x[:, :, :3], batch.y), "conv1")
    assert not any(module._forward_hooks for module in net.modules())
    copy.deepcopy(net)


def test_a_dense_hessian_is_small():
    net = make_net(linear(100, 60))
    with pytest.raises(ValueError, match=r"6,000 weights is too large: 5,000 at most"):
        derivatives.hessian(net, make_batch(2, (100,), 60), ["0.weight"])


@pytest.mark.parametrize("what", ["gradient", "hessian", "hessian_diagonal"])
def test_bad_input_is_named(what):
    net, batch = small(batch_norm=True)
    with pytest.raises(ValueError, match=r"among: conv1.weight"):
        getattr(derivatives, what)(net, batch, ["conv7.weight"])
    with pytest.raises(ValueError, match="no images"):
        getattr(derivatives, what)(net, [], ["fc2.bias"])
    with pytest.raises(ValueError, match=r"net.eval\(\)"):
        getattr(derivatives, what)(net.train(), batch, ["fc2.bias"])


class NoForwardMode(torch.autograd.Function):
    """Squares; has a backward pass, but nobody has told it the forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Square(nn.Module):
    def forward(self, x):
        return NoForwardMode.apply(x)


@pytest.mark.parametrize("kind", ["forward over reverse", "no forward mode", "tied weights"])
def test_products_by_both_ways_are_those_of_the_dense_hessian(kind):
    layer = linear(3, 3)
    square = Square() if kind == "no forward mode" else nn.Tanh()
    net = make_net(layer, square, layer if kind == "tied weights" else linear(3, 3))
    batch, names = make_batch(4, (3,), 3), ["0.weight", "0.bias"]
    generator = torch.Generator().manual_seed(1)
    vector = {
        name: torch.randn(net.get_parameter(name).shape, generator=generator, dtype=torch.float64)
        for name in names
    }
    first, product = derivatives.gradient_and_product(net, batch, vector)
    flat = torch.cat([vector[name].flatten() for name in names])
    expected = derivatives.hessian(net, batch, names) @ flat
    torch.testing.assert_close(torch.cat([product[name].flatten() for name in names]), expected)
    for name, one in derivatives.gradient(net, batch, names).items():
        torch.testing.assert_close(first[name], one)
    assert all(type(p) is nn.Parameter for p in net.parameters())
    assert (net[0].weight is net[2].weight) == (kind == "tied weights")
