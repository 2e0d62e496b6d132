"""What the sliders of chapters 2.2 and 4.2 go through: a trained network, pruned by each score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.experiments.unit_pruning import stand_ins
from deadbook.settings import Explorer
from deadunits import compaction, pruning, scorers, unit_scorers
from deadunits.data import Images

WEIGHTS = ("magnitude", "taylor1_abs", "taylor1", "random")  # fast for any network
UNITS = ("mrp", "mrs", "norm_l2", "random")


def explorer(settings: Explorer, data_root: str = "") -> Iterator[Row]:
    """Train, and then take out fractions of the weights, or of the units, of some layers; each for a moment.

    By layer, scored on images trained on; nothing is trained afterwards. `of` is "weights" or "units"; units
    need a network that is a chain of known layers. Tables: `weights` (a row a layer), and either `pruned`
    (loss on the other images in nats, test accuracy from 0 to 1, by score and fraction) and `ranks` (of the
    first layer's weights, 0 goes first), or `units` (also parameters left, and whether the `means` of what
    went were propagated) and `left` (units by layer).
    """
    images = common.load(settings, data_root)
    net = common.build(settings, images)
    layers, of = settings.layers, settings.of
    names = common.weights_of(net, layers)
    yield from common.shapes(net, names)
    if of == "units":
        common.all_units(net, layers)  # before any training: an error if they cannot be removed
    *_, step = common.train(net, images, settings)
    now = {"step": step.number, "epoch": step.epoch}
    net.eval()
    for scorer in UNITS if of == "units" else WEIGHTS:
        scores = scored(net, images, layers, of, scorer, settings.seed)
        if of == "weights":
            order = scores[names[0]].flatten().argsort(stable=True)
            ranks = torch.empty_like(order)
            ranks[order] = torch.arange(len(order))
            yield "ranks", now | {"scorer": scorer, "weight": torch.arange(len(order)), "rank": ranks}
        for fraction in settings.fractions:
            about = now | {"scorer": scorer, "fraction": fraction}
            if of == "weights":
                yield "pruned", about | without_weights(net, images, scores, fraction)
                continue
            keep = pruning.unit_masks(scores, fraction)
            for layer, mask in keep.items():
                yield "left", about | {"layer": layer, "left": int(mask.sum())}
            for row in without_units(net, images, keep):
                yield "units", about | row


def scored(
    net: nn.Module, images: Images, layers: Sequence[str], of: str, scorer: str, seed: int
) -> dict[str, Tensor]:
    """The scores of all weights, or units, of the layers, on images trained on."""
    generator = torch.Generator().manual_seed(2**31 + seed)  # not the stream that the weights came from
    if of == "units":
        return unit_scorers.UNIT_SCORERS[scorer](net, images.train_probe, layers, generator=generator)
    return scorers.SCORERS[scorer](
        net, images.train_probe, common.weights_of(net, layers), generator=generator
    )


def without_weights(
    net: nn.Module, images: Images, scores: Mapping[str, Tensor], fraction: float
) -> dict[str, Any]:
    """Loss and accuracy of the network without that fraction of each layer's weights."""
    with pruning.pruned(net, pruning.masks(scores, fraction)):
        return {"loss": common.mean_loss(net, images.other), "accuracy": common.accuracy(net, images.test)}


def without_units(net: nn.Module, images: Images, keep: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """The same without units, bare and with their means propagated; and the parameters that are left."""
    left = compaction.parameter_count(compaction.compact(net, keep))
    constants = stand_ins(net, images, keep)
    for means, removal in ((True, "propagated"), (False, "bare")):
        small = compaction.propagate(net, keep, **constants[removal])
        loss, accuracy = common.mean_loss(small, images.other), common.accuracy(small, images.test)
        yield {"means": means, "parameters": left, "loss": loss, "accuracy": accuracy}
