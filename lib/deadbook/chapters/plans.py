"""What each chapter runs, from its parameters; so that all results can be had without executing a chapter.

The chapters show the same in their cells; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deadbook.analysis import trials
from deadbook.runs import grid

Wanted = list[tuple[str, dict[str, Any]]]  #: an experiment and its settings, each


def background(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 1."""
    names = ("dataset", "image_size", "network", "activation", "epochs", "lr", "batch_size")
    base = _some(chosen, *names, "measure_every", "probe_size", "sizes", "trials")
    return _of("background", grid(base, seed=range(chosen["seeds"])))


def saliency(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 2.1."""
    where = _some(chosen, "dataset", "image_size", "network", "layers", "probe_size")
    how = _some(chosen, "epochs", "lr", "batch_size", "measure_every", "fractions", "draws")
    seeds = range(chosen["seeds"])
    timed = where | {"activation": chosen["activations"][0], "rounds": chosen["rounds"]}
    return [
        *_of("costs", grid(timed, seed=seeds)),
        *_of("saliency", grid(where | how, activation=chosen["activations"], seed=seeds)),
    ]


def weight_pruning(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 2.2."""
    names = ("dataset", "image_size", "network", "layers", "activation", "epochs", "lr", "batch_size")
    base = _some(chosen, *names, "probe_size")
    ways = [{"schedule": chosen["schedule"], "by": by} for by in ("layer", "network") if chosen["schedule"]]
    ways += [{"schedule": [], "by": "layer"}]
    own = _some(chosen, "measure_every")
    runs = [base | own | way | {"seed": seed} for seed in range(chosen["seeds"]) for way in ways]
    explored = base | {"fractions": chosen["fractions"], "of": "weights", "seed": 0}
    return [*_of("weight_pruning", runs), ("explorer", explored)]


def units(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 4.1."""
    names = ("dataset", "image_size", "network", "layers", "epochs", "lr", "batch_size", "measure_every")
    base = _some(chosen, *names, "probe_size", "fractions", "draws", "widths")
    found = grid(base, activation=chosen["activations"], seed=range(chosen["seeds"]))
    wider, has_widths = chosen["wider"], chosen["network"] == "small_cnn"
    if has_widths and wider not in ([], chosen["widths"]):
        found += [one | {"widths": wider} for one in found if one["seed"] < chosen["wider_seeds"]]
    return _of("units", found)


def unit_pruning(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 4.2."""
    common = _some(chosen, "dataset", "image_size", "network", "activation", "probe_size")
    how = _some(chosen, "epochs", "lr", "batch_size")
    measured = common | how | _some(chosen, "measure_every")
    layers, seeds = _some(chosen, "layers"), range(chosen["seeds"])
    timed = common | layers | _some(chosen, "batches", "rounds") | {"seed": 0}
    timings = [timed | {"fraction": fraction} for _, fraction in chosen["schedule"][-1:]]
    pruned = grid(measured | layers | _some(chosen, "schedule", "scorer", "by"), seed=seeds)
    weights = measured | {"layers": chosen["all_layers"], "by": "layer"}
    schedules = [[], chosen["weight_schedule"]] if chosen["weight_schedule"] else [[]]
    others = grid(weights, schedule=schedules, seed=seeds)
    explored = common | how | layers | {"fractions": chosen["fractions"], "of": "units", "seed": 0}
    return [
        *_of("unit_costs", timings),
        *_of("unit_pruning", pruned),
        *_of("weight_pruning", others),
        ("explorer", explored),
    ]


def _attacks(plan: Callable[[Mapping[str, Any]], Mapping[str, list]]) -> Callable[..., Wanted]:
    return lambda chosen: [("attacks", one) for some in plan(chosen).values() for one in some]


def _some(chosen: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: chosen[name] for name in names}


def _of(experiment: str, settings: list[dict[str, Any]]) -> Wanted:
    return [(experiment, one) for one in settings]


#: What each chapter that has runs of its own wants, by its parameters.
PLANS: dict[str, Callable[[Mapping[str, Any]], Wanted]] = {
    "01-background": background,
    "02-1-saliency": saliency,
    "02-2-weight-pruning": weight_pruning,
    **{chapter: _attacks(plan) for chapter, plan in trials.PLANS.items()},
    "03-4-relu": _attacks(lambda chosen: trials.whole_layer(chosen) | trials.milder(chosen)),
    "04-1-units": units,
    "04-2-unit-pruning": unit_pruning,
}
TIMED = ("costs", "unit_costs")  # experiments that measure time, so that nothing else is to run beside them
