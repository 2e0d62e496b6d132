from __future__ import annotations

import pytest
import torch
from torch import nn

from deadunits import graph, scorers
from deadunits.data import Batch


def batch(*shape: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return Batch(x, torch.arange(6) % 3)


def chains_within_chains() -> nn.Sequential:
    inner = nn.Sequential(
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), nn.Conv2d(4, 3, 2), nn.Tanh()
    )
    last = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh())
    return nn.Sequential(nn.Conv2d(1, 4, 3), inner, last, nn.Linear(5, 3))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.last = nn.Linear(4, 3), nn.Linear(4, 7), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.first(x), self.wide(x)], 1))


class Backwards(nn.Sequential):
    """A subclass that does not run its layers in their order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in reversed(self):
            x = module(x)
        return x


def test_what_is_behind_a_layer_of_a_chain():
    nested = chains_within_chains()
    names = ["0", "1.0.0", "1.0.1", "1.0.2", "1.1", "1.2", "2.0", "2.1", "2.2", "3"]
    assert list(graph.chain(nested)) == names
    assert list(graph.behind(nested, "2.0")) == ["2.1", "2.2", "3"]
    assert [graph.next_linear(nested, deep) for deep in ("0", "1.1", "2.1", "3")] == ["1.1", "2.1", "3", None]
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
    net = Backwards(nn.Linear(4, 3), nn.ReLU(), nn.Linear(4, 4)).double()
    assert graph.chain(net) is None
    images = batch(4)
    exact = scorers.loss_change(net, images, ["2.weight"])["2.weight"]  # traced
    slow = scorers.loss_change_slow(net, images, "2.weight") / len(images.y)
    torch.testing.assert_close(exact.double(), slow.double(), rtol=0, atol=1e-12)
