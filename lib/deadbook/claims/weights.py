"""The criteria of chapter 2: from the runs of one seed to `Evidence`; `Lacking` where nothing can be judged.

`on` names the images that penalties are judged on: `probe`, which weights were scored on, or `other`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from deadbook.analysis import measures
from deadbook.analysis.measures import NAMES, SIGNED
from deadbook.claims.evidence import (
    ROUNDING,
    Case,
    Evidence,
    Limits,
    jumps_beside,
    known,
    need,
    of_activation,
    pruned_by,
)
from deadbook.runs import Run

CONV1 = 200  # its weights
APPROXIMATIONS = ("taylor1", "taylor2", "hessian")
ABSOLUTE = tuple(f"{scorer}_abs" for scorer in SIGNED)
NETWORKS = ("relu", "tanh")


def negative_share(case: Case, on: str, limits: Limits) -> Evidence:
    """The share of weights of conv1 whose exact loss change is negative, over training."""
    scores = measures.rows(case[0], "scores", set=on).dropna(subset="loss_change")
    share = (scores["loss_change"] < 0).groupby(scores["step"]).mean()
    late, last = share[share.index > limits.after], share.index.max()
    need(late)
    second = share[(share.index > last / 4) & (share.index <= last / 2)].mean()
    fourth = share[share.index > last * 3 / 4].mean()
    mean, drift = float(late.mean()), float(fourth - second)
    values = {"mean share": mean, "last quarter minus second": drift}
    holds = limits.low <= mean <= limits.high and abs(drift) < limits.drift
    return Evidence(values, holds, mean > limits.low_partly)


def two_lowest(case: Case, on: str, limits: Limits) -> Evidence:
    """The penalty of removing the hundredth of conv1 (2 weights) of lowest loss change."""
    penalty = _penalty(case, on, limits.weights, "loss_change")
    need(penalty)
    below, mean = float((penalty < 0).mean()), float(penalty.mean())
    values = {"share below 0": below, "mean penalty in nats": mean}
    return Evidence(values, below >= limits.share, mean < 0)


def ten_lowest(case: Case, on: str, limits: Limits) -> Evidence:
    """The penalty of removing a twentieth of conv1 (10 weights), early and late."""
    penalty = _penalty(case, on, limits.weights, "loss_change")
    need(penalty)
    early, late = penalty[penalty.index <= limits.early], penalty[penalty.index > _last_epoch(case)]
    need(early, late)
    first, median, mean = float(early.mean()), float(late.median()), float(late.mean())
    values = {f"mean over the first {limits.early} steps": first, "late median": median, "late mean": mean}
    return Evidence(values, first < 0 < median, mean > first)


def worse_than_random(case: Case, on: str, limits: Limits) -> Evidence:
    """How often, late, ten weights chosen by loss change cost more than one random draw of ten."""
    exact, draw = (_penalty(case, on, limits.weights, scorer) for scorer in ("loss_change", "random"))
    late = exact.index > _last_epoch(case)
    need(late.any())
    worse = float((exact[late] > draw[late]).mean())
    return Evidence({"share worse": worse}, worse >= limits.share, worse > 0)


def approximations(case: Case, on: str, limits: Limits) -> Evidence:
    """What choosing by an approximation costs beyond choosing by the loss change, late and early."""
    exact = _penalty(case, on, limits.weights, "loss_change")
    late, early = exact.index > _last_epoch(case), exact.index <= _first_epoch(case)
    need(late.any(), early.any())
    values = {}
    for scorer in APPROXIMATIONS:
        excess = _penalty(case, on, limits.weights, scorer) - exact
        values[f"{NAMES[scorer]}, late minus early"] = float(excess[late].mean() - excess[early].mean())
    grew = [value > 0 for value in values.values()]
    return Evidence(values, all(grew), grew[0])


def best_ranking(case: Case, on: str, limits: Limits) -> Evidence:
    """Which approximation ranks the weights most like the loss change, at both ends of the training."""
    scores = measures.rows(case[0], "scores", set=on)
    need(scores)
    values, best = {}, []
    for when, step in {"first": scores["step"].min(), "last": scores["step"].max()}.items():
        rank = measures.rank_correlations(scores[scores["step"] == step], APPROXIMATIONS)
        values |= {f"{NAMES[scorer]}, {when}": value for scorer, value in rank.items()}
        best.append(max(rank, key=rank.get) == "taylor1")
    return Evidence(values, all(best), any(best))


def absolute_or_signed(case: Case, on: str, limits: Limits) -> Evidence:
    """Mean penalty of pruning most weights by absolute scores, minus that by signed ones."""
    values = {}
    for activation, scorer in itertools.product(NETWORKS, SIGNED):
        names = (scorer, f"{scorer}_abs")
        signed, absolute = (_penalty(case, on, limits.weights, it, activation).mean() for it in names)
        need(known(signed))  # of no such run, or no such fraction
        values[f"{NAMES[activation]}, {NAMES[scorer]}, absolute minus signed"] = float(absolute - signed)
    better = [value < 0 for value in values.values()]  # of ReLU first
    return Evidence(values, all(better), sum(better[: len(SIGNED)]) >= limits.better_partly)


def magnitude_best(case: Case, on: str, limits: Limits) -> Evidence:
    """Whether magnitude has the lowest mean penalty of pruning most weights, and the steadiest."""
    values, holds, medians = {}, True, {}
    for activation in NETWORKS:
        penalty = pd.DataFrame(
            {
                scorer: _penalty(case, on, limits.weights, scorer, activation)
                for scorer in ("magnitude", *SIGNED, *ABSOLUTE)
            }
        )
        medians[activation] = penalty[["magnitude", *ABSOLUTE]].median()
        for name, of_each in {"mean": penalty.mean(), "deviation": penalty.std()}.items():
            need(known(*of_each))  # one measurement has no deviation
            magnitude, best_other = of_each["magnitude"], of_each.drop("magnitude").min()
            ratio = float(magnitude / best_other)
            values[f"{NAMES[activation]}, {name} of magnitude over the best other's"] = ratio
            holds = holds and bool(magnitude < best_other)
    return Evidence(values, holds, medians["relu"].idxmin() == "magnitude")


def cost_in_passes(case: Case, on: str, limits: Limits) -> Evidence:
    """What second-order scores cost, and how that grows with the network; a machine's figures."""
    need(on == "probe")
    costs = case[0].table("costs")
    second = costs[costs["scorer"].isin(["taylor2", "hessian"])].set_index(["scorer", "widths"])
    need(2 in costs["widths"].to_numpy())
    a_weight = (second["seconds"] / second["weights"]).unstack("widths")
    passes, growth = float(second["passes"].max()), float((a_weight[2] / a_weight[1]).max())
    values = {"passes": passes, "time a weight when all widths double": growth}
    holds = passes <= limits.passes and growth <= limits.growth
    return Evidence(values, holds, passes <= limits.passes_partly)


def jumps(case: Case, on: str, limits: Limits) -> Evidence:
    """What pruning by schedule costs at each step of it, and whether training makes up for it."""
    pruned, twin = (pruned_by(case, "weight_pruning", by) for by in ("layer", ""))
    final, dense = (run.table("final")["train_loss"][0] for run in (pruned, twin))
    gap = float(final - dense)
    jump, usual, values = jumps_beside(pruned, twin, on, limits.percentile, gap)
    early, late = jump[jump.index < limits.large_from], jump[jump.index >= limits.large_from]
    holds = bool((early < limits.small).all() and (late > usual).all() and abs(gap) <= limits.gap)
    return Evidence(values, holds, jump.is_monotonic_increasing and abs(gap) <= limits.gap_partly)


def empty_filters(case: Case, on: str, limits: Limits) -> Evidence:
    """How many filters of conv1 have lost all their weights."""
    return _empty(case, on, "conv1", limits.empty, limits.empty_partly)


def half_the_network(case: Case, on: str, limits: Limits) -> Evidence:
    """How small the network gets at nearly the accuracy of the masked one."""
    pruned, twin = (pruned_by(case, "weight_pruning", by) for by in ("layer", ""))
    best = measures.chosen_removal(pruned, on, twin, limits.lost)
    need(best is not None)
    masked, dense = (run.table("final")["test_accuracy"][0] for run in (pruned, twin))
    lost, share = 100 * float(masked - best["test_accuracy"]), best["share"]
    values = {"share of the parameters left": share, "points of accuracy below the masked network": lost}
    values["points below the dense twin"] = 100 * float(dense - best["test_accuracy"])
    accurate = lost <= limits.lost + ROUNDING
    return Evidence(values, accurate and share <= limits.share, accurate and share <= limits.share_partly)


def same_on_all_sets(case: Case, on: str, limits: Limits) -> Evidence:
    """Whether the scorers' order by mean penalty depends on the images."""
    need(on == "probe")
    means = measures.mean_penalties(case[0].table("penalties"), limits.weights / CONV1)
    need(means.shape[1] >= 3)
    ranks = means.rank()
    # one of a few fractions, often 0.9 itself: the last digits must not decide
    pairs = [measures.steady(ranks[a].corr(ranks[b])) for a, b in itertools.combinations(means.columns, 2)]
    same = means.idxmin().nunique() == 1
    values = {"lowest rank correlation": min(pairs), "same best scorer (1 yes, 0 no)": float(same)}
    return Evidence(values, min(pairs) >= limits.rank and same, min(pairs) >= limits.rank_partly)


def small_signals(case: Case, on: str, limits: Limits) -> Evidence:
    """The size of the mean gradient of the weights with a negative loss change, over that of the rest."""
    signals = _signals(case, on, limits.after)
    medians = signals.groupby(["step", "negative"])["gradient"].median().unstack()
    ratio = float(np.exp(np.log(medians[True] / medians[False]).mean()))
    return Evidence({"S < 0 over the rest": ratio}, ratio <= limits.ratio, ratio < limits.ratio_partly)


def no_cancellation(case: Case, on: str, limits: Limits) -> Evidence:
    """For the same weights, the mean gradient's size over the mean size of an image's, a median."""
    signals = _signals(case, on, limits.after).query("negative and by_image > 0")
    ratio = float((signals["gradient"] / signals["by_image"]).median())
    return Evidence({"median ratio": ratio}, ratio >= limits.ratio, ratio >= limits.ratio_partly)


def sometimes_better(case: Case, on: str, limits: Limits) -> Evidence:
    """How often one of the absolute scores costs less than magnitude, early and in the last epoch."""
    values, holds = {}, True
    for activation in NETWORKS:
        cost = _absolute(case, on, limits.weights, activation)
        better = cost[list(ABSOLUTE)].min(axis=1) < cost["magnitude"]
        early = float(better[better.index <= limits.early].sum())
        late = float(better[better.index > _last_epoch(case)].mean())
        values[f"{NAMES[activation]}, early measurements"] = early
        values[f"{NAMES[activation]}, share of the last epoch's"] = late
        holds = holds and early >= 1 and late >= limits.share
    return Evidence(values, holds, min(list(values.values())[:2]) > 0)  # of ReLU


def oscillating(case: Case, on: str, limits: Limits) -> Evidence:
    """The share of peaks among the penalties of the absolute scores and of magnitude."""
    values, more, least = {}, [], []
    for activation in NETWORKS:
        cost = _absolute(case, on, limits.weights, activation)
        share = {name: measures.peaks(cost[name], limits.after, limits.above) for name in cost}
        values |= {f"{NAMES[activation]}, {name}": value for name, value in share.items()}
        more.append(sum(share[name] > share["magnitude"] for name in ABSOLUTE))
        least.append(min(share[name] for name in ABSOLUTE))
    holds = min(more) == len(ABSOLUTE) and least[0] >= limits.share
    return Evidence(values, holds, min(more) >= limits.better_partly)


def large_weights_stay(case: Case, on: str, limits: Limits) -> Evidence:
    """The share of the twin's largest tenth of the weights that is left, by layer."""
    need(on == "probe")
    pruned, twin = (pruned_by(case, "weight_pruning", by) for by in ("layer", ""))
    need(measures.lasted(pruned), measures.lasted(twin))
    layers = pruned.table("weights")["layer"]
    values = {
        f"share left in {layer}": measures.largest_kept(pruned, twin, layer, limits.top) for layer in layers
    }
    lowest = min(values.values())
    return Evidence(values, lowest > limits.left, lowest > limits.left_partly)


def empty_channels(case: Case, on: str, limits: Limits) -> Evidence:
    """How many input channels of a unit of conv2 are almost all zero, and how many by chance."""
    need(on == "probe")
    mask = measures.weights(pruned_by(case, "weight_pruning"), "conv2") != 0

    def almost_empty(left: np.ndarray) -> np.ndarray:  # of the units that have weights, the channels
        return (left.sum((2, 3)) <= limits.weights)[left.any((1, 2, 3))].sum(1)

    chance = np.random.default_rng(0)
    shuffles = (chance.permuted(mask.ravel()).reshape(mask.shape) for _ in range(limits.shuffles))
    by_chance = float(np.concatenate([almost_empty(shuffle) for shuffle in shuffles]).mean())
    counts = almost_empty(mask)
    need(counts)
    median, mean = float(np.median(counts)), float(counts.mean())
    values = {"median number of channels": median, "mean": mean, "mean of shuffled masks": by_chance}
    return Evidence(values, limits.low <= median <= limits.high, mean > by_chance)


def columns_and_stripes(case: Case, on: str, limits: Limits) -> Evidence:
    """How a unit's incoming and outgoing weights that are left go together, in three layers."""
    need(on == "probe")
    pruned, values = pruned_by(case, "weight_pruning"), {}
    for layer, behind in itertools.pairwise(pruned.table("weights")["layer"]):
        incoming, following = (
            (measures.weights(pruned, layer) != 0).sum((1, 2, 3)),
            measures.weights(pruned, behind) != 0,
        )
        outgoing = following.reshape(len(following), len(incoming), -1).sum((0, 2))
        values[f"Spearman in {layer}"] = measures.spearman(pd.Series(incoming), pd.Series(outgoing))
    lowest = min(values.values())
    return Evidence(values, lowest >= limits.correlation, lowest >= limits.correlation_partly)


def empty_units_of_conv2(case: Case, on: str, limits: Limits) -> Evidence:
    """How many units of conv2 have lost all their weights."""
    return _empty(case, on, "conv2", limits.empty, limits.empty_partly)


def small_weights_stay(case: Case, on: str, limits: Limits) -> Evidence:
    """How much of the lower half by size, at the end of epoch 1, is in that of the last epoch."""
    need(on == "probe")
    scores = measures.rows(case[0], "scores", set="probe", layer="conv1")
    first = scores[scores["epoch"] <= limits.epoch]
    need(first, scores["epoch"].max() > limits.epoch)
    before = first[first["step"] == first["step"].max()].set_index("weight")["magnitude"]
    share = measures.lowest_shared(before, measures.last_epoch(scores).groupby("weight")["magnitude"].mean())
    return Evidence({"share in both": share}, share >= limits.share, share >= limits.share_partly)


def _penalty(case: Case, on: str, weights: int, scorer: str, activation: str | None = None) -> pd.Series:
    """Penalties of pruning so many weights of conv1, scored on `probe`, by step; of random ones one draw."""
    runs = of_activation(case, activation) if activation else case
    return _penalties(runs[0], on, scorer, weights) if runs else pd.Series(dtype=float)


@measures.cached
def _penalties(run: Run, on: str, scorer: str, weights: int) -> pd.Series:
    once = measures.rows(run, "penalties", set=on, scored_on="probe", draw=0)
    once = once[(once["scorer"] == scorer) & (once["fraction"] == weights / CONV1)]
    return once.set_index("step")["penalty"].dropna()


def _last_epoch(case: Case) -> float:
    """The step at which the last epoch begins."""
    return _first_epoch(case) * (case[0].info["settings"]["epochs"] - 1)


def _first_epoch(case: Case) -> float:
    """The step at which the first epoch ends."""
    training = case[0].table("training")
    return training["step"].max() / training["epoch"].max()


def _empty(case: Case, on: str, layer: str, least: int, least_partly: int) -> Evidence:
    pruned = pruned_by(case, "weight_pruning")
    need(on == "probe", layer in pruned.table("weights")["layer"].to_list())
    empty = measures.empty_units(pruned, layer)
    name = "filters" if layer == "conv1" else "units"
    return Evidence({f"empty {name} of {layer}": empty}, empty >= least, empty >= least_partly)


def _signals(case: Case, on: str, after: int) -> pd.DataFrame:
    """Factors of the gradients of conv1's weights, on `probe`; whether their loss change is `negative`."""
    need(on == "probe")
    keys = ["step", "layer", "weight"]
    scores = measures.rows(case[0], "scores", set="probe", layer="conv1")[[*keys, "loss_change"]]
    signals = case[0].table("signals").query("step > @after").merge(scores, on=keys)
    need(signals["loss_change"].lt(0).nunique() == 2)
    return signals.assign(negative=signals["loss_change"] < 0)


def _absolute(case: Case, on: str, weights: int, activation: str) -> pd.DataFrame:
    """Penalties of magnitude and the absolute scores, a row a step."""
    names = ("magnitude", *ABSOLUTE)
    cost = pd.DataFrame({name: _penalty(case, on, weights, name, activation) for name in names}).dropna()
    need(len(cost) > 1)
    return cost
