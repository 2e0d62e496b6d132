"""The criteria of chapter 4: from the runs of one seed to `Evidence`; `Lacking` where nothing can be judged.

`on` names the images that penalties are judged on: `train_probe`, which units were scored on, or `other`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deadbook.analysis import measures
from deadbook.analysis.measures import NAMES
from deadbook.claims.evidence import (
    ROUNDING,
    Case,
    Evidence,
    Lacking,
    Limits,
    compacted,
    jumps_beside,
    known,
    need,
    of_activation,
    of_seeds,
    over,
    pruned_by,
)
from deadbook.runs import Run

CONV1 = 8  # its units
HALF = 0.5  # the fraction that C4.3 tells the penalties of
WELL_ABOVE_0, FROM = 0.4, "largest ratio from f = 0.4 on"  # below, ReLU's penalty is near 0
NORMS = ("norm_l1", "norm_l2")
SCORERS = ("mrp", "mrs", *NORMS)


def same_units(case: Case, on: str, limits: Limits) -> Evidence:
    """Whether the scores choose the same half of conv1, and what random halves cost beside them."""
    half = limits.units / CONV1
    scores = measures.rows(case[0], "scores", layer="conv1")
    by_score = {name: _penalty(case, on, "conv1", half, name) for name in SCORERS}
    random = _penalty(case, on, "conv1", half, "random")
    draws = measures.rows(case[0], "penalties", set=on, constant="mean of h", layer="conv1", scorer="random")
    draws = draws[draws["fraction"] == half]["penalty"]
    need(scores, by_score["mrp"], draws)
    agreed = float(measures.same_choice(scores, SCORERS, half).mean())
    exact = float(by_score["mrp"].median())
    largest = float(max(penalty.median() for penalty in by_score.values()))
    # the worst of all draws, but as ever the mean of the ten where "random" is all that is said
    worst, middle = float(draws.max()), float(random.median())
    values = {
        "share of the measurements in which all four choose the same": agreed,
        "worst random draw over the median penalty by MRP": over(worst, exact),
        "median random penalty over the largest of the four medians": over(middle, largest),
    }
    holds = agreed >= limits.agree and worst >= limits.worst * exact
    return Evidence(values, holds, middle >= limits.middle_partly * largest)


def norms_and_penalties(case: Case, on: str, limits: Limits) -> Evidence:
    """Whether units of conv1 with a low MRP have a small norm."""
    scores = measures.rows(case[0], "scores", layer="conv1")
    scores = scores[scores["step"] > limits.after]
    need(on != "other", scores)
    mean = float(measures.unit_correlations(scores, ("norm_l1",)).mean()["norm_l1"])
    need(known(mean))  # not all units alike
    return Evidence({"mean rank correlation": mean}, mean >= limits.rank, mean > 0)


def order_of_scores(case: Case, on: str, limits: Limits) -> Evidence:
    """In how many of six fractions MRP costs least late in training, then MRS, then the norms."""
    values, ordered, first = {}, 0, 0
    for fraction in limits.fractions:
        penalty = {name: _penalty(case, on, "fc1", fraction, name) for name in SCORERS}
        means = {
            name: float(by_step[by_step.index > limits.after].mean()) for name, by_step in penalty.items()
        }
        need(known(*means.values()))
        ordered += means["mrp"] < means["mrs"] < min(means[norm] for norm in NORMS)
        first += means["mrp"] == min(means.values())
        if fraction == HALF:
            values = {f"mean penalty at {HALF}, {NAMES[name]}": mean for name, mean in means.items()}
    values = {"fractions in that order": float(ordered), "fractions with MRP lowest": float(first)} | values
    return Evidence(values, ordered >= limits.ordered, first >= limits.first_partly)


def lowered_by_pruning(case: Case, on: str, limits: Limits) -> Evidence:
    """How often removing a tenth of fc1 by MRS lowers the loss."""
    penalty = _penalty(case, on, "fc1", limits.fraction, "mrs")
    need(penalty)
    below = float((penalty < 0).mean())
    return Evidence({"share below 0": below}, below >= limits.share, below > 0)


def tanh_costs_more(case: Case, on: str, limits: Limits) -> Evidence:
    """Mean penalties with tanh over those with ReLU (fc1, MRS), at six fractions."""
    ratios = {}
    for fraction in limits.fractions:
        relu, tanh = (_mean_cost(case, on, fraction, "mrs", activation) for activation in ("relu", "tanh"))
        if relu > 0:  # where pruning lowers ReLU's loss, a ratio means nothing
            ratios[fraction] = tanh / relu
    need(ratios)
    largest, later = max(ratios.values()), [ratio for at, ratio in ratios.items() if at >= WELL_ABOVE_0]
    also = {FROM: max(0, *later)} if later else {}
    values = {"largest ratio": largest} | {f"tanh over ReLU at {at:g}": it for at, it in ratios.items()}
    return Evidence(values, largest >= limits.ratio, largest >= limits.ratio_partly, also)


def hardly_better_than_random(case: Case, on: str, limits: Limits) -> Evidence:
    """With tanh, what a random half of fc1 costs over the half chosen by MRS."""
    costs = {
        activation: [_mean_cost(case, on, limits.fraction, name, activation) for name in ("random", "mrs")]
        for activation in ("tanh", "relu")
    }
    ratios = {activation: over(*pair) for activation, pair in costs.items()}
    values = {f"random over MRS, {NAMES[name]}": ratio for name, ratio in ratios.items()}
    random, chosen = costs["tanh"]
    return Evidence(values, random < limits.ratio * chosen, ratios["tanh"] < ratios["relu"])


def as_accurate(case: Case, on: str, limits: Limits) -> Evidence:
    """Accuracy of the network with its units pruned against its twin's."""
    need(on != "other")
    pruned, twin = pruned_by(case, "unit_pruning"), pruned_by(case, "weight_pruning", "")
    small, left = compacted(pruned, "final", "accuracy"), compacted(pruned, "sizes", "parameters")
    lost = 100 * float(twin.table("final")["test_accuracy"][0] - small)
    values = {"points below the twin": lost, "accuracy in %": 100 * small, "parameters": left}
    holds, direction_holds = (lost <= points + ROUNDING for points in (limits.lost, limits.lost_partly))
    return Evidence(values, holds, direction_holds)


def untouched_weights(case: Case, on: str, limits: Limits) -> Evidence:
    """How like the twin's the sizes of the surviving weights are, in each layer."""
    pruned, twin = pruned_by(case, "unit_pruning"), pruned_by(case, "weight_pruning", "")
    columns = ["layer", "units", "channels", "height", "width"]
    shapes = [run.table("weights")[columns].to_dict("records") for run in (pruned, twin)]
    need(on != "other", shapes[0] == shapes[1])  # a twin of another network is none
    correlations = measures.surviving_correlations(pruned, twin)
    values = {f"correlation in {layer}": value for layer, value in correlations.items()}
    limits_ = (limits.correlation, limits.correlation_partly)
    holds, direction_holds = (all(value >= limit for value in values.values()) for limit in limits_)
    return Evidence(values, holds, direction_holds)


def reached(case: Case, on: str, limits: Limits) -> Evidence:
    """Final losses and accuracy against the thesis's."""
    need(on != "other")
    final = case[0].table("final").iloc[0]
    values = {"training loss": float(final["train_loss"]), "test loss": float(final["test_loss"])}
    values["accuracy in %"] = 100 * float(final["accuracy"])
    *nats, points = (abs(value - limits.thesis[name]) for name, value in values.items())
    holds, direction_holds = (
        max(nats) <= losses + ROUNDING and points <= percent + ROUNDING
        for losses, percent in (
            (limits.losses, limits.points),
            (limits.losses_partly, limits.points_partly),
        )
    )
    return Evidence(values, holds, direction_holds)


def random_half(case: Case, on: str, limits: Limits) -> Evidence:
    """What a random half of fc1 costs with ReLU over what it costs with tanh."""
    ratio = over(*(_mean_cost(case, on, limits.fraction, "random", name) for name in ("relu", "tanh")))
    return Evidence({"ReLU over tanh": ratio}, ratio >= limits.ratio, ratio > limits.ratio_partly)


def units_beat_weights(case: Case, on: str, limits: Limits) -> Evidence:
    """How many parameters chapter 2's way keeps, over those that are left when units are pruned."""
    pruned, by_weights = (pruned_by(case, experiment) for experiment in ("unit_pruning", "weight_pruning"))
    best = measures.chosen_removal(by_weights, on, points=limits.lost)
    need(best is not None)
    ratio = float(best["parameters"]) / compacted(pruned, "sizes", "parameters")
    values = {"parameters kept by pruning weights over units": ratio}
    values["accuracy in %, weights"] = 100 * float(best["test_accuracy"])
    values["accuracy in %, units"] = 100 * compacted(pruned, "final", "accuracy")
    return Evidence(values, ratio >= limits.ratio, ratio > 1)


def equally_accurate(case: Case, on: str, limits: Limits) -> Evidence:
    """Pooled: the accuracy of the network with its units pruned minus its twin's, in points."""
    gaps = []
    for of_seed in of_seeds(case):
        try:
            pruned, twin = pruned_by(of_seed, "unit_pruning"), pruned_by(of_seed, "weight_pruning", "")
        except Lacking:
            continue
        dense = twin.table("final")["test_accuracy"][0]
        gaps.append(100 * float(compacted(pruned, "final", "accuracy") - dense))
    need(on != "other", len(gaps) > 1)
    (low, high), mean = measures.t_interval(gaps, limits.level), float(np.mean(gaps))
    values = {"mean difference in points": mean, "interval from": low, "to": high}
    holds = max(-low, high) <= limits.points + ROUNDING
    return Evidence(values, holds, abs(mean) <= limits.points_partly + ROUNDING)


def small_peaks(case: Case, on: str, limits: Limits) -> Evidence:
    """What pruning units costs at each step of the schedule, beside the twin's usual changes."""
    pruned, twin = pruned_by(case, "unit_pruning"), pruned_by(case, "weight_pruning", "")
    gap = float(compacted(pruned, "final", "train_loss") - twin.table("final")["train_loss"][0])
    jump, usual, values = jumps_beside(pruned, twin, on, limits.percentile, gap, removal="propagated")
    early, late = jump[jump.index < limits.late_from], jump[jump.index >= limits.late_from]
    holds = (early <= usual).all() and (late > usual).all() and (late < limits.high).all()
    return Evidence(values, bool(holds and abs(gap) <= limits.gap), bool(late.min() > early.max()))


def propagation_helps(case: Case, on: str, limits: Limits) -> Evidence:
    """ReLU: where the mean of h in a unit's place costs less than nothing in it."""
    cost = _constants(case, on, "relu", limits.nats, limits.least)
    return _share_of(cost["mean of h"] < cost["zero"], limits.share, limits.share_partly)


def propagation_fails(case: Case, on: str, limits: Limits) -> Evidence:
    """Tanh: where nothing in a unit's place costs less than the mean of h."""
    cost = _constants(case, on, "tanh", limits.nats, limits.least)
    better = cost["zero"] < cost["mean of h"]
    in_fc1 = int(better[better.index.get_level_values("layer") == "fc1"].sum())
    values = {"combinations": len(better), "share": float(better.mean()), "in fc1": in_fc1}
    return Evidence(values, values["share"] >= limits.share, in_fc1 >= limits.least_partly)


def mean_behind(case: Case, on: str, limits: Limits) -> Evidence:
    """ReLU: where the mean of a in a unit's place costs less than the mean of h."""
    cost = _constants(case, on, "relu", limits.nats, limits.least)
    return _share_of(cost["mean of a"] < cost["mean of h"], limits.share, limits.share_partly)


def as_good_as_norms(case: Case, on: str, limits: Limits) -> Evidence:
    """ReLU: where pruning by MRS costs hardly more than by the better of the two norms."""
    cost = _means(case, "relu", on, "scorer", ("mrs", *NORMS), limits.nats)
    need(len(cost) >= limits.least)
    better = cost["mrs"] <= limits.times * cost[list(NORMS)].min(axis=1)
    return _share_of(better, limits.share, limits.share_partly)


def norms_catch_up(case: Case, on: str, limits: Limits) -> Evidence:
    """ReLU, a tenth of fc1: what a norm costs beyond the larger of MRP and MRS, early and late."""
    cost = _by_step(case, on, limits.fraction, "relu")
    early, late = cost[cost.index <= limits.early].mean(), cost[cost.index > _before_last_epoch(case)].mean()
    excess = {
        norm: [float(mean[norm] - mean[["mrp", "mrs"]].max()) for mean in (early, late)] for norm in NORMS
    }
    values = {
        f"{NAMES[norm]}, {when}": value
        for norm, pair in excess.items()
        for when, value in zip(("early", "late"), pair, strict=True)
    }
    pairs = excess.values()
    holds = all(early >= limits.excess and abs(late) <= limits.excess for early, late in pairs)
    return Evidence(values, holds, all(early > 0 and late < early for early, late in pairs))


def order_with_tanh(case: Case, on: str, limits: Limits) -> Evidence:
    """Tanh, fc1: in how many of six fractions the four scores' mean penalties are in the thesis's order."""
    right = 0
    for fraction in (*limits.small, *limits.middle, *limits.large):
        mean = _by_step(case, on, fraction, "tanh").mean()
        ours, norms = mean[["mrp", "mrs"]], mean[list(NORMS)]
        if fraction in limits.small:
            right += bool(ours.max() < norms.min())
        elif fraction in limits.middle:
            right += bool(ours.min() > norms.max())
        else:
            right += bool(mean["mrp"] < mean.drop("mrp").min() and mean["mrs"] > mean.drop("mrs").max())
    values = {"fractions in that order": right}
    return Evidence(values, right >= limits.ordered, right >= limits.ordered_partly)


def cheap(case: Case, on: str, limits: Limits) -> Evidence:
    """What MRS of all units costs, in forward-and-backward passes; a machine's figure."""
    costs = measures.rows(case[0], "costs", scorer="mrs of all units", widths=1)
    need(on != "other", costs)
    passes = float(costs["passes"].iloc[0])
    return Evidence({"passes": passes}, passes <= limits.passes, passes <= limits.passes_partly)


def norms_grow(case: Case, on: str, limits: Limits) -> Evidence:
    """How the norms of conv1's units grow, and whether least in those of low final MRP."""
    scores = measures.rows(case[0], "scores", layer="conv1")
    need(on != "other", scores["step"].nunique() > 1)
    first = scores[scores["step"] == scores["step"].min()].set_index("unit")["norm_l1"]
    final = measures.last_epoch(scores).groupby("unit")[["norm_l1", "mrp"]].mean()
    growth = final["norm_l1"] / first - 1
    grew, correlation = float((growth > 0).mean()), measures.spearman(growth, final["mrp"])
    values = {"share that grows": grew, "Spearman of growth and final MRP": correlation}
    return Evidence(values, grew >= limits.share and correlation >= limits.correlation, correlation > 0)


def dead_early(case: Case, on: str, limits: Limits) -> Evidence:
    """How much of the lower half of a layer by MRP, at the end of an epoch, is in that of the last epoch."""
    scores = case[0].table("scores")
    before = scores[scores["epoch"] <= limits.epoch]
    need(on != "other", before, scores["epoch"].max() > limits.epoch)
    before = before[before["step"] == before["step"].max()].set_index(["layer", "unit"])["mrp"]
    after = measures.last_epoch(scores).groupby(["layer", "unit"])["mrp"].mean()
    shared = {
        layer: measures.lowest_shared(before[layer], after[layer]) for layer in ("conv1", "conv2", "fc1")
    }
    conv1, *others = shared.values()
    values = {f"share in both, {layer}": share for layer, share in shared.items()}
    holds = conv1 >= limits.conv1 and min(others) >= limits.others
    return Evidence(values, holds, min(shared.values()) >= limits.share_partly)


def units_beat_weights_equally(case: Case, on: str, limits: Limits) -> Evidence:
    """The smallest of chapter 2's networks as accurate as the one with its units pruned, over its size."""
    pruned, twin = pruned_by(case, "unit_pruning"), pruned_by(case, "weight_pruning", "")
    by_weights = [run for run in case if run.by and run.info["experiment"] == "weight_pruning"]
    need(on != "other", len(by_weights) > 1)
    left, small = compacted(pruned, "sizes", "parameters"), compacted(pruned, "final", "accuracy")
    networks = pd.concat([run.table("removal") for run in by_weights]).query("carried")
    networks = networks[100 * networks["test_accuracy"] >= 100 * small - limits.lost - ROUNDING]
    dense = twin.table("removal")["parameters"].max()
    kept = float(networks["parameters"].min() if len(networks) else dense)
    values = {"parameters kept by pruning weights over units": kept / left}
    values["networks as accurate"] = len(networks)
    return Evidence(values, kept / left >= limits.ratio, kept > left)


def _mean_cost(case: Case, on: str, fraction: float, scorer: str, activation: str) -> float:
    """The mean penalty over training of pruning such a fraction of fc1."""
    mean = float(_penalty(case, on, "fc1", fraction, scorer, activation).mean())
    need(known(mean))
    return mean


def _penalty(
    case: Case, on: str, layer: str, fraction: float, scorer: str, activation: str | None = None
) -> pd.Series:
    """Penalties after bias propagation, by step; of random draws their mean."""
    runs = of_activation(case, activation) if activation else case
    found = means_by_step(runs[0], on) if runs else {}
    return found.get((layer, fraction, scorer), pd.Series(dtype=float))


@measures.cached
def means_by_step(run: Run, on: str) -> dict[tuple[str, float, str], pd.Series]:
    """Mean penalties after bias propagation, by step, of each layer, fraction and scorer."""
    penalties = measures.rows(run, "penalties", set=on, constant="mean of h")
    means = penalties.groupby(["layer", "fraction", "scorer", "step"], observed=True)["penalty"].mean()
    return {key: part.droplevel([0, 1, 2]) for key, part in means.groupby(level=[0, 1, 2])}


def _means(
    case: Case, activation: str, on: str, column: str, names: Sequence[str], nats: float
) -> pd.DataFrame:
    """Mean penalties over training by (layer, fraction), for some constants (of MRS's choice) or scorers.

    Only combinations are there in which one of them is at least so many nats.
    """
    runs = of_activation(case, activation)
    need(runs is not None)
    one = {"scorer": "mrs"} if column == "constant" else {"constant": "mean of h"}
    penalties = measures.rows(runs[0], "penalties", set=on, **one)
    penalties = penalties[penalties[column].isin(names)]
    means = penalties.groupby(["layer", "fraction", column])["penalty"].mean().unstack()
    need(set(names) <= set(means))
    means = means.dropna()
    return means[means.max(axis=1) >= nats]


def _constants(case: Case, on: str, activation: str, nats: float, least: int) -> pd.DataFrame:
    """`_means` of the constants in a network, if at least so many combinations are eligible."""
    means = _means(case, activation, on, "constant", ("mean of h", "mean of a", "zero"), nats)
    need(len(means) >= least)
    return means


def _share_of(combinations: pd.Series, share: float, more_than: float) -> Evidence:
    """In how many of the combinations something holds."""
    held = float(combinations.mean())
    return Evidence({"combinations": len(combinations), "share": held}, held >= share, held > more_than)


def _by_step(case: Case, on: str, fraction: float, activation: str) -> pd.DataFrame:
    """Penalties of a fraction of fc1 by the four scores, a row a step."""
    cost = pd.DataFrame({name: _penalty(case, on, "fc1", fraction, name, activation) for name in SCORERS})
    need(cost, cost.notna().all(axis=None))
    return cost


def _before_last_epoch(case: Case) -> float:
    """The step at which the last epoch begins."""
    training = case[0].table("training")
    return float(training["step"][training["epoch"] <= training["epoch"].max() - 1].max())
