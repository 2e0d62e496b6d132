"""Section 4.2: pruning units in training, and the smaller network that is left."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import UnitPruning
from deadunits import compaction, graph, mean_replacement, pruning, unit_scorers
from deadunits.data import Images

REMOVALS = ("propagated", "activation", "bare")  # what a unit is replaced by: g(E[h]), E[a], 0


def unit_pruning(settings: UnitPruning, data_root: str = "") -> Iterator[Row]:
    """Section 4.2: train, and at the end of some epochs take out the units of lowest score for good.

    Their means are propagated into the next biases; units are scored on images trained on. `schedule` is a
    list of [epoch, fraction]. The network has to be a chain of known layers. Tables: `weights` (a row a
    layer), `training` (losses in nats, share of all parameters pruned), `pruned` (losses before and after
    each pruning, by what stands for a unit), `kept` (a row a unit), `values` (the weights at the end),
    `sizes` (parameters and bytes), `final` (losses in nats, accuracies from 0 to 1, of the masked and of the
    compacted network).
    """
    images = common.load(settings, data_root)
    sets = {"probe": images.probe, "other": images.other, "train_probe": images.train_probe}
    net = common.build(settings, images)
    linear = list(graph.linear_layers(net))
    names = common.weights_of(net, linear)
    yield from common.shapes(net, names)
    layers = settings.layers
    steps = common.steps_an_epoch(images, settings)
    planned = {int(epoch) * steps: fraction for epoch, fraction in settings.schedule}
    keep = common.all_units(net, layers)  # before any training: an error if they cannot be removed
    masks: dict[str, Tensor] = {}
    dense = compaction.parameter_count(net)
    pruned = 0.0
    for step in common.train(net, images, settings):
        pruning.zero(net, masks)
        net.eval()
        now = {"step": step.number, "epoch": step.epoch}
        if step.number in planned:
            before = {name: common.judged(net, batch, "before") for name, batch in sets.items()}
            scores = unit_scorers.UNIT_SCORERS[settings.scorer](net, images.train_probe, layers)
            keep = pruning.unit_masks(scores, planned[step.number], by=settings.by, existing=keep)
            for removal, constants in stand_ins(net, images, keep).items():
                small = compaction.propagate(net, keep, **constants)
                for name, batch in sets.items():
                    losses = before[name] | common.judged(small, batch, "after")
                    about = {"fraction": planned[step.number], "set": name, "removal": removal}
                    yield "pruned", now | about | losses
            masks = compaction.remove(net, keep, **stand_ins(net, images, keep)["propagated"])
            pruned = 1 - compaction.parameter_count(compaction.compact(net, keep)) / dense
        if step.number % settings.measure_every == 0:
            losses = {name: common.mean_loss(net, batch) for name, batch in sets.items()}
            yield "training", now | {"pruned": pruned, "minibatch": step.loss} | losses
    net.eval()
    for layer, mask in keep.items():
        yield "kept", {"layer": layer, "unit": torch.arange(len(mask)), "kept": mask}
    yield from common.final_weights(net, names)
    small = compaction.compact(net, keep)
    for kind, left in {"masked": net, "compacted": small}.items():
        sizes = {"parameters": compaction.parameter_count(left), "bytes": file_size(left)}
        yield "sizes", {"network": kind} | sizes
        losses = {f"{name}_loss": common.mean_loss(left, getattr(images, name)) for name in ("train", "test")}
        yield "final", {"network": kind} | losses | {"accuracy": common.accuracy(left, images.test)}


@torch.no_grad()
def stand_ins(
    net: nn.Sequential, images: Images, keep: Mapping[str, Tensor]
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """What stands for the units, as arguments of `compaction.propagate`, by name of the removal."""
    batch = images.train_probe
    means = {layer: seen.mean for layer, seen in mean_replacement.observe(net, batch, list(keep)).items()}
    entering: dict[str, Tensor] = {}
    handles = []
    modules = graph.linear_layers(net)
    order = list(modules)
    for layer, mask in keep.items():
        following = modules[order[order.index(layer) + 1]]

        def hook(_: nn.Module, inputs: tuple, layer: str = layer, units: int = len(mask)) -> None:
            entering[layer] = inputs[0].unflatten(1, (units, -1)).movedim(1, 0).flatten(1).mean(1)

        handles.append(following.register_forward_pre_hook(hook))
    try:
        net(batch.x)
    finally:
        for handle in handles:
            handle.remove()
    zeros = {layer: torch.zeros(len(mask)) for layer, mask in keep.items()}
    return {"propagated": {"h": means}, "activation": {"a": entering}, "bare": {"a": zeros}}


def file_size(net: nn.Module) -> int:
    """Bytes of its `state_dict` in a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.pt"
        torch.save(copy.deepcopy(net).state_dict(), file)
        return file.stat().st_size
