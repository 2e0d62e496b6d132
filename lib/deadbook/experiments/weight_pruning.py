"""Section 2.2: pruning weights in training, and what removing the emptied units leaves."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from deadbook.experiments import common
from deadbook.experiments.common import Row, Tensors
from deadbook.settings import WeightPruning
from deadunits import compaction, pruning, scorers
from deadunits.data import Images

EMPTY = [i / 50 for i in range(16)]  # fnz of Figure 2.11


def weight_pruning(settings: WeightPruning, data_root: str = "") -> Iterator[Row]:
    """Section 2.2: train, and at the end of some epochs prune the weights of smallest magnitude for good.

    `schedule` is a list of [epoch, fraction]; empty, this is the unpruned twin, for which `by` means nothing.
    Tables: `weights` (a row a layer), `training` (losses in nats, share of weights pruned), `pruned` (losses
    before and after each pruning), `values` (the weights at the end), `removal` (what removing units leaves,
    by fnz), `samples` (an image a class), `final` (losses in nats, accuracies from 0 to 1).
    """
    images = common.load(settings, data_root)
    sets = {"probe": images.probe, "other": images.other, "train_probe": images.train_probe}
    net = common.build(settings, images)
    names = common.weights_of(net, settings.layers)
    yield from common.shapes(net, names)
    yield from samples(images)
    steps = common.steps_an_epoch(images, settings)
    planned = {int(epoch) * steps: fraction for epoch, fraction in settings.schedule}
    masks: Tensors = {name: torch.ones_like(net.get_parameter(name), dtype=torch.bool) for name in names}
    pruned = 0.0
    for step in common.train(net, images, settings):
        pruning.zero(net, masks)
        net.eval()
        now = {"step": step.number, "epoch": step.epoch}
        if step.number in planned:
            before = {name: common.judged(net, batch, "before") for name, batch in sets.items()}
            pruned = planned[step.number]
            scores = scorers.magnitude(net, (), names)
            masks = pruning.masks(scores, pruned, by=settings.by, existing=masks)
            pruning.zero(net, masks)
            for name, batch in sets.items():
                both = before[name] | common.judged(net, batch, "after")
                yield "pruned", now | {"fraction": pruned, "set": name} | both
        if step.number % settings.measure_every == 0:
            losses = {name: common.mean_loss(net, batch) for name, batch in sets.items()}
            yield "training", now | {"pruned": pruned, "minibatch": step.loss} | losses
    net.eval()
    yield from common.final_weights(net, names)
    yield from removals(net, images)
    yield "final", {"train_loss": common.mean_loss(net, images.train)} | judged(net, images)


def removals(net: nn.Module, images: Images) -> Iterator[Row]:
    """What is left without the units that have at most a fraction fnz of their weights, and how well it does.

    carried: whether the constant that a removed unit still gives went into the next bias (the thesis left it
    out). Nothing for a network that is not a chain of known layers.
    """
    for fnz in EMPTY:
        try:
            keep = compaction.idle(net, fnz)
            nothing = {layer: torch.zeros(len(mask)) for layer, mask in keep.items()}
            small = {True: compaction.compact(net, keep), False: compaction.compact(net, keep, a=nothing)}
        except ValueError:
            return
        for carried, network in small.items():
            row = {"fnz": fnz, "carried": carried, "parameters": compaction.parameter_count(network)}
            yield "removal", row | judged(network, images)


def judged(net: nn.Module, images: Images) -> dict[str, float]:
    """Losses in nats and accuracies on each set of images."""
    sets = {name: getattr(images, name) for name in ("probe", "other", "test")}
    losses = {f"{name}_loss": common.mean_loss(net, batch) for name, batch in sets.items()}
    return losses | {f"{name}_accuracy": common.accuracy(net, batch) for name, batch in sets.items()}


def samples(images: Images) -> Iterator[Row]:
    """The first training image of each class."""
    channels, height, width = images.shape
    for label in range(images.classes):
        x = images.train.x[images.train.y == label][:1]
        shape = {"channels": channels, "height": height, "width": width}
        yield "samples", {"label": label, "pixel": torch.arange(x.numel()), "value": x.flatten()} | shape
