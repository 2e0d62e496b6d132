"""The criteria of chapter 5, of what the thesis leaves open: from a case to `Evidence` or None."""

from __future__ import annotations

import pandas as pd

from deadbook.analysis.measures import (
    NAMES,
    last_epoch,
    peaks,
    rank_correlations,
    spearman,
    with_second_order,
)
from deadbook.claims.attacks import all_of_conv2, dead
from deadbook.claims.evidence import ROUNDING, Case, Evidence, Limits, of_activation, over
from deadbook.runs import Run

APPROXIMATIONS = ("taylor1", "taylor2", "hessian")
NETWORKS = ("relu", "tanh")


def rescoring(case: Case, on: str, limits: Limits) -> Evidence | None:
    """ReLU, end of the training: the gain of removing a few weights and scoring again, beside one-shot's."""
    runs = of_activation(case, "relu")
    if on == "other" or runs is None:
        return None
    rows = runs[0].table("removed")
    rows = rows[rows["step"] == rows["step"].max()].set_index(["way", "set", "removed"])["change"]
    again, once = rows["rescored"], rows["one-shot"]["probe"]
    gain, number = -float(again["probe"].min()), int(again["probe"].idxmin())
    values = {"gain in nats": gain, "gain of one-shot": -float(once.min()), "weights removed": number}
    values["change on other images"] = float(again["other"][number])
    twice = gain > 0 and gain >= limits.times * values["gain of one-shot"]
    return Evidence(values, twice and values["change on other images"] < 0, twice)


def over_training(case: Case, on: str, limits: Limits) -> Evidence | None:
    """ReLU, last epoch: mean Spearman of the approximations with the loss change."""
    runs = of_activation(case, "relu")
    rows = _scores(runs[0], on) if runs else ()
    if not len(rows):
        return None
    parts = pd.DataFrame([rank_correlations(now, APPROXIMATIONS) for _, now in rows.groupby("step")]).mean()
    values = {f"{NAMES[name]}, last epoch": float(value) for name, value in parts.items()}
    above = bool(parts["taylor1"] > parts.drop("taylor1").max())
    return Evidence(values, above and values["Taylor 1, last epoch"] >= limits.correlation, above)


def best_lambda(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Last epoch: Spearman of Taylor 1 plus lambda times the second order with the loss change, by lambda."""
    runs = of_activation(case, *NETWORKS)
    if runs is None or any(_scores(run, on).empty for run in runs):
        return None
    values, direction = {}, True
    for name, run in zip(NETWORKS, runs, strict=True):
        rows = _scores(run, on)
        by = {at: with_second_order(rows, rows["hessian"], at) for at in limits.lambdas}
        best = max(by, key=by.get)
        values |= {f"{NAMES[name]}, best lambda": best, f"{NAMES[name]}, gain over 0": by[best] - by[0]}
        direction = direction and by[0.5] > by[1]
    rows = _scores(runs[0], on)
    second = 2 * (rows["diagonal"] - rows["taylor1"])
    none, half, whole = (with_second_order(rows, second, at) for at in (0, 0.5, 1))
    values |= {"diagonal, 0": none, "diagonal, 1/2": half, "diagonal, 1": whole}
    best = max(values[f"{NAMES[name]}, best lambda"] for name in NETWORKS)
    gain = max(values[f"{NAMES[name]}, gain over 0"] for name in NETWORKS)
    holds = best <= limits.highest and gain < limits.gain and half > max(none, whole)
    return Evidence(values, holds, direction)


def group_score(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Mean penalty on the other images of pruning by the group's score, over magnitude's."""
    runs = of_activation(case, *NETWORKS)
    if on == "other" or runs is None:  # once: the criterion names the images itself
        return None
    values = {}
    for name, run in zip(NETWORKS, runs, strict=True):
        rows = run.table("penalties").query("set == 'other' and fraction == @limits.fraction")
        means = rows.groupby("scorer")["penalty"].mean()
        values[f"{NAMES[name]}, group over magnitude"] = over(means["group"], means["magnitude"])
    relu, _ = values.values()
    return Evidence(values, max(values.values()) <= limits.ratio, relu < 1)


def averaging(case: Case, on: str, limits: Limits) -> Evidence | None:
    """ReLU, on the other images: the share of peaks with averaged scores, or with more images."""
    runs = of_activation(case, "relu")
    if on == "other" or runs is None:  # once: the criterion names the images itself
        return None
    values, halved, steadier = {}, [], []
    for scorer, rows in runs[0].table("penalties").groupby("scorer"):
        rows = {key: it.set_index("step")["penalty"] for key, it in rows.groupby(["images", "averaged"])}
        plain, averaged = rows[limits.images, False], rows[limits.images, True]
        series = {"": plain, ", averaged": averaged, ", more images": rows[limits.more, False]}
        share = [peaks(penalty, limits.after, limits.above) for penalty in series.values()]
        values |= {f"peaks, {scorer}{name}": value for name, value in zip(series, share, strict=True)}
        if share[0] == 0:
            return None
        halved.append(max(share[1:]) <= share[0] / 2)
        steadier.append(averaged.std() <= plain.std() / 2)
    return Evidence(values, all(halved), any(steadier))


def best_constant(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Which constant in the place of half of a layer's units costs least, by layer and network."""
    runs = of_activation(case, *NETWORKS)
    if runs is None or not all(run.has("constants") for run in runs):
        return None
    tables = [run.table("constants") for run in runs]
    relu, tanh = (
        rows[rows["set"] == on].groupby(["layer", "constant"])["penalty"].mean().unstack() for rows in tables
    )
    behind = [(it["mean of a"] < it["mean of h"]).sum() for it in (relu, tanh)]
    values = {
        "ReLU, layers with the mean of a lowest": int((relu.idxmin(axis=1) == "mean of a").sum()),
        "tanh, layers with the mean of h lowest": int((tanh.idxmin(axis=1) == "mean of h").sum()),
        "ReLU, layers with the mean of a below that of h": int(behind[0]),
        "tanh, layers with the mean of a below that of h": int(behind[1]),
    }
    first, second, *_ = values.values()
    return Evidence(values, first >= limits.layers and second == 0, bool(min(behind) >= limits.layers))


def others_make_up(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Plain ReLU: what becomes of the other units of conv2 where the attacked one dies, or falls."""
    rows = all_of_conv2(case, on)
    if rows is None or not dead(rows, limits.below).any():
        return None
    others = rows["others"].astype(float) / rows["twin_others"].astype(float)
    rose = float((others[dead(rows, limits.below)] > 1).mean())
    correlation = spearman(rows["ratio"], others)
    values = {"dead attacks": int(dead(rows, limits.below).sum()), "share with stronger others": rose}
    values["Spearman of attacked and others"] = correlation
    return Evidence(values, rose >= limits.share and correlation <= limits.correlation, correlation < 0)


def outgoing_decide(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: the share of units that end dead, by c, attacked and not."""
    rows = pd.concat([run.table("rescaled") for run in case]).query("set == @on") if case else pd.DataFrame()
    if rows.empty:
        return None
    share = (rows["mrp"] < limits.below * rows["mean_mrp"]).groupby([rows["attacked"], rows["c"]]).mean()
    values = {
        f"dead share at c = {c:g}, {name}": float(share[attacked, c])
        for attacked, name in ((True, "attacked"), (False, "unattacked"))
        for c in (limits.small, limits.large)
    }
    low, high, low_before, high_before = values.values()
    effect = (low - high) - (low_before - high_before)
    return Evidence(values | {"difference": effect}, effect >= limits.effect - ROUNDING, effect > 0)


def beyond_the_small(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: mean accuracy in % of a residual network with half of every group gone, by score."""
    rows = pd.concat([run.table("pruned") for run in case]) if case else pd.DataFrame()
    if on == "other" or rows.empty:
        return None
    means = 100 * rows.groupby("scorer")["accuracy"].mean()
    values = {f"accuracy in %, {NAMES[name]}": float(value) for name, value in means.items()}
    norm = means[["norm_l1", "norm_l2"]].max()
    holds = means["mrs"] >= norm - limits.points - ROUNDING
    return Evidence(values, bool(holds), bool(means["mrs"] >= means["random"] + limits.points_partly))


def faster(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The time of the smaller network over the dense one's, by engine; a machine's figure."""
    rows = case[0].table("speeds").query("network == 'compacted' and batch == @limits.images")
    if on == "other" or rows["engine"].nunique() < limits.engines:
        return None
    values = {f"{it['engine']}, over the dense": float(it["over_dense"]) for _, it in rows.iterrows()}
    quick = [value <= limits.ratio for value in values.values()]
    return Evidence(values, all(quick), any(quick))


def revival(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: how many of the dead units of fc1 end well above 0, beside the layer's mean MRP, by arm."""
    rows = pd.concat([run.table("revived") for run in case]) if case else pd.DataFrame()
    if rows.empty:
        return None
    rows = rows[(rows["set"] == on) & (rows["step"] == rows["step"].max())]
    relative = rows["mrp"] / rows["mean_mrp"]
    share = (relative > limits.alive).groupby(rows["arm"]).mean()
    medians = relative.groupby(rows["arm"]).median()
    waiting = float(share["wait"])
    values = {f"share above {limits.alive:g}, {arm}": float(value) for arm, value in share.items()}
    values |= {f"median, {arm}": float(value) for arm, value in medians.items()}
    best, median = share.drop("wait").max(), medians.drop("wait").max()
    holds = best >= limits.share and waiting <= limits.waiting
    return Evidence(values, bool(holds), bool(median >= limits.times_partly * medians["wait"] and median > 0))


def _scores(run: Run, on: str) -> pd.DataFrame:
    """The rows of the table `scores` in the last epoch."""
    return last_epoch(run.table("scores").query("set == @on"))
