"""Chapter 3: a training in which a unit is attacked, its twin without the attack, and its control."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.histograms import BOUNDED, EDGES, histogram
from deadbook.settings import Attacks
from deadunits import Invalid
from deadunits.attack import Attack, Schedule
from deadunits.data import Batch, Images
from deadunits.recorder import Recorder

BITS = 10  # of mantissa, in the table of all units at each measurement
AROUND = 10  # steps between two measurements around an attack
FULLY = 4  # every so many measurements the other images are looked at too, and the watched units' values


def attacks(settings: Attacks, data_root: str = "") -> Iterator[Row]:
    """Sections 3.4 to 3.6: train, multiply the updates of one unit's weights now and then, record all units.

    A control is the twin whose unit gets, when the attack would end, the (L1) norm that the attack would have
    given it, in the direction it has. Tables: `weights` (a row a layer), `training` (losses in nats;
    `minibatch` is the mean over the steps since the last row), `units` (a row a unit, `Recorder.measure`),
    `values` (how many values of a watched unit lie in each bin that has any), `around`, `around_values` (the
    same every 10 steps in the windows of that setting), `snapshots` (a row a weight), `final` (losses in
    nats, accuracy from 0 to 1, the step at which the loss diverged or 0, which images). A control ends
    where its attack left no norm to scale to.

    Raises:
        Invalid: a layer or a unit that the network does not have, a watched one that is not recorded.
    """
    images = common.load(settings, data_root)
    sets = {"probe": images.probe, "other": images.other}
    net = common.build(settings, images, batch_norm=settings.batch_norm)
    layers, layer, unit, repeats = settings.layers, settings.layer, settings.unit, settings.repeats
    yield from common.shapes(net, common.weights_of(net, layers))
    check_units(net, layers, [*settings.watch, [layer, unit]] if repeats else settings.watch)
    try:
        recorder, around = Recorder(net, layers), Recorder(net, layers)
        schedule = Schedule(settings.start, settings.interval, repeats)
    except ValueError as error:
        raise Invalid(f"layers: {error}") from error
    optimizer = torch.optim.SGD(net.parameters(), lr=settings.lr)
    attack: contextlib.AbstractContextManager = contextlib.nullcontext()
    if repeats and not settings.control:
        attack = Attack(net, optimizer, layer, [unit], schedule, settings.multiplier)
    elif repeats:
        again = common.build(settings, images, batch_norm=settings.batch_norm)
        norm = attacked_norm(again, images, settings, schedule)

    total, steps, measured, diverged = 0.0, 0, 0, 0
    steps_an_epoch = common.steps_an_epoch(images, settings)
    with attack:
        for step in common.train(net, images, settings, optimizer=optimizer):
            if not math.isfinite(step.loss):
                diverged = step.number
                break
            recorder.follow()
            total, steps = total + step.loss, steps + 1
            if settings.control and step.number == schedule.last:
                if not math.isfinite(norm):
                    diverged = step.number
                    break
                scale_to(net.get_parameter(f"{layer}.weight"), unit, norm)
            now = {"step": step.number, "epoch": step.epoch}
            if settings.snapshots and common.is_snapshot(step, steps_an_epoch):
                yield from common.snapshot(net, step)
            if any(first <= step.number <= last for first, last in settings.around):
                around.follow()
                if step.number % AROUND == 0:
                    yield from unit_rows("around", {"set": "probe"} | now, around.measure(images.probe)[1])
                    histograms = seen_values(around, images.probe, settings.watch, settings.activation, now)
                    yield from (("around_values", row) for _, row in histograms)
            if step.number % settings.measure_every:
                continue
            measured += 1
            fully = measured % FULLY == 0 or step.epoch > settings.epochs - 1
            losses = {"probe": math.nan, "other": math.nan}
            for name in sets if fully else ("probe",):
                losses[name], units = recorder.measure(sets[name])
                yield from unit_rows("units", now | {"set": name}, units)
            yield "training", now | {"minibatch": total / steps} | losses
            total, steps = 0.0, 0
            if measured % FULLY == 0:
                yield from seen_values(recorder, images.probe, settings.watch, settings.activation, now)
    if settings.snapshots:
        yield from common.snapshot(net, step)
    net.eval()
    losses = {f"{name}_loss": common.mean_loss(net, getattr(images, name)) for name in ("train", "test")}
    if not math.isfinite(losses["train_loss"]):  # the last updates did it
        diverged = diverged or step.number
    reached = common.accuracy(net, images.test)
    yield "final", losses | {"accuracy": reached, "diverged": diverged, "images": images.name}


def unit_rows(table: str, about: dict[str, Any], units: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Row]:
    """What `Recorder.measure` found, rounded: a row a unit."""
    for layer, columns in units.items():
        numbers = {column: common.rounded(values, BITS) for column, values in columns.items()}
        yield table, about | {"layer": layer, "unit": torch.arange(len(numbers["mrp"]))} | numbers


def check_units(net: nn.Module, layers: Sequence[str], wanted: Sequence[Sequence[Any]]) -> None:
    """Raise `Invalid` for a layer that is not among the recorded ones, or a unit that it does not have."""
    for layer, unit in wanted:
        common.weights_of(net, [layer])
        if layer not in layers:
            raise Invalid(f"{layer}, unit {unit}: layers has no {layer}, it has {', '.join(layers)}")
        count = len(net.get_submodule(layer).weight)
        if unit >= count:
            raise Invalid(f"{layer} has units 0 to {count - 1}, not {unit}")


def attacked_norm(net: nn.Module, images: Images, settings: Attacks, schedule: Schedule) -> float:
    """L1 norm of a unit's incoming weights right after the last attack; not a number if the loss is none."""
    optimizer = torch.optim.SGD(net.parameters(), lr=settings.lr)
    with Attack(net, optimizer, settings.layer, [settings.unit], schedule, settings.multiplier):
        for step in common.train(net, images, settings, optimizer=optimizer):
            if not math.isfinite(step.loss):
                return math.nan
            if step.number == schedule.last:
                break
    return net.get_parameter(f"{settings.layer}.weight")[settings.unit].abs().sum().item()


@torch.no_grad()
def scale_to(weight: Tensor, unit: int, norm: float) -> None:
    """Scale a unit's incoming weights to an L1 norm; not if they are all 0."""
    now = weight[unit].abs().sum()
    if now > 0:
        weight[unit] *= norm / now


def seen_values(
    recorder: Recorder,
    batch: Batch,
    watch: Sequence[Sequence[Any]],
    activation: str,
    now: Mapping[str, Any],
) -> Iterator[Row]:
    """Histograms of the watched units' outputs and of what the next layer gets of them."""
    outputs = {layer: recorder.values(batch, layer) for layer in dict.fromkeys(layer for layer, _ in watch)}
    for layer, unit in watch:
        for what, values in zip(("output", "activation"), outputs[layer], strict=True):
            bounded = what == "activation" and activation == "tanh"
            counts = histogram(values[unit], BOUNDED if bounded else EDGES)
            bins = counts.nonzero().flatten()
            where = {"layer": layer, "unit": unit, "what": what, "bin": bins}
            yield "values", dict(now) | where | {"count": counts[bins]}
