"""What decides a claim: small functions of the runs of one seed.

A criterion returns the `Evidence` of that seed on one set of images (the one that weights or units were
scored on, `probe` in chapter 2 and `train_probe` in chapter 4, or `other`), or None where there is nothing
to judge. They were fixed before the runs that they judge; whoever disagrees changes one here and builds the
book again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deadbook.analysis.measures import (
    NAMES,
    SIGNED,
    chosen_removal,
    empty_units,
    mean_penalties,
    rank_correlations,
    same_choice,
    steady,
    surviving_correlations,
    unit_correlations,
)
from deadbook.runs import Run

if TYPE_CHECKING:
    import pandas as pd

Case = Sequence[Run]  # the runs of one seed
FRACTIONS = (0.1, 0.2, 0.4, 0.5, 0.6, 0.8)  # of the units of a layer, in the thesis's 4.1


@dataclass(frozen=True)
class Evidence:
    """What one seed says: the numbers, whether the criterion holds, whether the direction does."""

    values: Mapping[str, float]
    holds: bool
    directs: bool

    @property
    def measured(self) -> bool:
        """Whether all numbers are there: one that diverged leaves nan, which cannot be judged."""
        return not any(math.isnan(value) for value in self.values.values())


def negative_share(case: Case, on: str) -> Evidence | None:
    """C2.1: the share of weights of conv1 whose exact loss change is negative, over training."""
    scores = case[0].table("scores").query("set == @on").dropna(subset="loss_change")
    share = (scores["loss_change"] < 0).groupby(scores["step"]).mean()
    late, last = share[share.index > 500], share.index.max()
    if late.empty:
        return None
    second = share[(share.index > last / 4) & (share.index <= last / 2)].mean()
    fourth = share[share.index > last * 3 / 4].mean()
    mean, drift = float(late.mean()), float(fourth - second)
    return Evidence(
        values={"mean share": mean, "last quarter minus second": drift},
        holds=0.25 <= mean <= 0.45 and abs(drift) < 0.10,
        directs=mean > 0.15,
    )


def two_lowest(case: Case, on: str) -> Evidence | None:
    """C2.2: the penalty of removing the hundredth of conv1 (2 weights) of lowest loss change."""
    penalty = _penalty(case, on, 0.01, "loss_change")
    if penalty.empty:
        return None
    below = float((penalty < 0).mean())
    return Evidence(
        values={"share below 0": below, "mean penalty in nats": float(penalty.mean())},
        holds=below >= 0.9,
        directs=bool(penalty.mean() < 0),
    )


def ten_lowest(case: Case, on: str) -> Evidence | None:
    """C2.3: the penalty of removing a twentieth of conv1 (10 weights), early and late."""
    penalty = _penalty(case, on, 0.05, "loss_change")
    early, late = penalty[penalty.index <= 500], penalty[penalty.index > _last_epoch(case)]
    if early.empty or late.empty:
        return None
    return Evidence(
        values={
            "mean over the first 500 steps": float(early.mean()),
            "late median": float(late.median()),
            "late mean": float(late.mean()),
        },
        holds=bool(early.mean() < 0 < late.median()),
        directs=bool(late.mean() > early.mean()),
    )


def worse_than_random(case: Case, on: str) -> Evidence | None:
    """C2.4: how often, late, ten weights chosen by loss change cost more than one random draw of ten."""
    exact, draw = (_penalty(case, on, 0.05, scorer) for scorer in ("loss_change", "random"))
    late = exact.index > _last_epoch(case)
    if not late.any():
        return None
    worse = float((exact[late] > draw[late]).mean())
    return Evidence(values={"share worse": worse}, holds=worse >= 0.05, directs=worse > 0)


def approximations(case: Case, on: str) -> Evidence | None:
    """C2.5: what choosing by an approximation costs beyond choosing by the loss change, late and early."""
    exact = _penalty(case, on, 0.05, "loss_change")
    late, early = exact.index > _last_epoch(case), exact.index <= _first_epoch(case)
    if not late.any() or not early.any():
        return None
    values = {}
    for scorer in ("taylor1", "taylor2", "hessian"):
        excess = _penalty(case, on, 0.05, scorer) - exact
        values[f"{NAMES[scorer]}, late minus early"] = float(excess[late].mean() - excess[early].mean())
    grew = [value > 0 for value in values.values()]
    return Evidence(values=values, holds=all(grew), directs=grew[0])


def best_ranking(case: Case, on: str) -> Evidence | None:
    """C2.6: which approximation ranks the weights most like the loss change, at both ends of the training."""
    scores = case[0].table("scores").query("set == @on")
    if scores.empty:
        return None
    values, best = {}, []
    for when, step in {"first": scores["step"].min(), "last": scores["step"].max()}.items():
        now = scores[scores["step"] == step]
        rank = rank_correlations(now, ("taylor1", "taylor2", "hessian"))
        values |= {f"{NAMES[scorer]}, {when}": value for scorer, value in rank.items()}
        best.append(max(rank, key=rank.get) == "taylor1")
    return Evidence(values=values, holds=all(best), directs=any(best))


def absolute_or_signed(case: Case, on: str) -> Evidence | None:
    """C2.7: mean penalty at f = 0.8 by absolute scores over that by signed ones."""
    values, better = {}, {}
    for activation in ("relu", "tanh"):
        for scorer in SIGNED:
            signed, absolute = (
                _penalty(case, on, 0.8, name, activation).mean() for name in (scorer, f"{scorer}_abs")
            )
            if math.isnan(signed):  # no such run, or no such fraction
                return None
            values[f"{NAMES[activation]}, {NAMES[scorer]}, absolute minus signed"] = float(absolute - signed)
            better[activation, scorer] = absolute < signed
    relu = sum(better["relu", scorer] for scorer in SIGNED)
    return Evidence(values=values, holds=all(better.values()), directs=relu >= 3)


def magnitude_best(case: Case, on: str) -> Evidence | None:
    """C2.8: whether magnitude has the lowest mean penalty at f = 0.8, and the steadiest."""
    values, holds, directs = {}, True, False
    absolute = [f"{scorer}_abs" for scorer in SIGNED]
    for activation in ("relu", "tanh"):
        found = {
            scorer: _penalty(case, on, 0.8, scorer, activation)
            for scorer in ("magnitude", *SIGNED, *absolute)
        }
        if found["magnitude"].empty:
            return None
        for what, of in {"mean": lambda one: one.mean(), "deviation": lambda one: one.std()}.items():
            of_each = {scorer: of(one) for scorer, one in found.items()}
            if any(map(math.isnan, of_each.values())):  # one measurement has no deviation
                return None
            own, best_other = of_each.pop("magnitude"), min(of_each.values())
            values[f"{NAMES[activation]}, {what} of magnitude over the best other's"] = float(
                own / best_other
            )
            holds = holds and bool(own < best_other)
        if activation == "relu":
            median = {scorer: found[scorer].median() for scorer in ("magnitude", *absolute)}
            directs = min(median, key=median.get) == "magnitude"
    return Evidence(values=values, holds=holds, directs=directs)


def cost_in_passes(case: Case, on: str) -> Evidence | None:
    """C2.9: what second-order scores cost, and how that grows with the network; a machine's figures."""
    if on != "probe":
        return None
    costs = case[0].table("costs")
    second = costs[costs["scorer"].isin(["taylor2", "hessian"])].set_index(["scorer", "widths"])
    if 2 not in costs["widths"].to_numpy():
        return None
    a_weight = (second["seconds"] / second["weights"]).unstack("widths")
    passes, growth = float(second["passes"].max()), float((a_weight[2] / a_weight[1]).max())
    return Evidence(
        values={"passes": passes, "time a weight when all widths double": growth},
        holds=passes <= 7 and growth <= 1.5,
        directs=passes <= 10,
    )


def jumps(case: Case, on: str) -> Evidence | None:
    """C2.10: what pruning by schedule costs at each step of it, and whether training makes up for it."""
    pruned, twin = _pruned(case), _twin(case)
    if pruned is None or twin is None:
        return None
    rows = pruned.table("pruned").query("set == @on").set_index("fraction")
    jump = (rows["after"] - rows["before"]).sort_index()
    usual = float(twin.table("training")[on].diff().dropna().quantile(0.99))
    final = [run.table("final")["train_loss"][0] for run in (pruned, twin)]
    gap = float(final[0] - final[1])
    values = {f"jump at {fraction:g}": float(value) for fraction, value in jump.items()}
    values |= {"99th percentile of the twin's changes": usual, "final training loss minus the twin's": gap}
    small, large = jump[jump.index < 0.8], jump[jump.index >= 0.8]
    return Evidence(
        values=values,
        holds=bool((small < 0.1).all() and (large > usual).all() and abs(gap) <= 0.05),
        directs=jump.is_monotonic_increasing and abs(gap) <= 0.1,
    )


def empty_filters(case: Case, on: str) -> Evidence | None:
    """C2.11: how many filters of conv1 have lost all their weights."""
    pruned = _pruned(case)
    if on != "probe" or pruned is None or "conv1" not in pruned.table("weights")["layer"].to_list():
        return None
    empty = empty_units(pruned, "conv1")
    return Evidence(values={"empty filters of conv1": empty}, holds=empty >= 2, directs=empty >= 1)


def half_the_network(case: Case, on: str) -> Evidence | None:
    """C2.12: how small the network gets within 0.3 points of the masked one."""
    pruned, twin = _pruned(case), _twin(case)
    if pruned is None or twin is None:
        return None
    best = chosen_removal(pruned, on, twin)
    if best is None:
        return None
    masked, dense = (run.table("final")["test_accuracy"][0] for run in (pruned, twin))
    lost = 100 * float(masked - best["test_accuracy"])
    enough = lost <= 0.3 + 1e-9  # three images of a thousand are 0.3 points, whatever floats make of it
    return Evidence(
        values={
            "share of the parameters left": best["share"],
            "points of accuracy below the masked network": lost,
            "points below the dense twin": 100 * float(dense - best["test_accuracy"]),
        },
        holds=best["share"] <= 0.5 and enough,
        directs=best["share"] <= 0.7 and enough,
    )


def same_on_all_sets(case: Case, on: str) -> Evidence | None:
    """C2.13: whether the scorers' order by mean penalty at f = 0.8 depends on the images."""
    if on != "probe":
        return None
    means = mean_penalties(case[0].table("penalties"))
    if means.shape[1] < 3:
        return None
    ranks = means.rank()
    # one of a few fractions, often 0.9 itself: the last digits must not decide
    pairs = [steady(ranks[a].corr(ranks[b])) for a, b in itertools.combinations(means.columns, 2)]
    same = means.idxmin().nunique() == 1
    return Evidence(
        values={"lowest rank correlation": min(pairs), "same best scorer (1 yes, 0 no)": float(same)},
        holds=min(pairs) >= 0.9 and same,
        directs=min(pairs) >= 0.7,
    )


def same_units(case: Case, on: str) -> Evidence | None:
    """C4.1: whether the scores choose the same half of conv1, and what random halves cost beside them."""
    scores = case[0].table("scores").query("layer == 'conv1'")
    exact = _unit_penalty(case, on, "conv1", 0.5, "mrp")
    random = _unit_penalty(case, on, "conv1", 0.5, "random")
    draws = _unit_penalty(case, on, "conv1", 0.5, "random", mean=False)
    if scores.empty or exact.empty or draws.empty:
        return None
    agreed = float(same_choice(scores, ("mrp", "mrs", "norm_l1", "norm_l2"), 0.5).mean())
    thesis = [
        _unit_penalty(case, on, "conv1", 0.5, name).median() for name in ("mrp", "mrs", "norm_l1", "norm_l2")
    ]
    # the worst of all draws, but as ever the mean of the ten where "random" is all that is said
    worst, middle = float(draws.max()), float(random.median())
    return Evidence(
        values={
            "share of the measurements in which all four choose the same": agreed,
            "worst random draw over the median penalty by MRP": _over(worst, float(exact.median())),
            "median random penalty over the largest of the four medians": _over(middle, float(max(thesis))),
        },
        holds=agreed >= 0.75 and worst >= 30 * float(exact.median()),
        directs=middle >= 3 * float(max(thesis)),
    )


def norms_and_penalties(case: Case, on: str) -> Evidence | None:
    """C4.2: whether units of conv1 with a low MRP have a small norm."""
    if on == "other":
        return None
    scores = case[0].table("scores").query("layer == 'conv1' and step > 500")
    if scores.empty:
        return None
    mean = float(unit_correlations(scores, ("norm_l1",)).mean()["norm_l1"])
    if math.isnan(mean):  # all units alike, or only one
        return None
    return Evidence(values={"mean rank correlation": mean}, holds=mean >= 0.5, directs=mean > 0)


def order_of_scores(case: Case, on: str) -> Evidence | None:
    """C4.3: in how many of six fractions MRP costs least after step 5,000, then MRS, then the norms."""
    values, ordered, first = {}, 0, 0
    for fraction in FRACTIONS:
        means = {}
        for name in ("mrp", "mrs", "norm_l1", "norm_l2"):
            penalty = _unit_penalty(case, on, "fc1", fraction, name)
            means[name] = float(penalty[penalty.index > 5000].mean())
        if any(map(math.isnan, means.values())):
            return None
        best = min(means["norm_l1"], means["norm_l2"])
        ordered += means["mrp"] < means["mrs"] < best
        first += means["mrp"] == min(means.values())
        if fraction == 0.5:
            values = {f"mean penalty at 0.5, {NAMES[name]}": mean for name, mean in means.items()}
    values = {"fractions in that order": float(ordered), "fractions with MRP lowest": float(first)} | values
    return Evidence(values=values, holds=ordered >= 4, directs=first >= 4)


def lowered_by_pruning(case: Case, on: str) -> Evidence | None:
    """C4.4: how often removing a tenth of fc1 by MRS lowers the loss."""
    penalty = _unit_penalty(case, on, "fc1", 0.1, "mrs")
    if penalty.empty:
        return None
    below = float((penalty < 0).mean())
    return Evidence(values={"share below 0": below}, holds=below >= 0.05, directs=below > 0)


def tanh_costs_more(case: Case, on: str) -> Evidence | None:
    """C4.5: mean penalties with tanh over those with ReLU (fc1, MRS), at six fractions."""
    values = {}
    for fraction in FRACTIONS:
        relu, tanh = (
            float(_unit_penalty(case, on, "fc1", fraction, "mrs", activation).mean())
            for activation in ("relu", "tanh")
        )
        if math.isnan(relu + tanh):
            return None
        if relu > 0:  # where pruning lowers ReLU's loss, a ratio means nothing
            values[f"tanh over ReLU at {fraction:g}"] = tanh / relu
    if not values:
        return None
    largest = max(values.values())
    return Evidence(values={"largest ratio": largest} | values, holds=largest >= 3, directs=largest >= 1.5)


def hardly_better_than_random(case: Case, on: str) -> Evidence | None:
    """C4.6: with tanh, what a random half of fc1 costs over the half chosen by MRS."""
    costs, ratios = {}, {}
    for activation in ("tanh", "relu"):
        random, chosen = costs[activation] = [
            float(_unit_penalty(case, on, "fc1", 0.5, name, activation).mean()) for name in ("random", "mrs")
        ]
        if math.isnan(random + chosen):
            return None
        ratios[activation] = _over(random, chosen)
    return Evidence(
        values={f"random over MRS, {NAMES[name]}": ratio for name, ratio in ratios.items()},
        holds=costs["tanh"][0] < 2 * costs["tanh"][1],
        directs=ratios["tanh"] < ratios["relu"],
    )


def as_accurate(case: Case, on: str) -> Evidence | None:
    """C4.7: accuracy of the network with its units pruned against its twin's."""
    pruned, twin = _unit_pruned(case), _twin(case)
    if on == "other" or pruned is None or twin is None:
        return None
    small = pruned.table("final").set_index("network")["accuracy"]["compacted"]
    left = pruned.table("sizes").set_index("network")["parameters"]["compacted"]
    dense = twin.table("final")["test_accuracy"][0]
    lost = 100 * float(dense - small)
    return Evidence(
        values={
            "points below the twin": lost,
            "accuracy in %": 100 * float(small),
            "parameters": float(left),
        },
        holds=lost <= 0.5 + 1e-9,
        directs=lost <= 1.5 + 1e-9,
    )


def untouched_weights(case: Case, on: str) -> Evidence | None:
    """C4.8: how like the twin's the sizes of the surviving weights are, in each layer."""
    pruned, twin = _unit_pruned(case), _twin(case)
    if on == "other" or pruned is None or twin is None:
        return None
    known = ["layer", "units", "channels", "height", "width"]
    shapes = [run.table("weights")[known].to_dict("records") for run in (pruned, twin)]
    if shapes[0] != shapes[1]:  # a twin of another network is none
        return None
    found = surviving_correlations(pruned, twin)
    return Evidence(
        values={f"correlation in {layer}": one for layer, one in found.items()},
        holds=all(one >= 0.8 for one in found.values()),
        directs=all(one >= 0.5 for one in found.values()),
    )


def reached_with_relu(case: Case, on: str) -> Evidence | None:
    """C4.9: final losses and accuracy with ReLU."""
    return _reached(case, on, 0.046, 0.039, 98.8)


def reached_with_tanh(case: Case, on: str) -> Evidence | None:
    """C4.10: final losses and accuracy with tanh."""
    return _reached(case, on, 0.053, 0.056, 98.31)


def random_half(case: Case, on: str) -> Evidence | None:
    """C4.11: what a random half of fc1 costs with ReLU over what it costs with tanh."""
    relu, tanh = (
        float(_unit_penalty(case, on, "fc1", 0.5, "random", activation).mean())
        for activation in ("relu", "tanh")
    )
    if math.isnan(relu + tanh):
        return None
    ratio = _over(relu, tanh)
    return Evidence(values={"ReLU over tanh": ratio}, holds=ratio >= 2, directs=ratio > 1)


def units_beat_weights(case: Case, on: str) -> Evidence | None:
    """C4.12: how many parameters chapter 2's way keeps, over those that are left when units are pruned."""
    pruned, by_weights = _unit_pruned(case), _pruned(case)
    if pruned is None or by_weights is None:
        return None
    best = chosen_removal(by_weights, on)
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
        holds=ratio >= 1.5,
        directs=ratio > 1,
    )


def _reached(case: Case, on: str, train: float, test: float, accuracy: float) -> Evidence | None:
    if on == "other":
        return None
    final = case[0].table("final").iloc[0]
    values = {
        "training loss": float(final["train_loss"]),
        "test loss": float(final["test_loss"]),
        "accuracy in %": 100 * float(final["accuracy"]),
    }
    losses = max(abs(values["training loss"] - train), abs(values["test loss"] - test))
    points = abs(values["accuracy in %"] - accuracy)

    def within(nats: float, percent: float) -> bool:
        return losses <= nats + 1e-9 and points <= percent + 1e-9  # floats make 0.066 - 0.046 more than 0.02

    return Evidence(values=values, holds=within(0.02, 0.5), directs=within(0.05, 1.5))


def _over(penalty: float, other: float) -> float:
    """The ratio of two penalties: infinite where only the other is no loss, undefined where neither is."""
    if other > 0:
        return penalty / other
    return math.inf if penalty > 0 else math.nan


def _unit_penalty(
    case: Case,
    on: str,
    layer: str,
    fraction: float,
    scorer: str,
    activation: str | None = None,
    mean: bool = True,
) -> pd.Series:
    """Penalties after bias propagation, by step; of random draws their mean, or all of them."""
    import pandas as pd

    runs = [run for run in case if activation is None or run.info["settings"]["activation"] == activation]
    if not runs:
        return pd.Series(dtype=float)
    rows = runs[0].table("penalties")
    chosen = (rows["layer"] == layer) & (rows["fraction"] == fraction) & (rows["scorer"] == scorer)
    rows = rows[chosen & (rows["set"] == on) & (rows["constant"] == "mean of h")]
    return rows.groupby("step")["penalty"].mean() if mean else rows.set_index("step")["penalty"]


def _penalty(case: Case, on: str, fraction: float, scorer: str, activation: str | None = None) -> pd.Series:
    """Penalties of weights scored on `probe` and judged on `on`, by step; of random ones the first draw."""
    import pandas as pd

    runs = [run for run in case if activation is None or run.info["settings"]["activation"] == activation]
    if not runs:
        return pd.Series(dtype=float)
    rows = runs[0].table("penalties")
    chosen = (rows["scorer"] == scorer) & (rows["fraction"] == fraction) & (rows["draw"] == 0)
    chosen &= (rows["scored_on"] == "probe") & (rows["set"] == on)
    return rows[chosen].set_index("step")["penalty"].dropna()


def _last_epoch(case: Case) -> float:
    """The step at which the last epoch begins."""
    training = case[0].table("training")
    return training["step"].max() / training["epoch"].max() * (case[0].info["settings"]["epochs"] - 1)


def _first_epoch(case: Case) -> float:
    """The step at which the first epoch ends."""
    training = case[0].table("training")
    return training["step"].max() / training["epoch"].max()


def _pruned(case: Case) -> Run | None:
    """The run whose weights were pruned layer by layer, as the thesis did."""
    return next((run for run in _of(case, "weight_pruning") if run.by == "layer"), None)


def _twin(case: Case) -> Run | None:
    """The run with the same seed and no pruning."""
    return next((run for run in _of(case, "weight_pruning") if run.by == ""), None)


def _unit_pruned(case: Case) -> Run | None:
    """The run whose units were pruned layer by layer."""
    return next((run for run in _of(case, "unit_pruning") if run.by == "layer"), None)


def _of(case: Case, experiment: str) -> list[Run]:
    return [run for run in case if run.info["experiment"] == experiment]
