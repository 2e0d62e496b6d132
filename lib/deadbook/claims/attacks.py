"""The criteria of chapter 3, of attacks, their controls and their twins: from a case to `Evidence` or None.

A ratio is the final penalty (mean over the last epoch) of the attacked unit over that of the same unit in the
twin. A run whose loss ceased to be a number is left out, and so is a trial whose twin is none of the runs.
Pooled criteria get the runs of all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from deadbook.analysis import trials
from deadbook.analysis.measures import unit_correlations
from deadbook.claims.evidence import ROUNDING, Case, Evidence, Limits
from deadbook.runs import Run

EARLY = {"layer": "conv1", "start": 50, "interval": 10, "multiplier": 100}  # Figure 3.1
UNITS = (0, 4, 2)
CONV2 = 16  # its units
STARTS = (500, 1500, 2500, 5000)
PERMUTATIONS = 10_000
SATURATED = (0, 39)  # the outermost bins of `counting.BOUNDED`: an activation beyond 0.95 in size
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
    holds, directs = (max(off) <= points + ROUNDING for points in (limits.points, limits.points_partly))
    return Evidence(values, holds, directs)


def some_units_fall(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether some, and not all, units end below half of the twin's and of the control's penalty."""
    units = _units(case, on, limits.fell)
    if units is None:
        return None
    fell = int(units["fell"].sum())
    values = {f"unit {unit}, over the twin's": float(units["ratio"][unit]) for unit in UNITS}
    values |= {f"unit {unit}, over the control's": float(units["beside"][unit]) for unit in UNITS}
    values["units that fell"] = fell
    directs = bool(units["ratio"].median() < limits.median_partly)
    return Evidence(values, holds=limits.least <= fell < len(UNITS), directs=directs)


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
    return Evidence(values, holds=change <= limits.change, directs=change <= limits.change_partly)


def marks_of_the_fallen(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Whether weights grow, outgoing weights and output gradient shrink, for every unit that fell."""
    units = _units(case, on, limits.fell)
    if units is None or not units["fell"].any():
        return None
    attacks = _runs(case, **EARLY, unit=UNITS, control=False, batch_norm=True)
    names = {"norm_in": "incoming weights", "norm_out": "outgoing weights", "gradient": "output gradient"}
    of = {column: _ratios(attacks, case, on, column).set_index("unit")["ratio"] for column in names}
    fallen = units.index[units["fell"]]
    marks = [
        sum((of["norm_in"][unit] > 1, of["norm_out"][unit] < 1, of["gradient"][unit] < 1)) for unit in fallen
    ]
    values = {f"{name}, over the twin's": float(of[column][fallen].mean()) for column, name in names.items()}
    return Evidence(values, holds=min(marks) == len(names), directs=min(marks) >= limits.marks_partly)


def the_start_matters(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: a permutation test of whether the start matters, and whether it does so in an order.

    Statistic: the logarithms of the ratios, less their mean over the starts of the same seed and unit; the
    sum over starts of the squared sum. Permuted: the starts within a seed and unit. A ratio below 0.001 is
    taken as 0.001.
    """
    how = {"interval": 10, "multiplier": 100, "control": False, "batch_norm": True, "unit": (0,)}
    rows = _ratios(_runs(case, layer=("conv1", "conv2"), start=STARTS, **how), case, on)
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
    order = _spearman(rows["start"], rows["ratio"])
    values = {"p": p, "Spearman of start and ratio": order}
    return Evidence(values, holds=p < limits.p and abs(order) < limits.order, directs=p < limits.p_partly)


def harder_is_deadlier(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Pooled: Spearman's correlation of the multiplier with the ratio, in both layers."""
    how = {"start": 50, "interval": 100, "unit": (0,), "control": False, "batch_norm": True}
    values = {}
    for layer in ("conv1", "conv2"):
        rows = _ratios(_runs(case, layer=layer, **how), case, on)
        if rows["multiplier"].nunique() < 2:
            return None
        values[f"{layer}, Spearman of multiplier and ratio"] = _spearman(rows["multiplier"], rows["ratio"])
    highest = max(values.values())
    return Evidence(values, holds=highest < limits.correlation, directs=highest < 0)


def stronger_or_dead(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How many of the 16 units of conv2 rise and fall in a plain ReLU network, and how many die.

    All 16 are to have been attacked; a unit is in no count if its run diverged, or if it is dead in the twin
    as well.
    """
    how = {"start": 2000, "interval": 10, "multiplier": 100, "control": False}
    how |= {"layer": "conv2", "unit": tuple(range(CONV2)), "activation": "relu", "batch_norm": False}
    rows = _ratios(_runs(case, **how), case, on)
    if len(_runs(case, diverged=True, **how)) < CONV2 or rows.empty:
        return None
    ratio = rows["ratio"]
    rose, fell, died = (int(chosen.sum()) for chosen in (ratio > 1, ratio < 1, ratio == 0))
    values, holds = {"rose": rose, "fell": fell, "died": died}, rose > fell and died >= limits.died
    return Evidence(values, holds, directs=min(rose, died) >= limits.each_partly)


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
                norms = _final(run, "conv1", on)["norm_in"]
                top.append(bool((norms > norms[unit]).sum() < len(norms) * limits.top))
    if not top:
        return None
    share = sum(top) / len(top)
    values = {"units that fell": len(top), "share in the top quarter": share}
    return Evidence(values, holds=share >= limits.share, directs=sum(top) >= limits.least_partly)


def pushed_to_the_ends(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Four tanh units of conv1; their activations, of the probe images on either set, when last kept.

    The criterion asks of each of the four that it ends lower and that more of its activations are flat; the
    direction, that three end lower.
    """
    how = {"layer": "conv1", "start": 2000, "interval": 10, "multiplier": 1000, "control": False}
    attacks = _runs(case, **how, unit=(0, 1, 2, 3), activation="tanh")
    of = _ratios(attacks, case, on).set_index("unit")["ratio"]
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
    return Evidence(values, holds=lower == flatter == len(flat), directs=lower >= limits.lower_partly)


def timing_with_tanh(case: Case, on: str, limits: Limits) -> Evidence | None:
    """Unit 16 of fc1, attacked from step 50 (soon after the attack) and from 2500 and 5000 (final)."""
    how = {"layer": "fc1", "unit": 16, "interval": 10, "multiplier": 1000, "control": False}
    attacks = _runs(case, **how, start=(50, 2500, 5000), activation="tanh")
    of = _ratios(attacks, case, on).set_index("start")["ratio"]
    if len(of) < 3:
        return None
    last = 50 + 9 * 10
    early = [run for run in attacks if run.info["settings"]["start"] == 50]
    rows = trials.curves(early, _runs(case, repeats=0), on=on)
    rows = rows[(rows["step"] > last) & (rows["step"] <= last + limits.after)]
    if rows.empty:  # the other images are looked at less often
        return None
    soon = rows.groupby("kind")["mrp"].mean()
    as_said = [bool(soon["attack"] > soon["twin"]), bool(of[2500] < 1), bool(of[5000] < 1)]
    name = f"from 50, over the twin's in the {limits.after:,} steps after"
    values = {name: _over(soon["attack"], soon["twin"])}
    values |= {f"from {start}, final over the twin's": float(of[start]) for start in (50, 2500, 5000)}
    return Evidence(values, holds=all(as_said), directs=sum(as_said) >= limits.right_partly)


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
    return Evidence(values, holds, directs=correlation >= limits.correlation_partly)


def stays_so(case: Case, on: str, limits: Limits) -> Evidence | None:
    """How many of the units dead, or frozen, at half-time (`trials.halves`) are so at the end."""
    kinds = {"MRP": "dead", "output gradient": "frozen"}
    eligible, still = dict.fromkeys(kinds.values(), 0), dict.fromkeys(kinds.values(), 0)
    for run in _runs(case, repeats=(0, 10)):
        for what, rows in trials.halves(run, on).groupby("what"):
            before = rows["half"] < limits.below
            eligible[kinds[what]] += int(before.sum())
            still[kinds[what]] += int((before & (rows["end"] < limits.below)).sum())
    shares = {name: still[name] / of for name, of in eligible.items() if of}
    if not shares:
        return None
    lowest = min(shares.values())
    values = {f"share that stays {name}": share for name, share in shares.items()}
    values |= {f"{name} at half-time": float(of) for name, of in eligible.items()}
    return Evidence(values, holds=lowest >= limits.stays, directs=lowest >= limits.stays_partly)


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
    return Evidence(values, holds=better == len(names) - 1, directs=better >= limits.better_partly)


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
    return Evidence(values, holds=highest < limits.correlation, directs=highest < 0)


def _runs(case: Case, diverged: bool = False, **wanted: Any) -> list[Run]:
    """Runs with these settings (a tuple: one of these), ten attacks unless said; not those that diverged."""
    wanted = {"repeats": 10} | wanted
    allowed = {name: value if isinstance(value, tuple) else (value,) for name, value in wanted.items()}
    fitting = [
        run for run in case if all(run.info["settings"][name] in values for name, values in allowed.items())
    ]
    return [run for run in fitting if diverged or not run.table("final")["diverged"].iloc[0]]


def _ratios(runs: Sequence[Run], case: Case, on: str, column: str = "mrp") -> pd.DataFrame:
    """`trials.ratios` of those that have a twin: a row a trial, or none."""
    twins = {trials.common(run): run for run in _runs(case, repeats=0)}
    runs = [run for run in runs if trials.common(run) in twins]
    rows = trials.curves(runs, list(twins.values()), on=on) if runs else pd.DataFrame()
    if rows.empty:
        return pd.DataFrame(columns=["seed", "layer", "unit", "start", "multiplier", "ratio", "kind"])
    return trials.ratios(rows, column)


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


def _over(value: float, other: float) -> float:
    return float(value / other) if other > 0 else math.nan


def _units(case: Case, on: str, below: float) -> pd.DataFrame | None:
    """The three units of Figure 3.1: `ratio` to the twin, `beside` the control, and whether each `fell`."""
    chosen = _runs(case, **EARLY, unit=UNITS, batch_norm=True)
    if len(chosen) < 2 * len(UNITS) or not _runs(case, repeats=0, batch_norm=True):
        return None
    rows = _ratios(chosen, case, on)
    if len(rows) < 2 * len(UNITS):  # a unit dead in all three has no ratio
        return None
    table = rows.pivot_table(index="unit", columns="kind", values="ratio")
    beside = table["attack"] / table["control"]
    fell = (table["attack"] < below) & (beside < below)
    return table.assign(ratio=table["attack"], beside=beside, fell=fell)


def _final(run: Run, layer: str, on: str) -> pd.DataFrame:
    """Means over the last epoch, a row a unit of a layer."""
    rows = run.table("units")
    rows = rows[(rows["set"] == on) & (rows["layer"] == layer) & (rows["epoch"] > rows["epoch"].max() - 1)]
    return rows.groupby("unit").mean(numeric_only=True)


def _spearman(a: pd.Series, b: pd.Series) -> float:
    return float(a.rank().corr(b.rank()))
