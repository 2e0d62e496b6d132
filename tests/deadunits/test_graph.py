from __future__ import annotations

import pytest
import torch
from torch import nn

from deadunits import graph, scorers, unit_scorers
from deadunits.data import Batch


def batch(*shape: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return Batch(x, torch.arange(6) % 3)


def flat_and_nested() -> tuple[nn.Sequential, nn.Sequential]:
    """The same layers in a row, and in chains within chains."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveMaxPool2d(3)),
            *(nn.Conv2d(4, 3, 2), nn.Softplus(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)),
        ]
    inner = nn.Sequential(nn.Sequential(*layers[1:4]), layers[4], layers[5])
    nested = nn.Sequential(layers[0], inner, nn.Sequential(*layers[6:9]), layers[9])
    return nn.Sequential(*layers).double().eval(), nested.double().eval()


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.first, self.wide, self.last = nn.Linear(4, 3), nn.Linear(4, 7), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.first(x), self.wide(x)], 1))


class Backwards(nn.Sequential):
    """A subclass that does not run its layers in their order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in reversed(self):
            x = module(x)
        return x


NAMES = {"0": "0", "4": "1.1", "7": "2.1", "9": "3"}  # of the flat chain, and of the nested one


def test_a_nested_chain_has_the_scores_of_the_flat_one_by_the_fast_way():
    flat, nested = flat_and_nested()
    images = batch(1, 8, 8)
    for name, deep in NAMES.items():
        pairs = ((flat, name), (nested, deep))
        weights = [scorers.loss_change(net, images, [f"{at}.weight"])[f"{at}.weight"] for net, at in pairs]
        torch.testing.assert_close(weights[1], weights[0])
        for scorer in (unit_scorers.mrp, unit_scorers.mrs, unit_scorers.mean_activation):
            if name == "9" and scorer is unit_scorers.mean_activation:
                continue  # nothing behind it is a nonlinearity
            units = [scorer(net, images, [at])[at] for net, at in pairs]
            torch.testing.assert_close(units[1], units[0])


def test_a_nested_chain_has_the_scores_of_the_slow_way():
    _, nested = flat_and_nested()
    images = batch(1, 8, 8)
    for deep in NAMES.values():
        exact = scorers.loss_change(nested, images, [f"{deep}.weight"])[f"{deep}.weight"]
        slow = scorers.loss_change_slow(nested, images, f"{deep}.weight") / len(images.y)
        torch.testing.assert_close(exact.double(), slow.double(), rtol=0, atol=1e-12)


def test_what_is_behind_a_layer_of_a_chain():
    _, nested = flat_and_nested()
    names = ["0", "1.0.0", "1.0.1", "1.0.2", "1.1", "1.2", "2.0", "2.1", "2.2", "3"]
    assert list(graph.chain(nested)) == names
    assert list(graph.behind(nested, "2.0")) == ["2.1", "2.2", "3"]
    assert [graph.next_linear(nested, deep) for deep in NAMES.values()] == ["1.1", "2.1", "3", None]
    assert graph.activation_of(nested, "0") == "1.0.1"
    assert graph.activation_of(nested, "3") is None
    assert graph.activation_of(nested, "1.0.1") == "1.0.1"
    assert graph.behind(nested, "1") is None  # a chain of layers, not one


def test_outside_of_chains_only_the_layers_are_known():
    net = Branches()
    assert graph.chain(net) is None
    assert list(graph.linear_layers(net)) == ["first", "wide", "last"]
    assert graph.behind(net, "first") is None
    assert graph.activation_of(net, "first") is None
    assert graph.next_linear(net, "first") is None  # `wide` comes next, and does not take 3 inputs
    with pytest.raises(ValueError, match=r"no linear or convolutional layer 'fc'; there are: first, wide"):
        graph.linear_layer(net, "fc")


def test_a_sequential_with_a_forward_of_its_own_is_no_chain():
    with torch.random.fork_rng():
        net = Backwards(nn.Linear(4, 3), nn.ReLU(), nn.Linear(4, 4)).double()
    assert graph.chain(net) is None
    images = batch(4)
    exact = scorers.loss_change(net, images, ["2.weight"])["2.weight"]  # traced
    slow = scorers.loss_change_slow(net, images, "2.weight") / len(images.y)
    torch.testing.assert_close(exact.double(), slow.double(), rtol=0, atol=1e-12)
