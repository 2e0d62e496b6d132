"""What decides the claims of chapter 3: as `criteria`, of attacks, their controls and their twins.

A ratio is the final penalty (mean over the last epoch) of the attacked unit over that of the same unit in the
twin. A run whose loss ceased to be a number is left out, and so is a trial whose twin is none of the runs.
Pooled criteria get the runs of all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deadbook.analysis import trials
from deadbook.analysis.measures import unit_correlations
from deadbook.claims.criteria import Case, Evidence
from deadbook.runs import Run

if TYPE_CHECKING:
    import pandas as pd

EARLY = {"layer": "conv1", "start": 50, "interval": 10, "multiplier": 100}  # Figure 3.1
UNITS = (0, 4, 2)
STARTS = (500, 1500, 2500, 5000)
PERMUTATIONS = 10_000
REACHED = {("relu", True): 67.0, ("tanh", False): 64.0, ("relu", False): 61.0}  # % of the test images
SATURATED = (0, 39)  # the outermost bins of `counting.BOUNDED`: an activation beyond 0.95 in size
NETWORKS = {("relu", True): "batch norm", ("tanh", False): "tanh"}  # that C3.14 speaks of


def accuracies(case: Case, on: str) -> Evidence | None:
    """C3.1: the twins' test accuracy, in each network of which there is one."""
    if on == "other":
        return None
    values, off = {}, []
    for (activation, batch_norm), accuracy in REACHED.items():
        twins = _runs(case, repeats=0, activation=activation, batch_norm=batch_norm)
        if twins:
            name = f"{trials.network(twins[0])}, accuracy in %"
            values[name] = 100 * float(twins[0].table("final")["accuracy"].iloc[0])
            off.append(abs(values[name] - accuracy))
    if not values:
        return None
    return Evidence(values, holds=max(off) <= 3 + 1e-9, directs=max(off) <= 6 + 1e-9)


def some_units_fall(case: Case, on: str) -> Evidence | None:
    """C3.2: whether some, and not all, units end below half of the twin's and of the control's penalty."""
    found = _three(case, on)
    if found is None:
        return None
    fell = int(found["fell"].sum())
    values = {f"unit {unit}, over the twin's": float(found["ratio"][unit]) for unit in UNITS}
    values |= {f"unit {unit}, over the control's": float(found["beside"][unit]) for unit in UNITS}
    directs = bool(found["ratio"].median() < 1)
    return Evidence(values | {"units that fell": fell}, holds=0 < fell < len(UNITS), directs=directs)


def silent_loss(case: Case, on: str) -> Evidence | None:
    """C3.3: the final training loss of the three attacks beside the twin's."""
    if on == "other":
        return None
    attacks = _runs(case, **EARLY, unit=UNITS, control=False, batch_norm=True)
    twin = _runs(case, repeats=0, batch_norm=True)
    if len(attacks) < len(UNITS) or not twin:
        return None
    before, *after = (float(run.table("final")["train_loss"].iloc[0]) for run in (*twin, *attacks))
    change = max(abs(loss / before - 1) for loss in after)
    return Evidence({"largest relative change": change}, holds=change <= 0.05, directs=change <= 0.15)


def marks_of_the_fallen(case: Case, on: str) -> Evidence | None:
    """C3.4: whether weights grow, outgoing weights and output gradient shrink, for every unit that fell."""
    found = _three(case, on)
    if found is None or not found["fell"].any():
        return None
    attacks = _runs(case, **EARLY, unit=UNITS, control=False, batch_norm=True)
    names = {"norm_in": "incoming weights", "norm_out": "outgoing weights", "gradient": "output gradient"}
    of = {column: _ratios(attacks, case, on, column).set_index("unit")["ratio"] for column in names}
    fallen = found.index[found["fell"]]
    marks = [
        sum((of["norm_in"][unit] > 1, of["norm_out"][unit] < 1, of["gradient"][unit] < 1)) for unit in fallen
    ]
    values = {f"{name}, over the twin's": float(of[column][fallen].mean()) for column, name in names.items()}
    return Evidence(values, holds=min(marks) == 3, directs=min(marks) >= 2)


def the_start_matters(case: Case, on: str) -> Evidence | None:
    """C3.5 (pooled): a permutation test of whether the start matters, and whether it does so in an order.

    Statistic: the logarithms of the ratios, less their mean over the starts of the same seed and unit; the
    sum over starts of the squared sum. Permuted: the starts within a seed and unit. A ratio below 0.001 is
    taken as 0.001.
    """
    how = {"interval": 10, "multiplier": 100, "control": False, "batch_norm": True, "unit": (0,)}
    attacks = _runs(case, layer=("conv1", "conv2"), start=STARTS, **how)
    rows = _ratios(attacks, case, on)
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
    return Evidence(values, holds=p < 0.05 and abs(order) < 0.8, directs=p < 0.2)


def harder_is_deadlier(case: Case, on: str) -> Evidence | None:
    """C3.6 (pooled): Spearman's correlation of the multiplier with the ratio, in both layers."""
    how = {"start": 50, "interval": 100, "unit": (0,), "control": False, "batch_norm": True}
    values = {}
    for layer in ("conv1", "conv2"):
        rows = _ratios(_runs(case, layer=layer, **how), case, on)
        if rows["multiplier"].nunique() < 2:
            return None
        values[f"{layer}, Spearman of multiplier and ratio"] = _spearman(rows["multiplier"], rows["ratio"])
    highest = max(values.values())
    return Evidence(values, holds=highest < -0.5, directs=highest < 0)


def stronger_or_dead(case: Case, on: str) -> Evidence | None:
    """C3.9: how many of the 16 units of conv2 rise and fall in a plain ReLU network, and how many die.

    All 16 are to have been attacked; a unit is in no count if its run diverged, or if it is dead in the twin
    as well.
    """
    how = {"start": 2000, "interval": 10, "multiplier": 100, "control": False}
    how |= {"layer": "conv2", "unit": tuple(range(16)), "activation": "relu", "batch_norm": False}
    rows = _ratios(_runs(case, **how), case, on)
    if len(_runs(case, diverged=True, **how)) < 16 or rows.empty:
        return None
    rose, fell, died = (int(one.sum()) for one in (rows["ratio"] > 1, rows["ratio"] < 1, rows["ratio"] == 0))
    return Evidence(
        {"rose": rose, "fell": fell, "died": died}, holds=rose > fell and died > 0, directs=rose > 0 < died
    )


def large_and_useless(case: Case, on: str) -> Evidence | None:
    """C3.11 (pooled): whether units that fell are in the top quarter of their layer by norm."""
    top = []
    for seed in sorted({run.info["settings"]["seed"] for run in case}):
        own = [run for run in case if run.info["settings"]["seed"] == seed]
        found = _three(own, on)
        for run in (
            _runs(own, **EARLY, unit=UNITS, control=False, batch_norm=True) if found is not None else ()
        ):
            unit = run.info["settings"]["unit"]
            if found["fell"][unit]:
                norms = _final(run, "conv1", on)["norm_in"]
                top.append(bool((norms > norms[unit]).sum() < len(norms) / 4))
    if not top:
        return None
    share = sum(top) / len(top)
    return Evidence({"units that fell": len(top), "share in the top quarter": share}, share >= 0.5, any(top))


def pushed_to_the_ends(case: Case, on: str) -> Evidence | None:
    """C3.7: four tanh units of conv1; their activations, of the probe images on either set, when last kept.

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
    return Evidence(
        values | {"units that end lower": lower, "units with more activations beyond 0.95": flatter},
        holds=lower == 4 and flatter == 4,
        directs=lower >= 3,
    )


def timing_with_tanh(case: Case, on: str) -> Evidence | None:
    """C3.8: unit 16 of fc1, attacked from step 50 (soon after the attack) and from 2500 and 5000 (final)."""
    how = {"layer": "fc1", "unit": 16, "interval": 10, "multiplier": 1000, "control": False}
    attacks = _runs(case, **how, start=(50, 2500, 5000), activation="tanh")
    of = _ratios(attacks, case, on).set_index("start")["ratio"]
    if len(of) < 3:
        return None
    last = 50 + 9 * 10
    early = [run for run in attacks if run.info["settings"]["start"] == 50]
    rows = trials.curves(early, _runs(case, repeats=0), on=on)
    rows = rows[(rows["step"] > last) & (rows["step"] <= last + 1000)]
    if rows.empty:  # the other images are looked at less often
        return None
    soon = rows.groupby("kind")["mrp"].mean()
    as_said = [bool(soon["attack"] > soon["twin"]), bool(of[2500] < 1), bool(of[5000] < 1)]
    values = {"from 50, over the twin's in the 1,000 steps after": _over(soon["attack"], soon["twin"])}
    values |= {f"from {start}, final over the twin's": float(of[start]) for start in (50, 2500, 5000)}
    return Evidence(values, holds=all(as_said), directs=sum(as_said) >= 2)


def smallest_found(case: Case, on: str) -> Evidence | None:
    """C3.10: how MRS ranks the units of a layer, and how often its smallest has the smallest MRP.

    The unit that MRS finds, the first if several have the same, may be any of those with the lowest MRP.
    """
    rows = _measured(case, on)
    if rows.empty:
        return None
    correlation = float(unit_correlations(rows, ("mrs",), ("measurement",))["mrs"].mean())
    found = rows.loc[rows.groupby("measurement")["mrs"].idxmin()].set_index("measurement")["mrp"]
    same = float((found == rows.groupby("measurement")["mrp"].min()).mean())
    if math.isnan(correlation):
        return None
    return Evidence(
        {"mean rank correlation": correlation, "share with the same smallest unit": same},
        holds=correlation >= 0.8 and same >= 0.9,
        directs=correlation >= 0.6,
    )


def stays_so(case: Case, on: str) -> Evidence | None:
    """C3.12: how many of the units dead, or frozen, at half-time (`trials.halves`) are so at the end."""
    kinds = {"MRP": "dead", "output gradient": "frozen"}
    eligible, still = dict.fromkeys(kinds.values(), 0), dict.fromkeys(kinds.values(), 0)
    for run in _runs(case, repeats=(0, 10)):
        for what, rows in trials.halves(run, on).groupby("what"):
            before = rows["half"] < 0.05
            eligible[kinds[what]] += int(before.sum())
            still[kinds[what]] += int((before & (rows["end"] < 0.05)).sum())
    shares = {name: still[name] / of for name, of in eligible.items() if of}
    if not shares:
        return None
    lowest = min(shares.values())
    values = {f"share that stays {name}": share for name, share in shares.items()}
    values |= {f"{name} at half-time": float(of) for name, of in eligible.items()}
    return Evidence(values, holds=lowest >= 0.9, directs=lowest >= 0.7)


def best_predictor(case: Case, on: str) -> Evidence | None:
    """C3.13: mean rank correlation with MRP of MRS, of the weights' norm and of the output gradient."""
    rows = _measured(case, on)
    if rows.empty:
        return None
    names = {"mrs": "MRS", "norm_in": "norm of the weights", "gradient": "output gradient"}
    means = unit_correlations(rows, tuple(names), ("measurement",)).mean()
    if means.isna().any():
        return None
    better = int((means[["norm_in", "gradient"]] < means["mrs"]).sum())
    values = {f"mean rank correlation, {name}": float(means[column]) for column, name in names.items()}
    return Evidence(values, holds=better == 2, directs=better >= 1)


def gradient_against_weights(case: Case, on: str) -> Evidence | None:
    """C3.14: rank correlation over time of the attacked unit's two norms, a mean over a network's attacks."""
    values = {}
    for (activation, batch_norm), name in NETWORKS.items():
        attacks = _runs(case, activation=activation, batch_norm=batch_norm, control=False)
        found = trials.gradient_against_weights(attacks, on)["correlation"]
        if len(found):
            values[f"{name}, mean rank correlation"] = float(found.mean())
    if not values:
        return None
    highest = max(values.values())
    return Evidence(values, holds=highest < -0.5, directs=highest < 0)


def _runs(case: Case, diverged: bool = False, **wanted: Any) -> list[Run]:
    """Runs with these settings (a tuple: one of these), ten attacks unless said; not those that diverged."""
    wanted = {"repeats": 10} | wanted

    def fits(chosen: Mapping[str, Any]) -> bool:
        return all(
            chosen[name] in value if isinstance(value, tuple) else chosen[name] == value
            for name, value in wanted.items()
        )

    fitting = [run for run in case if fits(run.info["settings"])]
    return [run for run in fitting if diverged or not run.table("final")["diverged"].iloc[0]]


def _ratios(some: Sequence[Run], case: Case, on: str, column: str = "mrp") -> pd.DataFrame:
    """`trials.ratios` of those that have a twin: a row a trial, or none."""
    import pandas as pd

    twins = {trials.common(run): run for run in _runs(case, repeats=0)}
    some = [run for run in some if trials.common(run) in twins]
    rows = trials.curves(some, list(twins.values()), on=on) if some else pd.DataFrame()
    if rows.empty:
        return pd.DataFrame(columns=["seed", "layer", "unit", "start", "multiplier", "ratio", "kind"])
    return trials.ratios(rows, column)


def _measured(case: Case, on: str) -> pd.DataFrame:
    """Units of all runs after step 500; `measurement` numbers those of a run, a layer and a step."""
    import pandas as pd

    parts = [run.table("units").assign(run=i) for i, run in enumerate(_runs(case, repeats=(0, 10)))]
    if not parts:
        return pd.DataFrame()
    rows = pd.concat([one[(one["set"] == on) & (one["step"] > 500)] for one in parts], ignore_index=True)
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


def _three(case: Case, on: str) -> pd.DataFrame | None:
    """The three units of Figure 3.1: `ratio` to the twin, `beside` the control, and whether each `fell`."""
    chosen = _runs(case, **EARLY, unit=UNITS, batch_norm=True)
    if len(chosen) < 2 * len(UNITS) or not _runs(case, repeats=0, batch_norm=True):
        return None
    rows = _ratios(chosen, case, on)
    if len(rows) < 2 * len(UNITS):  # a unit dead in all three has no ratio
        return None
    table = rows.pivot_table(index="unit", columns="kind", values="ratio")
    beside = table["attack"] / table["control"]
    fell = (table["attack"] < 0.5) & (beside < 0.5)
    return table.assign(ratio=table["attack"], beside=beside, fell=fell)


def _final(run: Run, layer: str, on: str) -> pd.DataFrame:
    """Means over the last epoch, a row a unit of a layer."""
    rows = run.table("units")
    rows = rows[(rows["set"] == on) & (rows["layer"] == layer) & (rows["epoch"] > rows["epoch"].max() - 1)]
    return rows.groupby("unit").mean(numeric_only=True)


def _spearman(a: pd.Series, b: pd.Series) -> float:
    return float(a.rank().corr(b.rank()))
