"""Attacks beside their twins: the settings of chapter 3's runs, and their tables side by side.

A trial is an attack on one unit, or its control; its twin is the run of the same network and seed without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from deadunits.experiments.attacks import TWIN
from deadunits.measures import NAMES
from deadunits.runs import Run, grid

Unit = Sequence[Any]  #: the name of a layer, and the unit's index in it
NETWORK = ("activation", "batch_norm", "seed")  # what a trial and its twin have in common


def twins(base: Mapping[str, Any], watch: Sequence[Unit], seeds: int) -> list[dict[str, Any]]:
    """Settings of the runs without an attack, a run a seed; the values of the watched units are kept."""
    every = [list(unit) for unit in dict.fromkeys(map(tuple, watch))]
    return grid({**base, **TWIN, "watch": every}, seed=range(seeds))


def attacks(
    base: Mapping[str, Any],
    units: Sequence[Unit],
    *,
    starts: Sequence[int],
    multipliers: Sequence[float],
    interval: int,
    repeats: int,
    seeds: int,
    control: bool = False,
) -> list[dict[str, Any]]:
    """Settings of attacks (or of controls): every unit, start, multiplier and seed."""
    how = {"interval": interval, "repeats": repeats, "control": control}
    return [
        one
        for layer, unit in units
        for one in grid(
            {**base, **how, "layer": layer, "unit": unit, "watch": [[layer, unit]]},
            start=starts,
            multiplier=multipliers,
            seed=range(seeds),
        )
    ]


def kind(run: Run) -> str:
    """What a run is: "twin", "attack" or "control"."""
    chosen = run.info["settings"]
    return "twin" if not chosen["repeats"] else "control" if chosen["control"] else "attack"


def curves(
    trials: Sequence[Run], others: Sequence[Run], name: str = "units", on: str = "probe"
) -> pd.DataFrame:
    """What became of the unit of each trial, and of the same unit in its twin: one table below the other.

    Args:
        trials: attacks and controls.
        others: runs among which the twins are.
        name: of the table: `units` or `values` (rows of the unit), or `training`.
        on: the images that `units` were measured on, `probe` or `other`.

    Returns:
        The table's rows with the columns `kind`, `seed` and the trial's `layer`,
        `unit`, `start`, `multiplier`. A twin is there once for each trial.
    """
    known = {
        tuple(run.info["settings"][one] for one in NETWORK): run for run in others if kind(run) == "twin"
    }
    tables = {id(run): run.table(name) for run in (*known.values(), *trials)}
    parts = []
    for trial in trials:
        chosen = trial.info["settings"]
        twin = known[tuple(chosen[one] for one in NETWORK)]
        for run in (trial, twin):
            rows = tables[id(run)]
            if "unit" in rows:
                rows = rows[(rows["layer"] == chosen["layer"]) & (rows["unit"] == chosen["unit"])]
            if "set" in rows:
                rows = rows[rows["set"] == on]
            about = {one: chosen[one] for one in ("layer", "unit", "start", "multiplier")}
            parts.append(rows.assign(kind=kind(run), **about))
    return pd.concat(parts, ignore_index=True)


def ratios(rows: pd.DataFrame, column: str = "mrp") -> pd.DataFrame:
    """The mean of a column over the last epoch, of each trial over its twin's: `ratio`, a row a trial.

    Args:
        rows: from `curves`.
    """
    by = ["seed", "layer", "unit", "start", "multiplier"]
    late = rows[rows["epoch"] > rows["epoch"].max() - 1]
    means = late.groupby([*by, "kind"])[column].mean().unstack("kind")
    kinds = [one for one in ("attack", "control") if one in means]
    return pd.concat(
        [(means[one] / means["twin"]).rename("ratio").reset_index().assign(kind=one) for one in kinds],
        ignore_index=True,
    ).dropna()


def agreement(some: Sequence[Run], scores: Sequence[str] = ("mrs", "norm_in", "gradient")) -> pd.DataFrame:
    """Mean rank correlation of scores with MRP over a run's measurements: a row a run and layer.

    The columns are `network`, `layer`, and one for each score. A correlation is left out where all units of a
    layer have the same score.
    """
    parts = []
    for run in some:
        rows = run.table("units").query("set == 'probe'")
        by = ["layer", "step"]
        ranks = rows.groupby(by, sort=False)[["mrp", *scores]].rank()
        centred = ranks - ranks.groupby([rows[one] for one in by], sort=False).transform("mean")
        keys = [rows[one] for one in by]
        squares = centred.pow(2).groupby(keys, sort=False).sum()
        products = centred.mul(centred["mrp"], axis=0).groupby(keys, sort=False).sum()
        correlations = products.div((squares.mul(squares["mrp"], axis=0)) ** 0.5)[list(scores)]
        mean = correlations.groupby("layer", sort=False).mean().reset_index()
        parts.append(mean.assign(network=network(run)))
    return pd.concat(parts, ignore_index=True)


def network(run: Run) -> str:
    """The name of a run's network, as it is written."""
    chosen = run.info["settings"]
    return NAMES[chosen["activation"]] + (" with batch norm" if chosen["batch_norm"] else "")
