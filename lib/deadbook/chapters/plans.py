"""Which runs each chapter wants, by its parameters: the chapter and `make results` both ask here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deadbook.analysis import trials
from deadbook.datasets import train_size
from deadbook.runs import grid
from deadbook.settings import shared, training_steps

Wanted = dict[str, list[dict[str, Any]]]  #: settings of runs, by the name of their experiment
OPEN = "05-open-questions"
#: The chapters whose parameters its runs have, and whose own runs it reads.
LEFT_OPEN = ("02-1-saliency", "03-4-relu", "04-1-units", "04-2-unit-pruning")
AFTER = 400  # steps that a rescaled unit is followed, in a training that is long enough
IMAGES_SCORED_ON = (100, 1000, 4000, 16000)


def background(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 1."""
    return {"background": grid(shared("background", chosen), seed=range(chosen["seeds"]))}


def saliency(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 2.1; costs are measured with the first activation."""
    kinds, seeds = chosen["activations"], range(chosen["seeds"])
    return {
        "costs": grid(shared("costs", chosen), activation=kinds[:1], seed=seeds),
        "saliency": grid(shared("saliency", chosen), activation=kinds, seed=seeds),
        "checkpoint": carried(chosen),
    }


def weight_pruning(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 2.2: pruned by layer, by network, and the unpruned twin; what its slider goes through."""
    base = shared("weight_pruning", chosen)
    ways = [{"by": by} for by in ("layer", "network") if chosen["schedule"]]
    ways += [{"by": "layer", "schedule": []}]
    pruned = [base | way | {"seed": seed} for seed in range(chosen["seeds"]) for way in ways]
    return {"weight_pruning": pruned, "explorer": explored(chosen, "weights"), "checkpoint": carried(chosen)}


def units(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 4.1; the runs of the second widths come last."""
    runs = grid(shared("units", chosen), activation=chosen["activations"], seed=range(chosen["seeds"]))
    if chosen["network"] == "small_cnn" and chosen["wider"] not in ([], chosen["widths"]):
        wider = {"widths": chosen["wider"]}
        runs += [run | wider for run in runs if run["seed"] < chosen["wider_seeds"]]
    fresh = [run for run in runs if run["widths"] == chosen["widths"] and not trials.committed("units", run)]
    first = min((run["seed"] for run in fresh), default=None)  # of this seed all weights are kept
    return {
        "units": [
            run | ({"snapshots": True} if run in fresh and run["seed"] == first else {}) for run in runs
        ],
        "checkpoint": carried(chosen),
    }


def unit_pruning(chosen: Mapping[str, Any]) -> Wanted:
    """Of chapter 4.2; of the weights' runs the unpruned ones come first."""
    seeds = range(chosen["seeds"])
    timed = shared("unit_costs", chosen) | {"seed": 0}
    weights = shared("weight_pruning", chosen) | {"layers": chosen["all_layers"], "by": "layer"}
    schedules = [[], chosen["weight_schedule"]] if chosen["weight_schedule"] else [[]]
    return {
        "unit_costs": [timed | {"fraction": fraction} for _, fraction in chosen["schedule"][-1:]],
        "unit_pruning": grid(shared("unit_pruning", chosen), seed=seeds),
        "weight_pruning": grid(weights, schedule=schedules, seed=seeds),
        "explorer": explored(chosen, "units"),
        "checkpoint": carried(chosen),
    }


def questions(parameters: Mapping[str, Mapping[str, Any]]) -> Wanted:
    """Of chapter 5, by its parameters and those of the chapters that left a question open.

    A question that the runs of such a chapter answer takes them as that chapter wants them.
    """
    chosen, weights, relu = parameters[OPEN], parameters["02-1-saliency"], parameters["03-4-relu"]
    narrow, both, first = parameters["04-1-units"], weights["activations"], weights["activations"][:1]
    every, steps = weights["measure_every"], training_steps(weights) // weights["epochs"]
    ends = [end for end in chosen["earlier"] if end < weights["epochs"]] + [weights["epochs"]]
    images = [number for number in IMAGES_SCORED_ON if number <= train_size(weights["dataset"])]
    attack = shared("rescaling", relu) | {"after": min(AFTER, (training_steps(relu) - relu["start"]) // 2)}
    attack |= {"pixels": "official"} if relu["dataset"] == "cifar10" else {}

    def runs(experiment: str, kinds: Sequence[str], **more: Any) -> Wanted:
        settings = shared(experiment, weights) | more
        return {experiment: grid(settings, activation=kinds, seed=chosen["seed_list"])}

    scores = {"saliency": saliency(weights)["saliency"]}
    wanted = {
        "O1": runs("rescoring", both, ends=ends),
        "O2": scores,
        "O3": scores,
        "O4": runs("grouping", both, measure_every=min(10 * every, steps), fractions=[0.8]),
        "O5": runs("averaging", first, measure_every=min(3 * every, steps), images=images),
        "O6": {"units": [run for run in units(narrow)["units"] if run["widths"] == narrow["widths"]]},
        "O7": {"attacks": [run for role in trials.whole_layer(relu).values() for run in role]},
        "O8": {"rescaling": grid(attack, seed=chosen["seed_list"])},
        "O10": {"unit_costs": unit_pruning(parameters["04-2-unit-pruning"])["unit_costs"]},
        "O11": runs("revival", first, layers=["fc1"], measure_every=steps // 4, epoch=2, below=0.05),
    }
    return {experiment: of for name in chosen["questions"] for experiment, of in wanted.get(name, {}).items()}


def explored(chosen: Mapping[str, Any], of: str) -> list[dict[str, Any]]:
    """What a slider goes through: one network, whose weights or units are pruned."""
    return [shared("explorer", chosen) | {"of": of, "seed": 0}]


def carried(chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The network that a page carries, of the first activation; of a reader's own none."""
    fixed = {"widths": [8, 16, 64], "activation": chosen.get("activations", [None])[0]}
    one = shared("checkpoint", fixed | chosen) | {"seed": 0}
    return [one] if one["network"] == "small_cnn" else []


def attacks(plan: Callable[[Mapping[str, Any]], Mapping[str, list]]) -> Callable[..., Wanted]:
    """Of a chapter that plans its attacks by role."""
    return lambda chosen: {"attacks": [run for role in plan(chosen).values() for run in role]}


#: What each chapter that has runs of its own wants, by its parameters.
PLANS: dict[str, Callable[[Mapping[str, Any]], Wanted]] = {
    "01-background": background,
    "02-1-saliency": saliency,
    "02-2-weight-pruning": weight_pruning,
    "03-2-batch-norm": attacks(trials.some_units),
    "03-3-tanh": attacks(trials.some_units),
    "03-4-relu": attacks(trials.one_layer),
    "04-1-units": units,
    "04-2-unit-pruning": unit_pruning,
}
TIMED = ("costs", "unit_costs")  # experiments that measure time, so nothing else must run beside them


def every(parameters: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Chapter, experiment and settings of each run that chapters with these parameters want."""
    plans = {chapter: plan(parameters[chapter]) for chapter, plan in PLANS.items() if chapter in parameters}
    plans |= {OPEN: questions(parameters)} if {OPEN, *LEFT_OPEN} <= parameters.keys() else {}
    for chapter, plan in plans.items():
        for experiment, wanted in plan.items():
            for run in wanted:
                yield chapter, experiment, run
