"""The criteria of chapter 4: from the runs of one seed to `Evidence`, or None where nothing can be judged.

`on` names the images that penalties are judged on: `train_probe`, which units were scored on, or `other`.
"""

from __future__ import annotations

import math

import pandas as pd

from deadbook.analysis.measures import (
    NAMES,
    chosen_removal,
    same_choice,
    surviving_correlations,
    unit_correlations,
)
from deadbook.claims.evidence import ROUNDING, Case, Evidence, Limits, penalties, pruned_by

CONV1 = 8  # its units
HALF = 0.5  # the fraction that C4.3 tells the penalties of
SCORERS = ("mrp", "mrs", "norm_l1", "norm_l2")


def same_units(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether the scores choose the same half of conv1, and what random halves cost beside them."""
    half = limits.units / CONV1
    scores = case[0].table("scores").query("layer == 'conv1'")
    by_score = {name: _penalty(case, on, "conv1", half, name) for name in SCORERS}
    random = _penalty(case, on, "conv1", half, "random")
    draws = _penalty(case, on, "conv1", half, "random", mean=False)
    if scores.empty or by_score["mrp"].empty or draws.empty:
        return None
    agreed = float(same_choice(scores, SCORERS, half).mean())
    exact = float(by_score["mrp"].median())
    largest = float(max(penalty.median() for penalty in by_score.values()))
    # the worst of all draws, but as ever the mean of the ten where "random" is all that is said
    worst, middle = float(draws.max()), float(random.median())
    return Evidence(
        values={
            "share of the measurements in which all four choose the same": agreed,
            "worst random draw over the median penalty by MRP": _over(worst, exact),
            "median random penalty over the largest of the four medians": _over(middle, largest),
        },
        holds=agreed >= limits.agree and worst >= limits.worst * exact,
        directs=middle >= limits.middle_partly * largest,
    )


def norms_and_penalties(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether units of conv1 with a low MRP have a small norm."""
    if on == "other":
        return None
    scores = case[0].table("scores")
    scores = scores[(scores["layer"] == "conv1") & (scores["step"] > limits.after)]
    if scores.empty:
        return None
    mean = float(unit_correlations(scores, ("norm_l1",)).mean()["norm_l1"])
    if math.isnan(mean):  # all units alike, or only one
        return None
    return Evidence(values={"mean rank correlation": mean}, holds=mean >= limits.rank, directs=mean > 0)


def order_of_scores(case: Case, on: str, limits: Limits) -> Evidence | None:
    """In how many of six fractions MRP costs least late in training, then MRS, then the norms."""
    values, ordered, first = {}, 0, 0
    for fraction in limits.fractions:
        means = {}
        for name in SCORERS:
            penalty = _penalty(case, on, "fc1", fraction, name)
            means[name] = float(penalty[penalty.index > limits.after].mean())
        if any(map(math.isnan, means.values())):
            return None
        best = min(means["norm_l1"], means["norm_l2"])
        ordered += means["mrp"] < means["mrs"] < best
        first += means["mrp"] == min(means.values())
        if fraction == HALF:
            values = {f"mean penalty at {HALF}, {NAMES[name]}": mean for name, mean in means.items()}
    values = {"fractions in that order": float(ordered), "fractions with MRP lowest": float(first)} | values
    return Evidence(values=values, holds=ordered >= limits.ordered, directs=first >= limits.first_partly)


def lowered_by_pruning(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How often removing a tenth of fc1 by MRS lowers the loss."""
    penalty = _penalty(case, on, "fc1", limits.fraction, "mrs")
    if penalty.empty:
        return None
    below = float((penalty < 0).mean())
    return Evidence(values={"share below 0": below}, holds=below >= limits.share, directs=below > 0)


def tanh_costs_more(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Mean penalties with tanh over those with ReLU (fc1, MRS), at six fractions."""
    values = {}
    for fraction in limits.fractions:
        relu, tanh = (_mean_cost(case, on, fraction, "mrs", activation) for activation in ("relu", "tanh"))
        if math.isnan(relu + tanh):
            return None
        if relu > 0:  # where pruning lowers ReLU's loss, a ratio means nothing
            values[f"tanh over ReLU at {fraction:g}"] = tanh / relu
    if not values:
        return None
    largest = max(values.values())
    values = {"largest ratio": largest} | values
    return Evidence(values, holds=largest >= limits.ratio, directs=largest >= limits.ratio_partly)


def hardly_better_than_random(case: Case, on: str, limits: Limits) -> Evidence | None:
    """With tanh, what a random half of fc1 costs over the half chosen by MRS."""
    costs, ratios = {}, {}
    for activation in ("tanh", "relu"):
        random, chosen = costs[activation] = [
            _mean_cost(case, on, limits.fraction, name, activation) for name in ("random", "mrs")
        ]
        if math.isnan(random + chosen):
            return None
        ratios[activation] = _over(random, chosen)
    values = {f"random over MRS, {NAMES[name]}": ratio for name, ratio in ratios.items()}
    random, chosen = costs["tanh"]
    return Evidence(values, random < limits.ratio * chosen, directs=ratios["tanh"] < ratios["relu"])


def as_accurate(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Accuracy of the network with its units pruned against its twin's."""
    pruned, twin = pruned_by(case, "unit_pruning"), pruned_by(case, "weight_pruning", "")
    if on == "other" or pruned is None or twin is None:
        return None
    small = pruned.table("final").set_index("network")["accuracy"]["compacted"]
    left = pruned.table("sizes").set_index("network")["parameters"]["compacted"]
    dense = twin.table("final")["test_accuracy"][0]
    lost = 100 * float(dense - small)
    values = {"points below the twin": lost, "accuracy in %": 100 * float(small), "parameters": float(left)}
    holds, directs = (lost <= points + ROUNDING for points in (limits.lost, limits.lost_partly))
    return Evidence(values, holds, directs)


def untouched_weights(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How like the twin's the sizes of the surviving weights are, in each layer."""
    pruned, twin = pruned_by(case, "unit_pruning"), pruned_by(case, "weight_pruning", "")
    if on == "other" or pruned is None or twin is None:
        return None
    known = ["layer", "units", "channels", "height", "width"]
    shapes = [run.table("weights")[known].to_dict("records") for run in (pruned, twin)]
    if shapes[0] != shapes[1]:  # a twin of another network is none
        return None
    correlations = surviving_correlations(pruned, twin)
    values = {f"correlation in {layer}": value for layer, value in correlations.items()}
    holds, directs = (
        all(value >= limit for value in values.values())
        for limit in (limits.correlation, limits.correlation_partly)
    )
    return Evidence(values, holds, directs)


def reached(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Final losses and accuracy against the thesis's."""
    if on == "other":
        return None
    final = case[0].table("final").iloc[0]
    values = {
        "training loss": float(final["train_loss"]),
        "test loss": float(final["test_loss"]),
        "accuracy in %": 100 * float(final["accuracy"]),
    }
    off = {name: abs(value - limits.thesis[name]) for name, value in values.items()}
    points = off.pop("accuracy in %")

    def within(nats: float, percent: float) -> bool:
        return max(off.values()) <= nats + ROUNDING and points <= percent + ROUNDING

    directs = within(limits.losses_partly, limits.points_partly)
    return Evidence(values, within(limits.losses, limits.points), directs)


def random_half(case: Case, on: str, limits: Limits) -> Evidence | None:
    """What a random half of fc1 costs with ReLU over what it costs with tanh."""
    relu, tanh = (
        _mean_cost(case, on, limits.fraction, "random", activation) for activation in ("relu", "tanh")
    )
    if math.isnan(relu + tanh):
        return None
    ratio = _over(relu, tanh)
    values = {"ReLU over tanh": ratio}
    return Evidence(values, holds=ratio >= limits.ratio, directs=ratio > limits.ratio_partly)


def units_beat_weights(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How many parameters chapter 2's way keeps, over those that are left when units are pruned."""
    pruned, by_weights = (pruned_by(case, experiment) for experiment in ("unit_pruning", "weight_pruning"))
    if pruned is None or by_weights is None:
        return None
    best = chosen_removal(by_weights, on, points=limits.lost)
    if best is None:
        return None
    left = float(pruned.table("sizes").set_index("network")["parameters"]["compacted"])
    small = pruned.table("final").set_index("network")["accuracy"]["compacted"]
    ratio = float(best["parameters"]) / left
    return Evidence(
        values={
            "parameters kept by pruning weights over units": ratio,
            "accuracy in %, weights": 100 * float(best["test_accuracy"]),
            "accuracy in %, units": 100 * float(small),
        },
        holds=ratio >= limits.ratio,
        directs=ratio > 1,
    )


def _over(penalty: float, other: float) -> float:
    """The ratio of two penalties: infinite where only the other is no loss, undefined where neither is."""
    if other > 0:
        return penalty / other
    return math.inf if penalty > 0 else math.nan


def _mean_cost(case: Case, on: str, fraction: float, scorer: str, activation: str) -> float:
    """The mean penalty over training of pruning such a fraction of fc1; nan: there is no such run."""
    return float(_penalty(case, on, "fc1", fraction, scorer, activation).mean())


def _penalty(
    case: Case,
    on: str,
    layer: str,
    fraction: float,
    scorer: str,
    activation: str | None = None,
    mean: bool = True,
) -> pd.Series:
    """Penalties after bias propagation, by step; of random draws their mean, or all of them."""
    rows = penalties(case, on, scorer, fraction, activation)
    rows = rows[(rows["layer"] == layer) & (rows["constant"] == "mean of h")]
    return rows.groupby("step")["penalty"].mean() if mean else rows.set_index("step")["penalty"]
