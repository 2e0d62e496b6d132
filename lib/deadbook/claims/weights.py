"""The criteria of chapter 2: from the runs of one seed to `Evidence`, or None where nothing can be judged.

`on` names the images that penalties are judged on: `probe`, which weights were scored on, or `other`.
"""

from __future__ import annotations

import itertools
import math

import pandas as pd

from deadbook.analysis.measures import (
    NAMES,
    SIGNED,
    chosen_removal,
    empty_units,
    mean_penalties,
    rank_correlations,
    steady,
)
from deadbook.claims.evidence import ROUNDING, Case, Evidence, Limits, penalties, pruned_by

CONV1 = 200  # its weights
APPROXIMATIONS = ("taylor1", "taylor2", "hessian")
ABSOLUTE = tuple(f"{scorer}_abs" for scorer in SIGNED)


def negative_share(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The share of weights of conv1 whose exact loss change is negative, over training."""
    scores = case[0].table("scores").query("set == @on").dropna(subset="loss_change")
    share = (scores["loss_change"] < 0).groupby(scores["step"]).mean()
    late, last = share[share.index > limits.after], share.index.max()
    if late.empty:
        return None
    second = share[(share.index > last / 4) & (share.index <= last / 2)].mean()
    fourth = share[share.index > last * 3 / 4].mean()
    mean, drift = float(late.mean()), float(fourth - second)
    values = {"mean share": mean, "last quarter minus second": drift}
    holds = limits.low <= mean <= limits.high and abs(drift) < limits.drift
    return Evidence(values, holds, directs=mean > limits.low_partly)


def two_lowest(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The penalty of removing the hundredth of conv1 (2 weights) of lowest loss change."""
    penalty = _penalty(case, on, limits.weights, "loss_change")
    if penalty.empty:
        return None
    below = float((penalty < 0).mean())
    mean = float(penalty.mean())
    values = {"share below 0": below, "mean penalty in nats": mean}
    return Evidence(values, holds=below >= limits.share, directs=mean < 0)


def ten_lowest(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The penalty of removing a twentieth of conv1 (10 weights), early and late."""
    penalty = _penalty(case, on, limits.weights, "loss_change")
    early, late = penalty[penalty.index <= limits.early], penalty[penalty.index > _last_epoch(case)]
    if early.empty or late.empty:
        return None
    first, median, mean = (float(number) for number in (early.mean(), late.median(), late.mean()))
    values = {f"mean over the first {limits.early} steps": first, "late median": median, "late mean": mean}
    return Evidence(values, holds=first < 0 < median, directs=mean > first)


def worse_than_random(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How often, late, ten weights chosen by loss change cost more than one random draw of ten."""
    exact, draw = (_penalty(case, on, limits.weights, scorer) for scorer in ("loss_change", "random"))
    late = exact.index > _last_epoch(case)
    if not late.any():
        return None
    worse = float((exact[late] > draw[late]).mean())
    return Evidence(values={"share worse": worse}, holds=worse >= limits.share, directs=worse > 0)


def approximations(case: Case, on: str, limits: Limits) -> Evidence | None:
    """What choosing by an approximation costs beyond choosing by the loss change, late and early."""
    exact = _penalty(case, on, limits.weights, "loss_change")
    late, early = exact.index > _last_epoch(case), exact.index <= _first_epoch(case)
    if not late.any() or not early.any():
        return None
    values = {}
    for scorer in APPROXIMATIONS:
        excess = _penalty(case, on, limits.weights, scorer) - exact
        values[f"{NAMES[scorer]}, late minus early"] = float(excess[late].mean() - excess[early].mean())
    grew = [value > 0 for value in values.values()]
    return Evidence(values=values, holds=all(grew), directs=grew[0])


def best_ranking(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Which approximation ranks the weights most like the loss change, at both ends of the training."""
    scores = case[0].table("scores").query("set == @on")
    if scores.empty:
        return None
    values, best = {}, []
    for when, step in {"first": scores["step"].min(), "last": scores["step"].max()}.items():
        now = scores[scores["step"] == step]
        rank = rank_correlations(now, APPROXIMATIONS)
        values |= {f"{NAMES[scorer]}, {when}": value for scorer, value in rank.items()}
        best.append(max(rank, key=rank.get) == "taylor1")
    return Evidence(values=values, holds=all(best), directs=any(best))


def absolute_or_signed(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Mean penalty of pruning most weights by absolute scores, minus that by signed ones."""
    values, better = {}, {}
    for activation in ("relu", "tanh"):
        for scorer in SIGNED:
            signed, absolute = (
                _penalty(case, on, limits.weights, name, activation).mean()
                for name in (scorer, f"{scorer}_abs")
            )
            if math.isnan(signed):  # no such run, or no such fraction
                return None
            values[f"{NAMES[activation]}, {NAMES[scorer]}, absolute minus signed"] = float(absolute - signed)
            better[activation, scorer] = absolute < signed
    relu = sum(better["relu", scorer] for scorer in SIGNED)
    return Evidence(values=values, holds=all(better.values()), directs=relu >= limits.better_partly)


def magnitude_best(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether magnitude has the lowest mean penalty of pruning most weights, and the steadiest."""
    values, holds, directs = {}, True, False
    for activation in ("relu", "tanh"):
        penalty = {
            scorer: _penalty(case, on, limits.weights, scorer, activation)
            for scorer in ("magnitude", *SIGNED, *ABSOLUTE)
        }
        if penalty["magnitude"].empty:
            return None
        for name, statistic in {"mean": "mean", "deviation": "std"}.items():
            of_each = {scorer: getattr(series, statistic)() for scorer, series in penalty.items()}
            if any(map(math.isnan, of_each.values())):  # one measurement has no deviation
                return None
            magnitude, best_other = of_each.pop("magnitude"), min(of_each.values())
            ratio = float(magnitude / best_other)
            values[f"{NAMES[activation]}, {name} of magnitude over the best other's"] = ratio
            holds = holds and bool(magnitude < best_other)
        if activation == "relu":
            median = {scorer: penalty[scorer].median() for scorer in ("magnitude", *ABSOLUTE)}
            directs = min(median, key=median.get) == "magnitude"
    return Evidence(values=values, holds=holds, directs=directs)


def cost_in_passes(case: Case, on: str, limits: Limits) -> Evidence | None:
    """What second-order scores cost, and how that grows with the network; a machine's figures."""
    if on != "probe":
        return None
    costs = case[0].table("costs")
    second = costs[costs["scorer"].isin(["taylor2", "hessian"])].set_index(["scorer", "widths"])
    if 2 not in costs["widths"].to_numpy():
        return None
    a_weight = (second["seconds"] / second["weights"]).unstack("widths")
    passes, growth = float(second["passes"].max()), float((a_weight[2] / a_weight[1]).max())
    values = {"passes": passes, "time a weight when all widths double": growth}
    holds = passes <= limits.passes and growth <= limits.growth
    return Evidence(values, holds, directs=passes <= limits.passes_partly)


def jumps(case: Case, on: str, limits: Limits) -> Evidence | None:
    """What pruning by schedule costs at each step of it, and whether training makes up for it."""
    pruned, twin = (pruned_by(case, "weight_pruning", by) for by in ("layer", ""))
    if pruned is None or twin is None:
        return None
    rows = pruned.table("pruned").query("set == @on").set_index("fraction")
    jump = (rows["after"] - rows["before"]).sort_index()
    usual = float(twin.table("training")[on].diff().dropna().quantile(limits.percentile / 100))
    final = [run.table("final")["train_loss"][0] for run in (pruned, twin)]
    gap = float(final[0] - final[1])
    values = {f"jump at {fraction:g}": float(value) for fraction, value in jump.items()}
    values |= {f"{limits.percentile}th percentile of the twin's changes": usual}
    values |= {"final training loss minus the twin's": gap}
    early, late = jump[jump.index < limits.large_from], jump[jump.index >= limits.large_from]
    holds = bool((early < limits.small).all() and (late > usual).all() and abs(gap) <= limits.gap)
    return Evidence(values, holds, jump.is_monotonic_increasing and abs(gap) <= limits.gap_partly)


def empty_filters(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How many filters of conv1 have lost all their weights."""
    pruned = pruned_by(case, "weight_pruning")
    if on != "probe" or pruned is None or "conv1" not in pruned.table("weights")["layer"].to_list():
        return None
    empty = empty_units(pruned, "conv1")
    values = {"empty filters of conv1": empty}
    return Evidence(values, holds=empty >= limits.empty, directs=empty >= limits.empty_partly)


def half_the_network(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How small the network gets at nearly the accuracy of the masked one."""
    pruned, twin = (pruned_by(case, "weight_pruning", by) for by in ("layer", ""))
    if pruned is None or twin is None:
        return None
    best = chosen_removal(pruned, on, twin, limits.lost)
    if best is None:
        return None
    masked, dense = (run.table("final")["test_accuracy"][0] for run in (pruned, twin))
    lost = 100 * float(masked - best["test_accuracy"])
    accurate = lost <= limits.lost + ROUNDING
    share = best["share"]
    values = {"share of the parameters left": share, "points of accuracy below the masked network": lost}
    values["points below the dense twin"] = 100 * float(dense - best["test_accuracy"])
    holds, directs = (accurate and share <= limit for limit in (limits.share, limits.share_partly))
    return Evidence(values, holds, directs)


def same_on_all_sets(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether the scorers' order by mean penalty depends on the images."""
    if on != "probe":
        return None
    means = mean_penalties(case[0].table("penalties"), limits.weights / CONV1)
    if means.shape[1] < 3:
        return None
    ranks = means.rank()
    # one of a few fractions, often 0.9 itself: the last digits must not decide
    pairs = [steady(ranks[a].corr(ranks[b])) for a, b in itertools.combinations(means.columns, 2)]
    same = means.idxmin().nunique() == 1
    values = {"lowest rank correlation": min(pairs), "same best scorer (1 yes, 0 no)": float(same)}
    return Evidence(values, min(pairs) >= limits.rank and same, min(pairs) >= limits.rank_partly)


def _penalty(case: Case, on: str, weights: int, scorer: str, activation: str | None = None) -> pd.Series:
    """Penalties of pruning so many weights of conv1, scored on `probe`, by step; of random ones one draw."""
    rows = penalties(case, on, scorer, weights / CONV1, activation)
    rows = rows[(rows["draw"] == 0) & (rows["scored_on"] == "probe")]
    return rows.set_index("step")["penalty"].dropna()


def _last_epoch(case: Case) -> float:
    """The step at which the last epoch begins."""
    return _first_epoch(case) * (case[0].info["settings"]["epochs"] - 1)


def _first_epoch(case: Case) -> float:
    """The step at which the first epoch ends."""
    training = case[0].table("training")
    return training["step"].max() / training["epoch"].max()
