"""Section 4.1: what each unit would cost, and what pruning units by the scores costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import UnitSaliency
from deadunits import graph, mean_replacement, pruning, unit_scorers
from deadunits.batches import sample_losses
from deadunits.data import Batch
from deadunits.mean_replacement import Units

SCORERS = ("mrp", "mrs", "norm_l1", "norm_l2", "taylor", "mean_activation")
# What stands for units; the first is the thesis's.
CONSTANTS = ("mean of h", "mean of a", "median of h", "zero")
STATISTICS = {  # of a unit's values (units, values)
    "mean": lambda values: values.mean(1),
    "median": lambda values: values.median(1)[0],
    "min": lambda values: values.amin(1),
    "max": lambda values: values.amax(1),
}
HALF = 0.5  # of a layer's units, to compare all constants


def units(settings: UnitSaliency, data_root: str = "") -> Iterator[Row]:
    """Section 4.1: train, and every so often score the units of some layers and replace them for a moment.

    Units are scored on images trained on, layer by layer. Tables: `weights` (a row a layer), `training`
    (losses in nats), `scores` (a row a unit), `penalties` (loss after pruning with bias propagation minus
    loss before, in nats), `constants` (the same for nine constants, half of each layer by MRS, at every
    tenth measurement), `snapshots` (a row a weight), `final` (losses in nats, accuracy from 0 to 1).
    """
    images = common.load(settings, data_root)
    sets = {"train_probe": images.train_probe, "other": images.other}
    net = common.build(settings, images, widths=settings.widths)
    layers, steps = settings.layers, common.steps_an_epoch(images, settings)
    every = settings.measure_every * min(10, steps * settings.epochs // settings.measure_every)
    yield from common.shapes(net, common.weights_of(net, layers))
    check_affordable(net, layers, images.train_probe)
    active = all(unit_scorers.activation_of(net, layer) for layer in layers)
    known = [name for name in SCORERS if active or name != "mean_activation"]
    # not the stream that the initial weights came from: the draws would resemble them
    chance = torch.Generator().manual_seed(2**31 + settings.seed)
    for step in common.train(net, images, settings):
        if settings.snapshots and common.is_snapshot(step, steps):
            yield from common.snapshot(net, step)
        if step.number % settings.measure_every:
            continue
        net.eval()
        now = {"step": step.number, "epoch": step.epoch}
        before = {name: common.mean_loss(net, batch) for name, batch in sets.items()}
        yield "training", now | {"minibatch": step.loss} | before

        seen = mean_replacement.observe(net, images.train_probe, layers)
        found = {name: score_units(name, net, images.train_probe, layers, seen) for name in known}
        for layer in layers:
            scores = {name: by_layer[layer] for name, by_layer in found.items()}
            other = {name: getattr(seen[layer], name) for name in ("mean", "variance", "gradient")}
            where = {"layer": layer, "unit": torch.arange(len(seen[layer].mean))}
            yield "scores", now | where | common.rounded_columns(scores | other)

        random = [unit_scorers.random(net, (), layers, generator=chance) for _ in range(settings.draws)]
        for layer in layers:
            stand_in = constants(net, images.train_probe, layer)
            judges = {name: Replacing(net, batch, layer) for name, batch in sets.items()}
            if step.number % every == 0:
                gone = ~pruning.unit_masks({layer: found["mrs"][layer]}, HALF)[layer]
                for name, judge in judges.items():
                    for constant, values in stand_in.items():
                        penalty = judge.loss(gone, values, constant) - before[name]
                        about = {"layer": layer, "constant": constant, "set": name}
                        yield "constants", now | about | {"penalty": common.rounded_number(penalty)}
            for fraction in settings.fractions:
                chosen = [(name, 0, scores) for name, scores in found.items()]
                chosen += [("random", draw, scores) for draw, scores in enumerate(random)]
                for scorer, draw, scores in chosen:
                    gone = ~pruning.unit_masks({layer: scores[layer]}, fraction)[layer]
                    for constant in CONSTANTS if scorer == "mrs" else CONSTANTS[:1]:
                        row = {"layer": layer, "fraction": fraction, "scorer": scorer, "draw": draw}
                        for name, judge in judges.items():
                            if constant in stand_in:
                                loss = judge.loss(gone, stand_in[constant], constant)
                                penalty = common.rounded_number(loss - before[name])
                                which = {"constant": constant, "set": name, "penalty": penalty}
                                yield "penalties", now | row | which
    if settings.snapshots:
        yield from common.snapshot(net, step)
    net.eval()
    losses = {f"{name}_loss": common.mean_loss(net, getattr(images, name)) for name in ("train", "test")}
    yield "final", losses | {"accuracy": common.accuracy(net, images.test)}


def check_affordable(net: nn.Module, layers: Sequence[str], batch: Batch) -> None:
    """Raise `Invalid` if the exact scores would take too many forward passes at each measurement."""
    counts = {name: len(net.get_submodule(name).weight) for name in layers}
    common.check_passes("MRP", net, batch, counts, "choose fewer or narrower layers")


def score_units(
    name: str, net: nn.Module, batch: Batch, layers: Sequence[str], seen: Mapping[str, Units]
) -> dict[str, Tensor]:
    """Scores of units; MRS is in `seen` already."""
    if name == "mrs":
        return {layer: seen[layer].mrs for layer in layers}
    return unit_scorers.UNIT_SCORERS[name](net, batch, layers)


@torch.no_grad()
def constants(net: nn.Module, batch: Batch, layer: str) -> dict[str, Tensor]:
    """What the next linear map gets of each unit in its place, as for one image: (1, ...).

    By the thesis, what the layers between make of the mean of h; also of its median, minimum and maximum; the
    same of what they make of h (over images and positions); 0. For a network that is no chain of known
    layers, the mean of h.
    """
    if graph.plain_behind(net, layer) is None:
        mean = mean_replacement.observe(net, batch, [layer])[layer].mean
        return {"mean of h": mean.float()}
    between = between_linear(net, layer)
    modules = graph.chain(net)
    place = list(modules).index(layer) + 1
    before, behind = nn.Sequential(*list(modules.values())[:place]), nn.Sequential(*between)
    h = before(batch.x)
    values = h.movedim(1, 0).flatten(1)  # (units, N positions)
    ones = torch.ones_like(h[:1])  # (1, units, ...)
    shape = (1, -1, *[1] * (h.dim() - 2))
    a = behind(h)
    size = a.shape[1] // h.shape[1]  # features a unit has: 1, or behind a Flatten the positions
    by_unit = a.unflatten(1, (h.shape[1], size)).movedim(1, 0).flatten(1)  # (units, ...)
    stand_in = {"zero": torch.zeros_like(a[:1])}
    for name, statistic in STATISTICS.items():
        c = statistic(by_unit).repeat_interleave(size).view(1, -1, *[1] * (a.dim() - 2))
        stand_in |= {
            f"{name} of h": behind(statistic(values).view(shape) * ones),
            f"{name} of a": c.expand_as(a[:1]),
        }
    return stand_in


def between_linear(net: nn.Sequential, layer: str) -> list[nn.Module]:
    """The layers between a linear map and the next one."""
    behind = graph.plain_behind(net, layer)
    return list(itertools.takewhile(lambda module: not isinstance(module, graph.LINEAR), behind))


class Replacing:
    """The loss on some images, had units of a layer given constants; what comes before them runs once.

    For units that stay replaced, this is what bias propagation gives (tested).
    """

    @torch.no_grad()
    def __init__(self, net: nn.Module, batch: Batch, layer: str):
        self.net, self.batch, self.layer = net, batch, layer
        self.known: dict[tuple, float] = {}  # scorers often choose the same units
        if graph.plain_behind(net, layer) is not None:
            between = between_linear(net, layer)
            modules = graph.chain(net)
            place = list(modules).index(layer) + 1 + len(between)
            self.units = len(net.get_submodule(layer).weight)
            self.a = nn.Sequential(*list(modules.values())[:place])(batch.x)
            self.rest = nn.Sequential(*list(modules.values())[place:])

    @torch.no_grad()
    def loss(self, gone: Tensor, constant: Tensor, name: str) -> float:
        """Mean loss in nats, with the units of a mask (units,) replaced by their part of `constant`."""
        key = (name, *gone.tolist())
        if key not in self.known:
            self.known[key] = self._loss(gone, constant)
        return self.known[key]

    def _loss(self, gone: Tensor, constant: Tensor) -> float:
        if not hasattr(self, "rest"):
            of = {unit: float(constant[unit]) for unit in gone.nonzero().flatten().tolist()}
            with mean_replacement.replaced(self.net, {self.layer: of}):
                return common.mean_loss(self.net, self.batch)
        replaced = gone.repeat_interleave(self.a.shape[1] // self.units)
        replaced = replaced.view(1, -1, *[1] * (self.a.dim() - 2))
        losses = []
        for a, y in zip(self.a.split(common.CHUNK), self.batch.y.split(common.CHUNK), strict=True):
            losses.append(sample_losses(self.rest(torch.where(replaced, constant, a)), y))
        return torch.cat(losses).double().mean().item()
