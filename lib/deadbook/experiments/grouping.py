"""Open question 4: a score for a group of weights, by the curvature of the loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import Grouping
from deadunits import pruning, scorers
from deadunits.data import Batch


def grouping(settings: Grouping, data_root: str = "") -> Iterator[Row]:
    """Train, and every so often prune a layer by the group's score and by magnitude, temporarily.

    Table `penalties`: scorer, fraction, set, loss after minus loss before in nats; scored on `probe`.
    """
    images = common.load(settings, data_root)
    sets = {"probe": images.probe, "other": images.other}
    net = common.build(settings, images)
    (name,) = common.weights_of(net, settings.layers)
    for step in common.train(net, images, settings):
        if step.number % settings.measure_every:
            continue
        net.eval()
        now = {"step": step.number, "epoch": step.epoch}
        before = {on: common.mean_loss(net, batch) for on, batch in sets.items()}
        weight = net.get_parameter(name)
        ranks = greedy_ranks(gauss_newton(net, images.probe, name), weight.detach().flatten())
        scores = {"group": ranks.view_as(weight), "magnitude": scorers.magnitude(net, (), [name])[name]}
        for scorer, score in scores.items():
            for fraction in settings.fractions:
                with pruning.pruned(net, pruning.masks({name: score}, fraction)):
                    for on, batch in sets.items():
                        about = {"scorer": scorer, "fraction": fraction, "set": on}
                        yield (
                            "penalties",
                            now | about | {"penalty": common.mean_loss(net, batch) - before[on]},
                        )


def gauss_newton(net: nn.Module, batch: Batch, name: str) -> Tensor:
    """The Gauss-Newton matrix of the mean cross entropy by a layer's weights: JᵀHJ, H = diag(p) - ppᵀ."""
    weight = net.get_parameter(name).detach()

    def logits(values: Tensor, x: Tensor) -> Tensor:
        return functional_call(net, {name: values}, (x[None],))[0]

    total = torch.zeros(weight.numel(), weight.numel(), dtype=torch.float64)
    for x in batch.x.split(common.CHUNK):
        jacobian = vmap(jacrev(logits), (None, 0))(weight, x).flatten(2).double()  # (N, classes, weights)
        p = net(x).detach().double().softmax(1)
        mean = torch.einsum("nc,ncw->nw", p, jacobian)
        total += torch.einsum("nc,ncv,ncw->vw", p, jacobian, jacobian) - mean.T @ mean
    return total / len(batch.x)


def greedy_ranks(curvature: Tensor, weights: Tensor) -> Tensor:
    """When each weight goes, if the one that adds least to half of w'Hw over those gone goes next."""
    pairs = curvature * weights.double().outer(weights.double())
    added, ranks = pairs.diagonal() / 2, torch.empty(len(weights))
    for rank in range(len(weights)):
        lowest = added.argmin()
        ranks[lowest] = rank
        added = added + pairs[lowest]  # twice half of the pair's term
        added[lowest] = torch.inf
    return ranks
