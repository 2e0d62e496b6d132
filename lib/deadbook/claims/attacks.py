"""The criteria of chapter 3, of attacks, their controls and their twins: from a case to `Evidence` or None.

A ratio is the final penalty (mean over the last epoch) of the attacked unit over that of the same unit in the
twin. A run whose loss ceased to be a number is left out, and so is a trial whose twin is none of the runs.
Pooled criteria get the runs of all seeds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from deadbook.analysis import trials
from deadbook.analysis.measures import final_units, spearman, unit_correlations
from deadbook.claims.evidence import ROUNDING, Case, Evidence, Limits
from deadbook.runs import Run

EARLY = {"layer": "conv1", "start": 50, "interval": 10, "multiplier": 100}  # Figure 3.1
UNITS = (0, 4, 2)
UNITS_OF_CONV2 = 16
CONV2 = {"layer": "conv2", "start": 2000, "interval": 10, "multiplier": 100}  # Figure 3.9
CONV2 |= {"activation": "relu", "batch_norm": False}
SLOW = {"start": 50, "interval": 100, "unit": 0, "batch_norm": True}  # Figure 3.4
FLATTENED = {"layer": "conv1", "unit": (0, 1, 2, 3), "start": 2000, "interval": 10}  # Figure 3.5
FLATTENED |= {"multiplier": 1000, "activation": "tanh"}
TIMED = {"start": (50, 2500, 5000), "interval": 10, "multiplier": 1000, "activation": "tanh"}  # Figure 3.7
STARTS = (500, 1500, 2500, 5000)
PERMUTATIONS = 10_000
SATURATED = (0, 39)  # the outermost bins of `counting.BOUNDED`: an activation beyond 0.95 in size
_SETTINGS = ("seed", "layer", "unit", "start", "interval", "multiplier")
_FINALS = ("mrp", "gradient", "norm_in", "norm_out", "mean_mrp", "mean_gradient", "others")
_RATIOS = {"ratio": "mrp", "gradient_ratio": "gradient"}
NETWORKS = {"batch norm": ("relu", True), "tanh": ("tanh", False), "plain ReLU": ("relu", False)}


def accuracies(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The twins' test accuracy, in each network of which there is one."""
    if on == "other":
        return None
    values, off = {}, []
    for network, accuracy in limits.thesis.items():
        activation, batch_norm = NETWORKS[network]
        twins = _runs(case, repeats=0, activation=activation, batch_norm=batch_norm)
        if twins:
            name = f"{trials.network(twins[0])}, accuracy in %"
            values[name] = 100 * float(twins[0].table("final")["accuracy"].iloc[0])
            off.append(abs(values[name] - accuracy))
    if not values:
        return None
    holds, partly = (max(off) <= points + ROUNDING for points in (limits.points, limits.points_partly))
    return Evidence(values, holds, partly)


def some_units_fall(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether some, and not all, units end below half of the twin's and of the control's penalty."""
    units = _units(case, on, limits.fell)
    if units is None:
        return None
    fell = int(units["fell"].sum())
    values = {f"unit {unit}, over the twin's": float(units["ratio"][unit]) for unit in UNITS}
    values |= {f"unit {unit}, over the control's": float(units["beside"][unit]) for unit in UNITS}
    values["units that fell"] = fell
    direction_holds = bool(units["ratio"].median() < limits.median_partly)
    return Evidence(values, limits.least <= fell < len(UNITS), direction_holds)


def silent_loss(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The final training loss of the three attacks beside the twin's."""
    if on == "other":
        return None
    attacks = _runs(case, **EARLY, unit=UNITS, control=False, batch_norm=True)
    twin = _runs(case, repeats=0, batch_norm=True)
    if len(attacks) < len(UNITS) or not twin:
        return None
    before, *after = (float(run.table("final")["train_loss"].iloc[0]) for run in (*twin, *attacks))
    change = max(abs(loss / before - 1) for loss in after)
    values = {"largest relative change": change}
    return Evidence(values, change <= limits.change, change <= limits.change_partly)


def marks_of_the_fallen(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether weights grow, outgoing weights and output gradient shrink, for every unit that fell."""
    units = _units(case, on, limits.fell)
    if units is None or not units["fell"].any():
        return None
    names = {"norm_in": "incoming weights", "norm_out": "outgoing weights", "gradient": "output gradient"}
    fell = units[units["fell"]]
    of = {column: fell[column] / fell[f"twin_{column}"] for column in names}
    marks = ((of["norm_in"] > 1) * 1 + (of["norm_out"] < 1) + (of["gradient"] < 1)).min()
    values = {f"{name}, over the twin's": float(of[column].mean()) for column, name in names.items()}
    return Evidence(values, bool(marks == len(names)), bool(marks >= limits.marks_partly))


def the_start_matters(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: a permutation test of whether the start matters, and whether it does so in an order.

    Statistic: the logarithms of the ratios, less their mean over the starts of the same seed and unit; the
    sum over starts of the squared sum. Permuted: the starts within a seed and unit. A ratio below 0.001 is
    taken as 0.001.
    """
    how = {"interval": 10, "multiplier": 100, "batch_norm": True, "unit": 0}
    rows = finals(case, on, layer=("conv1", "conv2"), start=STARTS, **how).dropna(subset="ratio")
    if rows.empty:
        return None
    table = rows.pivot_table(index=["seed", "layer"], columns="start", values="ratio").dropna()
    if table.empty or table.shape[1] < len(STARTS):
        return None
    logs = np.log(table.to_numpy().clip(1e-3))  # (blocks, starts)
    logs = logs - logs.mean(1, keepdims=True)
    chance = np.random.default_rng(0)
    shuffled = chance.permuted(np.broadcast_to(logs, (PERMUTATIONS, *logs.shape)), axis=2)
    reached = ((shuffled.sum(1) ** 2).sum(1) >= (logs.sum(0) ** 2).sum() - 1e-12).sum()
    p = float((reached + 1) / (PERMUTATIONS + 1))
    order = spearman(rows["start"], rows["ratio"])
    values = {"p": p, "Spearman of start and ratio": order}
    return Evidence(values, p < limits.p and abs(order) < limits.order, p < limits.p_partly)


def harder_is_deadlier(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: Spearman's correlation of the multiplier with the ratio, in both layers."""
    values = {}
    for layer in ("conv1", "conv2"):
        rows = finals(case, on, layer=layer, **SLOW).dropna(subset="ratio")
        if rows["multiplier"].nunique() < 2:
            return None
        values[f"{layer}, Spearman of multiplier and ratio"] = spearman(rows["multiplier"], rows["ratio"])
    highest = max(values.values())
    return Evidence(values, highest < limits.correlation, highest < 0)


def stronger_or_dead(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How many of the 16 units of conv2 rise and fall in a plain ReLU network, and how many die.

    All 16 are to have been attacked; a unit is in no count if its run diverged, or if it is dead in the twin
    as well.
    """
    rows = all_of_conv2(case, on)
    if rows is None:
        return None
    rows = rows.dropna(subset="ratio")
    ratio = rows["ratio"]
    rose, fell, died = (int(chosen.sum()) for chosen in (ratio > 1, ratio < 1, ratio == 0))
    values, holds = {"rose": rose, "fell": fell, "died": died}, rose > fell and died >= limits.died
    return Evidence(values, holds, min(rose, died) >= limits.each_partly)


def large_and_useless(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: whether units that fell are in the top quarter of their layer by norm."""
    top = []
    for seed in sorted({run.info["settings"]["seed"] for run in case}):
        of_seed = [run for run in case if run.info["settings"]["seed"] == seed]
        units = _units(of_seed, on, limits.fell)
        if units is None:
            continue
        for run in _runs(of_seed, **EARLY, unit=UNITS, control=False, batch_norm=True):
            unit = run.info["settings"]["unit"]
            if units["fell"][unit]:
                norms = final_units(run, on).loc["conv1", "norm_in"]
                top.append(bool((norms > norms[unit]).sum() < len(norms) * limits.top))
    if not top:
        return None
    share = sum(top) / len(top)
    values = {"units that fell": len(top), "share in the top quarter": share}
    return Evidence(values, share >= limits.share, sum(top) >= limits.least_partly)


def pushed_to_the_ends(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Four tanh units of conv1; their activations, of the probe images on either set, when last kept.

    The criterion asks of each of the four that it ends lower and that more of its activations are flat; the
    direction, that three end lower.
    """
    attacks = _runs(case, **FLATTENED, control=False)
    of = finals(case, on, **FLATTENED).set_index("unit")["ratio"].dropna()
    if len(of) < 4:
        return None
    twin = _runs(case, repeats=0, activation="tanh")[0]
    units = {run.info["settings"]["unit"]: run for run in attacks}
    flat = {unit: (_flat(run, "conv1", unit), _flat(twin, "conv1", unit)) for unit, run in units.items()}
    if any(map(math.isnan, sum(flat.values(), ()))):
        return None
    values = {f"unit {unit}, over the twin's": float(of[unit]) for unit in sorted(flat)}
    values |= {
        f"share of activations beyond 0.95, {name}": float(np.mean([pair[i] for pair in flat.values()]))
        for i, name in enumerate(("attacked", "twin"))
    }
    lower, flatter = int((of < 1).sum()), sum(attacked > before for attacked, before in flat.values())
    values |= {"units that end lower": lower, "units with more activations beyond 0.95": flatter}
    return Evidence(values, lower == flatter == len(flat), lower >= limits.lower_partly)


def timing_with_tanh(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Unit 16 of fc1, attacked from step 50 (soon after the attack) and from 2500 and 5000 (final)."""
    of = finals(case, on, **TIMED, layer="fc1", unit=16).set_index("start")["ratio"].dropna()
    soon = _soon(case, on, "fc1", 16, limits.after)
    if len(of) < 3 or soon is None:
        return None
    as_said = [soon > 1, bool(of[2500] < 1), bool(of[5000] < 1)]
    values = {f"from 50, over the twin's in the {limits.after:,} steps after": soon}
    values |= {f"from {start}, final over the twin's": float(of[start]) for start in (50, 2500, 5000)}
    return Evidence(values, all(as_said), sum(as_said) >= limits.right_partly)


def smallest_found(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How MRS ranks the units of a layer, and how often its smallest has the smallest MRP.

    The unit that MRS finds, the first if several have the same, may be any of those with the lowest MRP.
    """
    rows = _measured(case, on, limits.after)
    if rows.empty:
        return None
    correlation = float(unit_correlations(rows, ("mrs",), ("measurement",))["mrs"].mean())
    chosen = rows.loc[rows.groupby("measurement")["mrs"].idxmin()].set_index("measurement")["mrp"]
    same = float((chosen == rows.groupby("measurement")["mrp"].min()).mean())
    if math.isnan(correlation):
        return None
    values = {"mean rank correlation": correlation, "share with the same smallest unit": same}
    holds = correlation >= limits.correlation and same >= limits.same
    return Evidence(values, holds, correlation >= limits.correlation_partly)


def stays_so(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How many of the units dead, or frozen, at half-time (`trials.halves`) are so at the end."""
    kinds = {"MRP": "dead", "output gradient": "frozen"}
    eligible, still = dict.fromkeys(kinds.values(), 0), dict.fromkeys(kinds.values(), 0)
    distinct: dict[str, set[tuple]] = {f"distinct units {name} at half-time": set() for name in still}
    for run in _runs(case, repeats=(0, 10)):
        for what, rows in trials.halves(run, on).groupby("what"):
            before = rows["half"] < limits.below
            eligible[kinds[what]] += int(before.sum())
            still[kinds[what]] += int((before & (rows["end"] < limits.below)).sum())
            places = rows[before][["layer", "unit"]].itertuples(index=False, name=None)
            network = network_of(run)
            distinct[f"distinct units {kinds[what]} at half-time"] |= {(network, *it) for it in places}
    shares = {name: still[name] / of for name, of in eligible.items() if of}
    if not shares:
        return None
    lowest = min(shares.values())
    values = {f"share that stays {name}": share for name, share in shares.items()}
    values |= {f"{name} at half-time": float(of) for name, of in eligible.items()}
    also = {name: float(len(units)) for name, units in distinct.items()}
    return Evidence(values, lowest >= limits.stays, lowest >= limits.stays_partly, also)


def best_predictor(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Mean rank correlation with MRP of MRS, of the weights' norm and of the output gradient."""
    rows = _measured(case, on, limits.after)
    if rows.empty:
        return None
    names = {"mrs": "MRS", "norm_in": "norm of the weights", "gradient": "output gradient"}
    means = unit_correlations(rows, tuple(names), ("measurement",)).mean()
    if means.isna().any():
        return None
    better = int((means[["norm_in", "gradient"]] < means["mrs"]).sum())
    values = {f"mean rank correlation, {name}": float(means[column]) for column, name in names.items()}
    return Evidence(values, better == len(names) - 1, better >= limits.better_partly)


def gradient_against_weights(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Rank correlation over time of the attacked unit's two norms, a mean over a network's attacks."""
    values = {}
    for name in ("batch norm", "tanh"):
        activation, batch_norm = NETWORKS[name]
        attacks = _runs(case, activation=activation, batch_norm=batch_norm, control=False)
        correlations = trials.gradient_against_weights(attacks, on)["correlation"]
        if len(correlations):
            values[f"{name}, mean rank correlation"] = float(correlations.mean())
    if not values:
        return None
    highest = max(values.values())
    return Evidence(values, highest < limits.correlation, highest < 0)


def attacks_kill(case: Case, on: str, limits: Limits) -> Evidence | None:
    """In how many of the three networks an attacked unit ends dead whose twin is not."""
    rows = finals(case, on)
    died = dead(rows, limits.below) & ~dead(rows, limits.below, "twin_")
    return _in_networks(rows, "attacked units that died", died, limits.networks_partly)


def considerable_drop(case: Case, on: str, limits: Limits) -> Evidence | None:
    """In how many of the three networks an attack ends below half of the twin's penalty."""
    rows = finals(case, on)
    return _in_networks(rows, "attacks below half", rows["ratio"] < limits.fell, limits.networks_partly)


def relu_resists(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: the share of the attacks that end below half, in plain ReLU and in the other two networks."""
    conv2 = {"layer": "conv2", "interval": 10, "multiplier": 100}
    kinds = {"plain ReLU": conv2, "batch norm": conv2, "tanh": {"multiplier": 1000}}
    values = {}
    for network, how in kinds.items():
        activation, batch_norm = NETWORKS[network]
        ratio = finals(case, on, **how, activation=activation, batch_norm=batch_norm)["ratio"].dropna()
        if ratio.empty:
            return None
        values[f"share below half, {network}"] = float((ratio < limits.fell).mean())
    relu, *others = values.values()
    gap = min(others) - relu
    return Evidence(values, gap >= limits.gap - ROUNDING, gap > 0)


def dead_is_frozen(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: how many of the attacked units of plain ReLU that end dead are frozen."""
    rows = finals(case, on, multiplier=100, activation="relu", batch_norm=False)
    rows = rows[dead(rows, limits.below)]
    if rows.empty:
        return None
    frozen = rows["gradient"] < limits.below * rows["mean_gradient"]
    share = float(frozen.mean())
    values = {"dead units": len(rows), "share that is frozen": share}
    also = {"distinct dead units": len(rows[["layer", "unit"]].drop_duplicates())}
    return Evidence(values, share >= limits.share, share >= limits.share_partly, also)


def settled(case: Case, on: str, limits: Limits) -> Evidence | None:
    """When the mean penalty of conv1, with batch norm and unattacked, is first near its later level."""
    twin = _runs(case, repeats=0, batch_norm=True)
    if not twin:
        return None
    rows = twin[0].table("units").query("set == @on and layer == 'conv1'")
    mean = rows.groupby("step")["mrp"].mean()
    level = mean[mean.index > limits.after].mean()
    reached = mean.rolling(limits.window, center=True).mean() >= limits.share * level
    if not reached.any():
        return None
    step = int(reached.idxmax())
    values = {"step": step}
    return Evidence(values, limits.low <= step <= limits.high, step < mean.index.max() / 2)


def frozen_not_dead(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Batch norm: attacks whose gradient ends low beside the twin's, and whose penalty does not."""
    rows = finals(case, on, batch_norm=True).dropna(subset=["ratio", "gradient_ratio"])
    if rows.empty:
        return None
    frozen = (rows["gradient_ratio"] < limits.gradient) & (rows["ratio"] >= limits.mrp)
    lower = float((rows["gradient_ratio"] < rows["ratio"]).mean())
    values = {"frozen, not dead": int(frozen.sum()), "share with the lower gradient": lower}
    return Evidence(values, bool(frozen.any()), lower > limits.share_partly)


def dead_not_frozen(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: attacks of Figure 3.4a with a low penalty and no small output gradient, beside the twin."""
    rows = finals(case, on, layer="conv1", **SLOW).dropna(subset=["ratio", "gradient_ratio"])
    if rows.empty:
        return None

    def count(mrp: float, gradient: float) -> int:
        return int(((rows["ratio"] < mrp) & (rows["gradient_ratio"] >= gradient)).sum())

    strict, mild = count(limits.mrp, limits.gradient), count(limits.mrp_partly, limits.gradient_partly)
    values = {"attacks": len(rows), "such attacks": strict, "by the milder measure": mild}
    return Evidence(values, strict >= 1, mild >= 1)


def level_of_saturated(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The final penalties, in nats, of the four attacked tanh units of conv1."""
    rows = finals(case, on, **FLATTENED).set_index("unit").sort_index()
    if len(rows) < 4:
        return None
    values = {f"unit {unit}, in nats": float(value) for unit, value in rows["mrp"].items()}
    mean, twin = float(rows["mrp"].mean()), float(rows["twin_mrp"].mean())
    values |= {"mean": mean, "mean of the twin's": twin}
    holds = bool(rows["mrp"].between(limits.low, limits.high).all())
    return Evidence(values, holds, mean < twin * limits.twin_partly)


def close_estimate(case: Case, on: str, limits: Limits) -> Evidence | None:
    """MRS beside MRP over time, of four tanh units of conv1 that are attacked, and of their twins."""
    attacks, twin = _runs(case, **FLATTENED, control=False), _runs(case, repeats=0, activation="tanh")
    if len(attacks) < 4 or not twin:
        return None
    ratios, correlations = [], []
    for attack in attacks:
        for run in (attack, twin[0]):
            rows = _over_time(run, on, "conv1", attack.info["settings"]["unit"], limits.after)
            ratios.append(float((rows["mrs"] / rows["mrp"]).median()))
            correlations.append(float(rows["mrs"].corr(rows["mrp"])))
    values = {"lowest median ratio": min(ratios), "highest median ratio": max(ratios)}
    values |= {"lowest Pearson": min(correlations), "median Pearson": float(np.median(correlations))}
    holds = limits.low <= min(ratios) and max(ratios) <= limits.high and min(correlations) >= limits.pearson
    return Evidence(values, holds, values["median Pearson"] >= limits.pearson_partly)


def similar_drops(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Tanh, conv1, unit 0: the ratios by start, and the penalty soon after the attack from step 50."""
    of = finals(case, on, **TIMED, layer="conv1", unit=0).set_index("start")["ratio"].dropna()
    soon = _soon(case, on, "conv1", 0, limits.soon)
    if len(of) < 3 or soon is None:
        return None
    values = {f"from {start}, final over the twin's": float(of[start]) for start in TIMED["start"]}
    values[f"from 50, over the twin's in the {limits.soon:,} steps after"] = soon
    lower = bool(of.max() < 1)
    return Evidence(values, lower and bool(of.max() <= limits.spread * of.min()) and soon > 1, lower)


def same_order(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether MRS puts the runs of Figure 3.7a, the original included, in the order of their MRP."""
    runs = _runs(case, **TIMED, layer="conv1", unit=0, control=False)
    runs += _runs(case, repeats=0, activation="tanh")[:1]
    if len(runs) != 4:
        return None
    tables = [_over_time(run, on, "conv1", 0, limits.after) for run in runs]
    mrp, mrs = (
        pd.concat([rows[name] for rows in tables], axis=1, keys=range(4)).dropna().rank(axis=1)
        for name in ("mrp", "mrs")
    )
    if mrp.empty:
        return None
    same = float((mrp.to_numpy() == mrs.to_numpy()).all(1).mean())
    correlation = float(mrp.corrwith(mrs, axis=1).mean())
    values = {"share in the same order": same, "mean Spearman": correlation}
    return Evidence(values, same >= limits.share, correlation >= limits.correlation_partly)


def accuracy_unharmed(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Mean accuracy of the 16 attacks on plain ReLU beside the twin's, in points."""
    rows, twin = all_of_conv2(case, on), _runs(case, repeats=0, activation="relu", batch_norm=False)
    if on == "other" or rows is None or not twin:
        return None
    before = float(twin[0].table("final")["accuracy"].iloc[0])
    reached = [run.table("final")["accuracy"].iloc[0] for run in _runs(case, **CONV2, control=False)]
    change = 100 * (float(np.mean(reached)) - before)
    holds, partly = (abs(change) <= points + ROUNDING for points in (limits.points, limits.points_partly))
    return Evidence({"points above the twin": change}, holds, partly)


def some_die(case: Case, on: str, limits: Limits) -> Evidence | None:
    """The share of the 16 units of conv2 that end dead after an attack, with plain ReLU."""
    rows = all_of_conv2(case, on)
    if rows is None:
        return None
    died = int(dead(rows, limits.below).sum())
    share = died / UNITS_OF_CONV2
    holds = limits.low <= share <= limits.high
    return Evidence({"share that died": share}, holds, died >= limits.died_partly)


def better_when_small(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Median of abs(log(MRS/MRP)) of units below and above their layer's median MRP, in each twin."""
    values, better = {}, 0
    for network, (activation, batch_norm) in NETWORKS.items():
        twin = _runs(case, repeats=0, activation=activation, batch_norm=batch_norm)
        if not twin:
            return None
        rows = twin[0].table("units").query("set == @on and step > @limits.after")
        middle = rows.groupby(["layer", "step"])["mrp"].transform("median")
        rows = rows.assign(low=rows["mrp"] < middle)[(rows["mrp"] > limits.least) & (rows["mrs"] > 0)]
        off = np.log(rows["mrs"] / rows["mrp"]).abs().groupby(rows["low"]).median()
        values |= {f"{network}, small": float(off[True]), f"{network}, large": float(off[False])}
        better += bool(off[True] < off[False])
    return Evidence(values, better == len(NETWORKS), better >= limits.networks_partly)


def dead(rows: pd.DataFrame, below: float, whose: str = "") -> pd.Series:
    """Whether units' final penalty is below a share of their layer's mean; with "twin_" the twin's."""
    return rows[f"{whose}mrp"] < below * rows[f"{whose}mean_mrp"]


def all_of_conv2(case: Case, on: str) -> pd.DataFrame | None:
    """`finals` of the attacks on all units of conv2, plain ReLU, that lasted; None if one was not made."""
    rows = finals(case, on, **CONV2)
    attacks = [run for run in _runs(case, diverged=True, **CONV2) if trials.kind(run) == "attack"]
    return None if len(attacks) < UNITS_OF_CONV2 or rows.empty else rows


def _in_networks(rows: pd.DataFrame, name: str, chosen: pd.Series, partly: int) -> Evidence | None:
    """How many of the trials in each network are chosen: in all three at least one, or in so many."""
    counts = chosen.groupby(rows["network"]).sum()
    if not set(NETWORKS) <= set(counts.index):
        return None
    values = {f"{name}, {network}": int(counts[network]) for network in NETWORKS}
    reached = sum(count >= 1 for count in values.values())
    return Evidence(values, reached == len(NETWORKS), reached >= partly)


def _over_time(run: Run, on: str, layer: str, unit: int, after: int) -> pd.DataFrame:
    """A unit's `mrp` and `mrs` by step, after one."""
    rows = run.table("units").query("set == @on and layer == @layer and unit == @unit and step > @after")
    return rows.set_index("step").filter(["mrp", "mrs"]).astype(float)


def _soon(case: Case, on: str, layer: str, unit: int, steps: int) -> float | None:
    """A tanh unit's mean penalty in the steps after the last attack from step 50, over the twin's."""
    attack = _runs(case, **TIMED | {"start": 50}, layer=layer, unit=unit, control=False)
    twin = _runs(case, repeats=0, activation="tanh")
    last = 50 + 9 * TIMED["interval"]
    rows = [_over_time(run, on, layer, unit, last) for run in (*attack[:1], *twin[:1])]
    means = [one[one.index <= last + steps]["mrp"].mean() for one in rows]
    if len(means) < 2 or any(map(math.isnan, means)) or means[1] == 0:  # `other` is measured less often
        return None
    return float(means[0] / means[1])


def _runs(case: Case, diverged: bool = False, **wanted: Any) -> list[Run]:
    """Runs with these settings (a tuple: one of these), ten attacks unless said; not those that diverged."""
    wanted = {"repeats": 10} | wanted
    allowed = {name: value if isinstance(value, tuple) else (value,) for name, value in wanted.items()}
    fitting = [
        run for run in case if all(run.info["settings"][name] in values for name, values in allowed.items())
    ]
    return [run for run in fitting if diverged or not run.table("final")["diverged"].iloc[0]]


def finals(case: Case, on: str, kind: str = "attack", **wanted: Any) -> pd.DataFrame:
    """A row a trial that lasted: settings, `final_units` of its unit, the twin's with `twin_`.

    `ratio` is that of the final penalties, `gradient_ratio` of the output gradients.
    """
    twins = {trials.common(run): final_units(run, on) for run in _runs(case, repeats=0)}
    rows = []
    for run in _runs(case, **wanted):
        settings, twin = run.info["settings"], twins.get(trials.common(run))
        units, place = final_units(run, on), (settings["layer"], settings["unit"])
        if trials.kind(run) == kind and twin is not None and place in units.index and place in twin.index:
            row = {name: settings[name] for name in _SETTINGS} | units.loc[place].to_dict()
            row |= {"network": network_of(run)} | twin.loc[place].add_prefix("twin_").to_dict()
            rows.append(row)
    if not rows:
        return pd.DataFrame(
            columns=[*_SETTINGS, "network", *_FINALS, *(f"twin_{it}" for it in _FINALS), *_RATIOS]
        )
    table = pd.DataFrame(rows)
    for name, column in _RATIOS.items():
        if column in table:
            table[name] = table[column].astype(float) / table[f"twin_{column}"].astype(float)
    return table


def network_of(run: Run) -> str:
    """The name of its network among NETWORKS."""
    settings = run.info["settings"]
    kind = settings["activation"], settings["batch_norm"]
    return next((name for name, known in NETWORKS.items() if known == kind), "")


def _measured(case: Case, on: str, after: int) -> pd.DataFrame:
    """Units of all runs after a step; `measurement` numbers those of a run, a layer and a step."""
    tables = [run.table("units").assign(run=i) for i, run in enumerate(_runs(case, repeats=(0, 10)))]
    if not tables:
        return pd.DataFrame()
    rows = pd.concat(
        [rows[(rows["set"] == on) & (rows["step"] > after)] for rows in tables], ignore_index=True
    )
    return rows.assign(measurement=rows.groupby(["run", "layer", "step"], sort=False).ngroup())


def _flat(run: Run, layer: str, unit: int) -> float:
    """Share of a unit's activations beyond 0.95 in size, when they were last kept."""
    if not run.has("values"):
        return math.nan
    rows = run.table("values")
    rows = rows[(rows["layer"] == layer) & (rows["unit"] == unit) & (rows["what"] == "activation")]
    counts = rows[rows["step"] == rows["step"].max()].set_index("bin")["count"]
    return float(counts[counts.index.isin(SATURATED)].sum() / counts.sum()) if len(counts) else math.nan


def _units(case: Case, on: str, below: float) -> pd.DataFrame | None:
    """The three units of Figure 3.1: `ratio` to the twin, `beside` the control, and whether each `fell`."""
    how = EARLY | {"unit": UNITS, "batch_norm": True}
    table, control = (finals(case, on, kind, **how).set_index("unit") for kind in ("attack", "control"))
    table, control = table.dropna(subset="ratio"), control.dropna(subset="ratio")
    if len(table) < len(UNITS) or len(control) < len(UNITS):  # a unit dead in all three has no ratio
        return None
    table["beside"] = table["ratio"] / control["ratio"]
    return table.assign(fell=(table["ratio"] < below) & (table["beside"] < below))
