"""Open question 1: how low the loss goes when a few weights are removed, and the rest are scored again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import Rescoring
from deadunits import pruning, scorers
from deadunits.data import Images

FEW, MOST = 2, 100  # weights removed at a time, and in all


def rescoring(settings: Rescoring, data_root: str = "") -> Iterator[Row]:
    """Train; at the end of some epochs remove weights of lowest exact loss change on `probe`, temporarily.

    Table `removed`: way ("rescored" after every two weights, until their loss changes sum to 0 or more, or
    "one-shot"), number of weights removed, set, change of the loss in nats.
    """
    images = common.load(settings, data_root)
    net = common.build(settings, images)
    (name,) = common.weights_of(net, settings.layers)
    steps = common.steps_an_epoch(images, settings)
    for step in common.train(net, images, settings):
        if step.number in [steps * end for end in settings.ends]:
            net.eval()
            for row in removed(net, images, name):
                yield "removed", {"step": step.number, "epoch": step.epoch} | row


def removed(net: nn.Module, images: Images, name: str) -> Iterator[dict[str, float]]:
    """Change of the loss on each set by the number of weights removed, both ways."""
    sets = {"probe": images.probe, "other": images.other, "train_probe": images.train_probe}
    before = {on: common.mean_loss(net, batch) for on, batch in sets.items()}
    scores = scorers.loss_change(net, images.probe, [name])[name].flatten()
    for way in ("rescored", "one-shot"):
        keep, now = torch.ones_like(scores, dtype=torch.bool), scores
        for number in range(0, min(MOST, len(keep) - 1) + 1, FEW):
            with pruning.pruned(net, {name: keep.view_as(net.get_parameter(name))}):
                for on, batch in sets.items():
                    change = common.mean_loss(net, batch) - before[on]
                    yield {"way": way, "removed": number, "set": on, "change": change}
                if way == "rescored":
                    now = scorers.loss_change(net, images.probe, [name])[name].flatten()
            lowest = torch.where(keep, now, torch.inf).argsort(stable=True)[:FEW]
            if way == "rescored" and now[lowest].sum() >= 0:
                break
            keep[lowest] = False
