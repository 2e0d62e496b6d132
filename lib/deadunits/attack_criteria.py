"""What decides the claims of chapter 3: as `criteria`, of attacks, their controls and their twins.

A ratio is the final penalty (mean over the last epoch) of the attacked unit over that of the same unit in the
twin. A run whose loss ceased to be a number is left out. Pooled criteria get the runs of all seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deadunits import trials
from deadunits.criteria import Case, Evidence
from deadunits.runs import Run

if TYPE_CHECKING:
    import pandas as pd

EARLY = {"layer": "conv1", "start": 50, "interval": 10, "multiplier": 100}  # Figure 3.1
UNITS = (0, 4, 2)
STARTS = (500, 1500, 2500, 5000)
PERMUTATIONS = 10_000


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
    if not attacks:
        return None
    rows = _ratios(attacks, case, on)
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
        attacks = _runs(case, layer=layer, **how)
        if len({run.info["settings"]["multiplier"] for run in attacks}) < 2:
            return None
        rows = _ratios(attacks, case, on)
        values[f"{layer}, Spearman of multiplier and ratio"] = _spearman(rows["multiplier"], rows["ratio"])
    highest = max(values.values())
    return Evidence(values, holds=highest < -0.5, directs=highest < 0)


def stronger_or_dead(case: Case, on: str) -> Evidence | None:
    """C3.9: how many of the 16 units of conv2 rise and fall in a plain ReLU network, and how many die."""
    how = {"start": 2000, "interval": 10, "multiplier": 100, "control": False}
    attacks = _runs(case, layer="conv2", unit=tuple(range(16)), activation="relu", batch_norm=False, **how)
    if len(attacks) < 16:
        return None
    rows = _ratios(attacks, case, on)
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


def _runs(case: Case, **wanted: Any) -> list[Run]:
    """Runs with these settings (a tuple: one of these), ten attacks unless said, that did not diverge."""
    wanted = {"repeats": 10} | wanted

    def fits(chosen: Mapping[str, Any]) -> bool:
        return all(
            chosen[name] in value if isinstance(value, tuple) else chosen[name] == value
            for name, value in wanted.items()
        )

    fitting = [run for run in case if fits(run.info["settings"])]
    return [run for run in fitting if not run.table("final")["diverged"].iloc[0]]


def _ratios(some: Sequence[Run], case: Case, on: str, column: str = "mrp") -> pd.DataFrame:
    return trials.ratios(trials.curves(some, case, on=on), column)


def _three(case: Case, on: str) -> pd.DataFrame | None:
    """The three units of Figure 3.1: `ratio` to the twin, `beside` the control, and whether each `fell`."""
    chosen = _runs(case, **EARLY, unit=UNITS, batch_norm=True)
    if len(chosen) < 2 * len(UNITS) or not _runs(case, repeats=0, batch_norm=True):
        return None
    table = _ratios(chosen, case, on).pivot_table(index="unit", columns="kind", values="ratio")
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
