"""The thesis's experiments, each a short loop that yields rows of tidy tables.

A loop is a generator of (table, row). A row is a dict of columns; where some are arrays, it stands for as
many rows. The settings are the keyword arguments; `deadunits.runs` computes, keeps and finds the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deadunits import data, models, pruning, scorers, training
from deadunits.counterfactual import sample_losses
from deadunits.data import Batch

Row = tuple[str, dict[str, Any]]
LAYER = "conv1.weight"


def saliency(
    *,
    dataset: str,
    activation: str,
    epochs: int,
    lr: float,
    batch_size: int,
    measure_every: int,
    probe_size: int,
    fractions: Sequence[float],
    draws: int,
    seed: int,
    data_root: str = "",
) -> Iterator[Row]:
    """Section 2.1: train, and every so often score the weights of conv1 and prune some for a moment.

    Tables: `training` (losses in nats), `scores` (a row a weight), `penalties` (loss after pruning minus
    loss before, on the set scored and on another), `final` (test loss in nats, accuracy from 0 to 1).
    """
    images = data.load(dataset, data_root, probe_size)
    sets = {"probe": images.probe, "other": images.other}
    net = models.small_cnn(images.shape, images.classes, activation=activation, seed=seed)
    # not the stream that the initial weights came from: the draws would resemble them
    chance = torch.Generator().manual_seed(2**31 + seed)
    for step in training.sgd(net, images.train, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed):
        if step.number % measure_every:
            continue
        now = {"step": step.number, "epoch": step.epoch}
        before = {name: mean_loss(net, batch) for name, batch in sets.items()}
        yield "training", now | {"minibatch": step.loss} | before

        exact = scorers.loss_change(net, images.probe, [LAYER])[LAYER]
        columns = {
            "loss_change": exact,
            "loss_change_other": scorers.loss_change(net, images.other, [LAYER])[LAYER],
            "taylor1": scorers.taylor1(net, images.probe, [LAYER])[LAYER],
        }
        weights = {"weight": torch.arange(exact.numel())}
        yield "scores", now | weights | {name: score.flatten() for name, score in columns.items()}

        random = [scorers.random(net, images.probe, [LAYER], generator=chance)[LAYER] for _ in range(draws)]
        for scorer, candidates in {"loss_change": [exact], "random": random}.items():
            for draw, score in enumerate(candidates):
                for fraction in fractions:
                    chosen = {"scorer": scorer, "draw": draw, "fraction": fraction}
                    mask = pruning.lowest(score, fraction)
                    for name, after in losses_without(net, mask, sets).items():
                        penalty = {"set": name, "penalty": after - before[name]}
                        yield "penalties", now | chosen | penalty
    yield (
        "final",
        {"test_loss": mean_loss(net, images.test), "accuracy": accuracy(net, images.test)},
    )


def losses_without(net: nn.Module, mask: Tensor, sets: dict[str, Batch]) -> dict[str, float]:
    """Mean loss on each set without the weights of conv1 that a mask gives up."""
    with pruning.pruned(net, {LAYER: mask}):
        return {name: mean_loss(net, batch) for name, batch in sets.items()}


@torch.no_grad()
def mean_loss(net: nn.Module, batch: Batch) -> float:
    """Mean cross entropy in nats."""
    return sample_losses(net(batch.x), batch.y).double().mean().item()


@torch.no_grad()
def accuracy(net: nn.Module, batch: Batch) -> float:
    """Share of images whose label gets the highest logit."""
    return (net(batch.x).argmax(1) == batch.y).double().mean().item()
