"""Attacks beside their twins: the settings of chapter 3's runs, and their tables side by side.

A trial is an attack on one unit, or its control; its twin is the run of the same network and seed without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deadunits import Invalid
from deadunits.measures import NAMES
from deadunits.runs import Run, ensure, grid

Unit = Sequence[Any]  #: the name of a layer, and the unit's index in it
#: The settings of a twin: the same training without an attack. One serves all attacks of its seed.
TWIN: Mapping[str, Any] = {
    "layer": "",
    "unit": 0,
    "start": 1,
    "interval": 10,
    "repeats": 0,
    "multiplier": 1,
    "control": False,
}
CALMER = "choose a smaller multiplier or learning rate"
# The parameters of a chapter that are settings of all its runs.
_BASE = ("dataset", "image_size", "network", "layers", "activation", "batch_norm", "epochs", "lr")
_BASE += ("batch_size", "measure_every", "probe_size")


def some_units(chosen: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings of the runs of chapters 3.2 and 3.3, by what they are for.

    `twins`; `first`, attacks on units `attacked`, and their `controls`; `starts`, attacks on those `timed` at
    several times; `multipliers`, with several multipliers, where the chapter has those.

    Args:
        chosen: the chapter's parameters by name.
    """
    base = {name: chosen[name] for name in _BASE}
    how = {name: chosen[name] for name in ("interval", "repeats", "seeds")}
    how["multipliers"] = [chosen["multiplier"]]
    units, timed, first = chosen["attacked"], chosen["timed"], [chosen["start"]]
    wanted = {
        "twins": twins(base, units + timed, chosen["seeds"]),
        "first": attacks(base, units, starts=first, **how),
        "controls": attacks(base, units, starts=first, **how, control=True),
        "starts": attacks(base, timed, starts=chosen["starts"], **how),
    }
    if "multipliers" in chosen:
        slow = how | {"multipliers": chosen["multipliers"], "interval": chosen["slow_interval"]}
        wanted["multipliers"] = attacks(base, timed, starts=first, **slow)
    return wanted


def whole_layer(chosen: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings of the runs of chapter 3.4: `twins`, `attacks` on all units of a layer, `controls` of some.

    Args:
        chosen: the chapter's parameters by name.
    """
    base = {name: chosen[name] for name in _BASE}
    how = {name: chosen[name] for name in ("interval", "repeats", "seeds")}
    how |= {"starts": [chosen["start"]], "multipliers": [chosen["multiplier"]]}
    units = [[chosen["layer"], unit] for unit in range(chosen["units"])]
    return {
        "twins": twins(base, chosen["timed"], chosen["seeds"]),
        "attacks": attacks(base, units, **how),
        "controls": attacks(base, chosen["timed"], **how, control=True),
    }


def milder(chosen: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings of chapter 3.4's attacks with `milder` multipliers, on the same units; `milder_seeds` seeds.

    Beyond the claims, which are judged without them: they watch no unit's values. With `again`, their twins
    once more: computed where the attacks are, so that one training is another's twin to the last bit.

    Args:
        chosen: the chapter's parameters by name.
    """
    base, seeds = {name: chosen[name] for name in _BASE}, chosen["milder_seeds"]
    how = {"starts": [chosen["start"]], "multipliers": chosen["milder"], "seeds": seeds}
    how |= {name: chosen[name] for name in ("interval", "repeats")}
    units = [[chosen["layer"], unit] for unit in range(chosen["units"])]
    mild = [one | {"watch": []} for one in attacks(base, units, **how)]
    return {"again": twins(base, [], seeds), "milder": mild}


#: What each chapter runs, by its parameters.
PLANS = {"03-2-batch-norm": some_units, "03-3-tanh": some_units, "03-4-relu": whole_layer}


def compute(
    wanted: Mapping[str, Sequence[Mapping[str, Any]]],
    results: str = "results",
    data_root: str = "",
    processes: int = 0,
) -> dict[str, list[Run]]:
    """The runs with these settings, by the same names: `runs.ensure` for all of them at once."""
    found = iter(
        ensure("attacks", [one for some in wanted.values() for one in some], results, data_root, processes)
    )
    return {name: [next(found) for _ in some] for name, some in wanted.items()}


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


def late(run: Run) -> bool:
    """Whether it is one of `milder`, which came after the claims and decide none: those watch no unit."""
    return run.info["settings"].get("watch") == []


def common(run: Run) -> tuple[Any, ...]:
    """What a trial has in common with its twin: network, seed, and whether both are `late`."""
    chosen = run.info["settings"]
    return (*(chosen[one] for one in ("activation", "batch_norm", "seed")), late(run))


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
        `unit`, `start`, `multiplier`. A twin is there once for each trial. A trial whose loss ceased to be a
        number before anything was measured is not there.

    Raises:
        Invalid: no trial is.
    """
    known = {common(run): run for run in others if kind(run) == "twin"}
    twins = {common(run): known[common(run)] for run in trials}
    tables = {id(run): run.table(name) for run in (*twins.values(), *trials) if run.has(name)}
    lasted = [run for run in trials if id(run) in tables]
    if not lasted:
        steps = sorted({int(run.table("final")["diverged"].iloc[0]) for run in trials} - {0})
        if not steps:
            raise Invalid(f"no {name} of any attack: measure more often (measure_every), or watch the units")
        raise Invalid(f"no {name} of any attack: the loss ceased to be a number at step {steps}; {CALMER}")
    parts = []
    for trial in lasted:
        chosen = trial.info["settings"]
        for run in (one for one in (trial, twins[common(trial)]) if id(one) in tables):
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

    Raises:
        Invalid: no trial lasted until the last epoch.
    """
    by = ["seed", "layer", "unit", "start", "multiplier"]
    late = rows[rows["epoch"] > rows["epoch"].max() - 1]
    means = late.groupby([*by, "kind"])[column].mean().unstack("kind")
    kinds = [one for one in ("attack", "control") if one in means]
    if "twin" not in means or not kinds:
        raise Invalid(f"no attack, or no training without one, lasted until the last epoch; {CALMER}")
    return pd.concat(
        [(means[one] / means["twin"]).rename("ratio").reset_index().assign(kind=one) for one in kinds],
        ignore_index=True,
    ).dropna()


def silenced(rows: pd.DataFrame) -> pd.DataFrame:
    """What came after an attacked unit's MRP was exactly 0 at some measurement: a row for each such unit.

    The columns are `seed`, `layer`, `unit`; `back`, whether it was above 0 again later; `mute`, whether the
    unit's weights got no gradient at all from then on; `end`, the MRP at the last measurement, in nats.

    Args:
        rows: from `curves`.
    """
    by = ["seed", "layer", "unit"]
    parts = []
    for key, own in rows[rows["kind"] == "attack"].groupby([*by, "start", "multiplier"]):
        own = own.sort_values("step")
        after = own[(own["mrp"] == 0).cummax()][1:]
        if len(after):
            back, mute = bool((after["mrp"] > 0).any()), bool((after["weight_gradient"] == 0).all())
            end = float(after["mrp"].iloc[-1])
            parts.append(dict(zip(by, key, strict=False)) | {"back": back, "mute": mute, "end": end})
    return pd.DataFrame(parts, columns=[*by, "back", "mute", "end"])


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


def halves(run: Run, on: str = "probe") -> pd.DataFrame:
    """Units at half-time and at the end: `layer`, `unit`, `what`, `half` and `end`, none if measured once.

    `what` is "MRP" or "output gradient"; `half` and `end` are it, divided by its mean over the layer at that
    time. Half-time is the measurement nearest to half of the last one's step, the earlier of two.
    """
    rows = run.table("units")
    rows = rows[rows["set"] == on]
    steps = np.sort(rows["step"].unique())
    if len(steps) < 2:
        return pd.DataFrame(columns=["layer", "unit", "what", "half", "end"])
    times = {steps[np.abs(steps - steps[-1] / 2).argmin()]: "half", steps[-1]: "end"}
    ends = rows[rows["step"].isin(list(times))]
    parts = []
    for column, what in {"mrp": "MRP", "gradient": "output gradient"}.items():
        relative = ends[column] / ends.groupby(["layer", "step"], sort=False)[column].transform("mean")
        by_time = ends.assign(relative=relative).pivot(
            index=["layer", "unit"], columns="step", values="relative"
        )
        parts.append(by_time.rename(columns=times).rename_axis(columns=None).reset_index().assign(what=what))
    return pd.concat(parts, ignore_index=True)


def gradient_against_weights(some: Sequence[Run], on: str = "probe") -> pd.DataFrame:
    """How the attacked unit's output gradient goes with its incoming weights: a row an attack.

    `correlation` is Spearman's, over the measurements of a run; a run in which one of the two never changes
    is left out. The other columns are `network`, `layer`, `unit`, `start` and `multiplier`.
    """
    parts = []
    for run in some:
        chosen, rows = run.info["settings"], run.table("units")
        own = (rows["set"] == on) & (rows["layer"] == chosen["layer"]) & (rows["unit"] == chosen["unit"])
        gradient, norm = rows[own]["gradient"], rows[own]["norm_in"]
        if kind(run) == "attack" and min(gradient.nunique(), norm.nunique()) > 1:
            about = {one: chosen[one] for one in ("layer", "unit", "start", "multiplier")}
            correlation = float(gradient.rank().corr(norm.rank()))
            parts.append({"network": network(run), **about, "correlation": correlation})
    return pd.DataFrame(parts, columns=["network", "layer", "unit", "start", "multiplier", "correlation"])


def network(run: Run) -> str:
    """The name of a run's network, as it is written."""
    chosen = run.info["settings"]
    return NAMES[chosen["activation"]] + (" with batch norm" if chosen["batch_norm"] else "")
