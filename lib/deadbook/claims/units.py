"""The criteria of chapter 4: from the runs of one seed to `Evidence`, or None where nothing can be judged.

`on` names the images that penalties are judged on: `train_probe`, which units were scored on, or `other`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from deadbook.analysis.measures import (
    NAMES,
    chosen_removal,
    last_epoch,
    lowest_shared,
    same_choice,
    spearman,
    surviving_correlations,
    t_interval,
    unit_correlations,
)
from deadbook.claims.evidence import (
    ROUNDING,
    Case,
    Evidence,
    Limits,
    of_activation,
    over,
    penalties,
    pruned_by,
)
from deadbook.runs import Run

CONV1 = 8  # its units
HALF = 0.5  # the fraction that C4.3 tells the penalties of
WELL_ABOVE_0, FROM = 0.4, "largest ratio from f = 0.4 on"  # below, ReLU's penalty is near 0
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
        {
            "share of the measurements in which all four choose the same": agreed,
            "worst random draw over the median penalty by MRP": over(worst, exact),
            "median random penalty over the largest of the four medians": over(middle, largest),
        },
        agreed >= limits.agree and worst >= limits.worst * exact,
        middle >= limits.middle_partly * largest,
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
    return Evidence({"mean rank correlation": mean}, mean >= limits.rank, mean > 0)


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
    return Evidence(values, ordered >= limits.ordered, first >= limits.first_partly)


def lowered_by_pruning(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How often removing a tenth of fc1 by MRS lowers the loss."""
    penalty = _penalty(case, on, "fc1", limits.fraction, "mrs")
    if penalty.empty:
        return None
    below = float((penalty < 0).mean())
    return Evidence({"share below 0": below}, below >= limits.share, below > 0)


def tanh_costs_more(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Mean penalties with tanh over those with ReLU (fc1, MRS), at six fractions."""
    values, also = {}, {}
    for fraction in limits.fractions:
        relu, tanh = (_mean_cost(case, on, fraction, "mrs", activation) for activation in ("relu", "tanh"))
        if math.isnan(relu + tanh):
            return None
        if relu > 0:  # where pruning lowers ReLU's loss, a ratio means nothing
            values[f"tanh over ReLU at {fraction:g}"] = tanh / relu
            if fraction >= WELL_ABOVE_0:
                also[FROM] = max(tanh / relu, also.get(FROM, 0))
    if not values:
        return None
    largest = max(values.values())
    values = {"largest ratio": largest} | values
    return Evidence(values, largest >= limits.ratio, largest >= limits.ratio_partly, also)


def hardly_better_than_random(case: Case, on: str, limits: Limits) -> Evidence | None:
    """With tanh, what a random half of fc1 costs over the half chosen by MRS."""
    costs, ratios = {}, {}
    for activation in ("tanh", "relu"):
        random, chosen = costs[activation] = [
            _mean_cost(case, on, limits.fraction, name, activation) for name in ("random", "mrs")
        ]
        if math.isnan(random + chosen):
            return None
        ratios[activation] = over(random, chosen)
    values = {f"random over MRS, {NAMES[name]}": ratio for name, ratio in ratios.items()}
    random, chosen = costs["tanh"]
    return Evidence(values, random < limits.ratio * chosen, ratios["tanh"] < ratios["relu"])


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
    holds, direction_holds = (lost <= points + ROUNDING for points in (limits.lost, limits.lost_partly))
    return Evidence(values, holds, direction_holds)


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
    holds, direction_holds = (
        all(value >= limit for value in values.values())
        for limit in (limits.correlation, limits.correlation_partly)
    )
    return Evidence(values, holds, direction_holds)


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

    direction_holds = within(limits.losses_partly, limits.points_partly)
    return Evidence(values, within(limits.losses, limits.points), direction_holds)


def random_half(case: Case, on: str, limits: Limits) -> Evidence | None:
    """What a random half of fc1 costs with ReLU over what it costs with tanh."""
    relu, tanh = (
        _mean_cost(case, on, limits.fraction, "random", activation) for activation in ("relu", "tanh")
    )
    if math.isnan(relu + tanh):
        return None
    ratio = over(relu, tanh)
    values = {"ReLU over tanh": ratio}
    return Evidence(values, ratio >= limits.ratio, ratio > limits.ratio_partly)


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
        {
            "parameters kept by pruning weights over units": ratio,
            "accuracy in %, weights": 100 * float(best["test_accuracy"]),
            "accuracy in %, units": 100 * float(small),
        },
        ratio >= limits.ratio,
        ratio > 1,
    )


def equally_accurate(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: the accuracy of the network with its units pruned minus its twin's, in points."""
    gaps = []
    for seed in sorted({run.info["settings"]["seed"] for run in case}):
        of_seed = [run for run in case if run.info["settings"]["seed"] == seed]
        pruned, twin = pruned_by(of_seed, "unit_pruning"), pruned_by(of_seed, "weight_pruning", "")
        if pruned is not None and twin is not None:
            small = pruned.table("final").set_index("network")["accuracy"]["compacted"]
            gaps.append(100 * float(small - twin.table("final")["test_accuracy"][0]))
    if on == "other" or len(gaps) < 2:
        return None
    (low, high), mean = t_interval(gaps, limits.level), float(np.mean(gaps))
    values = {"mean difference in points": mean, "interval from": low, "to": high}
    holds = max(-low, high) <= limits.points + ROUNDING
    return Evidence(values, holds, abs(mean) <= limits.points_partly + ROUNDING)


def small_peaks(case: Case, on: str, limits: Limits) -> Evidence | None:
    """What pruning units costs at each step of the schedule, beside the twin's usual changes."""
    pruned, twin = pruned_by(case, "unit_pruning"), pruned_by(case, "weight_pruning", "")
    if pruned is None or twin is None:
        return None
    rows = pruned.table("pruned").query("set == @on and removal == 'propagated'").set_index("fraction")
    jump = (rows["after"] - rows["before"]).sort_index()
    usual = float(twin.table("training")[on].diff().dropna().quantile(limits.percentile / 100))
    small = pruned.table("final").set_index("network")["train_loss"]["compacted"]
    gap = float(small - twin.table("final")["train_loss"][0])
    values = {f"jump at {fraction:g}": float(value) for fraction, value in jump.items()}
    values |= {f"{limits.percentile}th percentile of the twin's changes": usual}
    values |= {"final training loss minus the twin's": gap}
    early, late = jump[jump.index < limits.late_from], jump[jump.index >= limits.late_from]
    holds = (early <= usual).all() and (late > usual).all() and (late < limits.high).all()
    return Evidence(values, bool(holds and abs(gap) <= limits.gap), bool(late.min() > early.max()))


def propagation_helps(case: Case, on: str, limits: Limits) -> Evidence | None:
    """ReLU: where the mean of h in a unit's place costs less than nothing in it."""
    cost = _constants(case, on, "relu", limits.nats, limits.least)
    return (
        None
        if cost is None
        else _share_of(cost["mean of h"] < cost["zero"], limits.share, limits.share_partly)
    )


def propagation_fails(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Tanh: where nothing in a unit's place costs less than the mean of h."""
    cost = _constants(case, on, "tanh", limits.nats, limits.least)
    if cost is None:
        return None
    better = cost["zero"] < cost["mean of h"]
    in_fc1 = int(better[better.index.get_level_values("layer") == "fc1"].sum())
    values = {"combinations": len(better), "share": float(better.mean()), "in fc1": in_fc1}
    return Evidence(values, values["share"] >= limits.share, in_fc1 >= limits.least_partly)


def mean_behind(case: Case, on: str, limits: Limits) -> Evidence | None:
    """ReLU: where the mean of a in a unit's place costs less than the mean of h."""
    cost = _constants(case, on, "relu", limits.nats, limits.least)
    return (
        None
        if cost is None
        else _share_of(cost["mean of a"] < cost["mean of h"], limits.share, limits.share_partly)
    )


def as_good_as_norms(case: Case, on: str, limits: Limits) -> Evidence | None:
    """ReLU: where pruning by MRS costs hardly more than by the better of the two norms."""
    runs = of_activation(case, "relu")
    if runs is None:
        return None
    cost = _means(runs[0], on, "scorer", ("mrs", "norm_l1", "norm_l2"), limits.nats)
    if len(cost) < limits.least:
        return None
    better = cost["mrs"] <= limits.times * cost[["norm_l1", "norm_l2"]].min(axis=1)
    return _share_of(better, limits.share, limits.share_partly)


def norms_catch_up(case: Case, on: str, limits: Limits) -> Evidence | None:
    """ReLU, a tenth of fc1: what a norm costs beyond the larger of MRP and MRS, early and late."""
    cost = _by_step(case, on, limits.fraction, "relu")
    if cost is None:
        return None
    parts = {"early": cost[cost.index <= limits.early], "late": cost[cost.index > _before_last_epoch(case)]}
    means = {when: rows.mean() for when, rows in parts.items()}
    values = {
        f"{NAMES[norm]}, {when}": float(mean[norm] - mean[["mrp", "mrs"]].max())
        for norm in ("norm_l1", "norm_l2")
        for when, mean in means.items()
    }
    pairs = [tuple(values.values())[i : i + 2] for i in (0, 2)]
    holds = all(early >= limits.excess and abs(late) <= limits.excess for early, late in pairs)
    return Evidence(values, holds, all(early > 0 and late < early for early, late in pairs))


def order_with_tanh(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Tanh, fc1: in how many of six fractions the four scores' mean penalties are in the thesis's order."""
    right = 0
    for fraction in (*limits.small, *limits.middle, *limits.large):
        cost = _by_step(case, on, fraction, "tanh")
        if cost is None:
            return None
        mean = cost.mean()
        ours, norms = mean[["mrp", "mrs"]], mean[["norm_l1", "norm_l2"]]
        if fraction in limits.small:
            right += bool(ours.max() < norms.min())
        elif fraction in limits.middle:
            right += bool(ours.min() > norms.max())
        else:
            right += bool(mean["mrp"] < mean.drop("mrp").min() and mean["mrs"] > mean.drop("mrs").max())
    return Evidence(
        {"fractions in that order": right}, right >= limits.ordered, right >= limits.ordered_partly
    )


def cheap(case: Case, on: str, limits: Limits) -> Evidence | None:
    """What MRS of all units costs, in forward-and-backward passes; a machine's figure."""
    costs = case[0].table("costs").query("scorer == 'mrs of all units' and widths == 1")
    if on == "other" or costs.empty:
        return None
    passes = float(costs["passes"].iloc[0])
    return Evidence({"passes": passes}, passes <= limits.passes, passes <= limits.passes_partly)


def norms_grow(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How the norms of conv1's units grow, and whether least in those of low final MRP."""
    rows = case[0].table("scores").query("layer == 'conv1'")
    if on == "other" or rows["step"].nunique() < 2:
        return None
    first = rows[rows["step"] == rows["step"].min()].set_index("unit")["norm_l1"]
    final = last_epoch(rows).groupby("unit")[["norm_l1", "mrp"]].mean()
    growth = final["norm_l1"] / first - 1
    grew, correlation = float((growth > 0).mean()), spearman(growth, final["mrp"])
    values = {"share that grows": grew, "Spearman of growth and final MRP": correlation}
    return Evidence(values, grew >= limits.share and correlation >= limits.correlation, correlation > 0)


def dead_early(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How much of the lower half of a layer by MRP, at the end of an epoch, is in that of the last epoch."""
    scores = case[0].table("scores")
    before = scores[scores["epoch"] <= limits.epoch]
    if on == "other" or before.empty or scores["epoch"].max() <= limits.epoch:
        return None
    before = before[before["step"] == before["step"].max()].set_index(["layer", "unit"])["mrp"]
    after = last_epoch(scores).groupby(["layer", "unit"])["mrp"].mean()
    values = {
        f"share in both, {it}": lowest_shared(before[it], after[it]) for it in ("conv1", "conv2", "fc1")
    }
    conv1, *others = values.values()
    holds = conv1 >= limits.conv1 and min(others) >= limits.others
    return Evidence(values, holds, min(values.values()) >= limits.share_partly)


def units_beat_weights_equally(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The smallest of chapter 2's networks as accurate as the one with its units pruned, over its size."""
    pruned = pruned_by(case, "unit_pruning")
    by_weights = [run for run in case if run.by and run.info["experiment"] == "weight_pruning"]
    twin = pruned_by(case, "weight_pruning", "")
    if on == "other" or pruned is None or twin is None or len(by_weights) < 2:
        return None
    left = float(pruned.table("sizes").set_index("network")["parameters"]["compacted"])
    small = float(pruned.table("final").set_index("network")["accuracy"]["compacted"])
    rows = pd.concat([run.table("removal") for run in by_weights])
    rows = rows[rows["carried"] & (100 * rows["test_accuracy"] >= 100 * small - limits.lost - ROUNDING)]
    kept = float(rows["parameters"].min() if len(rows) else twin.table("removal")["parameters"].max())
    values = {"parameters kept by pruning weights over units": kept / left, "networks as accurate": len(rows)}
    return Evidence(values, kept / left >= limits.ratio, kept > left)


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
    runs = [run for run in case if activation is None or run.info["settings"]["activation"] == activation]
    if not runs:
        return pd.Series(dtype=float)
    if mean:
        return means_by_step(runs[0], on).get((layer, fraction, scorer), pd.Series(dtype=float))
    rows = penalties(case, on, scorer, fraction, activation)
    rows = rows[(rows["layer"] == layer) & (rows["constant"] == "mean of h")]
    return rows.set_index("step")["penalty"]


@cache
def means_by_step(run: Run, on: str) -> dict[tuple[str, float, str], pd.Series]:
    """Mean penalties after bias propagation, by step, of each layer, fraction and scorer."""
    rows = run.table("penalties")
    rows = rows[(rows["set"] == on) & (rows["constant"] == "mean of h")]
    means = rows.groupby(["layer", "fraction", "scorer", "step"], observed=True)["penalty"].mean()
    return {key: part.droplevel([0, 1, 2]) for key, part in means.groupby(level=[0, 1, 2])}


def _means(run: Run, on: str, column: str, names: Sequence[str], nats: float) -> pd.DataFrame:
    """Mean penalties over training by (layer, fraction), for some constants (of MRS's choice) or scorers.

    Only combinations are there in which one of them is at least so many nats.
    """
    rows = run.table("penalties").query("set == @on and scorer != 'random'")
    rows = rows[rows["scorer"] == "mrs"] if column == "constant" else rows[rows["constant"] == "mean of h"]
    means = rows[rows[column].isin(names)].groupby(["layer", "fraction", column])["penalty"].mean().unstack()
    means = means.dropna() if set(names) <= set(means) else means[:0].reindex(columns=names)
    return means[means.max(axis=1) >= nats]


def _constants(case: Case, on: str, activation: str, nats: float, least: int) -> pd.DataFrame | None:
    """`_means` of the constants in a network; None if fewer than `least` combinations are eligible."""
    runs = of_activation(case, activation)
    means = _means(runs[0], on, "constant", ("mean of h", "mean of a", "zero"), nats) if runs else ()
    return means if len(means) >= least else None


def _share_of(combinations: pd.Series, share: float, more_than: float) -> Evidence:
    """In how many of the combinations something holds."""
    held = float(combinations.mean())
    return Evidence({"combinations": len(combinations), "share": held}, held >= share, held > more_than)


def _by_step(case: Case, on: str, fraction: float, activation: str) -> pd.DataFrame | None:
    """Penalties of a fraction of fc1 by the four scores, a row a step; None: there are none."""
    cost = pd.DataFrame({name: _penalty(case, on, "fc1", fraction, name, activation) for name in SCORERS})
    return cost if len(cost) and not cost.isna().any(axis=None) else None


def _before_last_epoch(case: Case) -> float:
    """The step at which the last epoch begins."""
    training = case[0].table("training")
    return float(training["step"][training["epoch"] <= training["epoch"].max() - 1].max())
