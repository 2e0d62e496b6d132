"""Attacks beside their twins: the settings of chapter 3's runs, and their tables side by side.

A trial is an attack on one unit, or its control; its twin is the run of the same network and seed without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deadbook import runs
from deadbook.analysis import measures
from deadbook.analysis.measures import NAMES, last_epoch, lasted, steady, unit_correlations
from deadbook.runs import Run, ensure, grid
from deadbook.settings import shared

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
#: What a chapter says of runs that diverged; `divergence` has its numbers.
DIVERGED = (
    "In {diverged} of {of} runs the loss diverged (became NaN or infinite), first at step {diverged_at:,}. "
    "They are in no table, no count and no accuracy of this page, and their curves end early: choose a "
    "smaller multiplier or learning rate."
)
#: What a chapter says of its attacks, by its parameters and `units` (`listed`).
ATTACKED = (
    "Attacked: {units}; $N$ = {repeats} times, $I$ = {interval} steps from one to the next, from step $S$ = "
    "{start:,} on, with $m$ = {multiplier:,g}."
)
NO_ATTACK = "Nothing is attacked, because `repeats` is 0: the figures and tables below are empty."
# What chapter 3.4 says of the attacks that it shows in full.
TWO = "First the attack that leaves its unit strongest against the twin, and the one that leaves it weakest. "
FEW = "They are among the attacks on units that have a control."
ANY = "None of the attacked units is one of `timed`, so there is no control beside them."
# Columns of `curves`, where there are no rows.
_CURVES = ("step", "epoch", "kind", "seed", "layer", "unit", "start", "multiplier", "lasted", "mrp", "mrs")
_CURVES += ("gradient", "norm_in", "norm_out", "weight_gradient", "minibatch", "what", "bin", "count")
_RANKED = ("mrs", "norm_in", "gradient")  # scores whose ranks are compared with those of MRP
_TRIAL = ("seed", "layer", "unit", "start", "multiplier")  # what tells trials of one network apart


def some_units(chosen: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings of the runs of chapters 3.2 and 3.3, by what they are for.

    `twins`; `first`, attacks on units `attacked`, and their `controls`; `starts`, attacks on those `timed` at
    several times; `multipliers`, with several multipliers, where the chapter has those.

    Args:
        chosen: the chapter's parameters by name.
    """
    base, seeds = shared("attacks", chosen), chosen["seeds"]
    units, timed = chosen["attacked"], chosen["timed"]
    wanted = {
        "twins": twins(base, units + timed, seeds),
        "first": attacks(base, units, seeds),
        "controls": attacks(base | {"control": True}, units, seeds),
        "starts": attacks(base, timed, seeds, start=chosen["starts"]),
    }
    if "multipliers" in chosen:
        slow = base | {"interval": chosen["slow_interval"]}
        wanted["multipliers"] = attacks(slow, timed, seeds, multiplier=chosen["multipliers"])
    return recorded(wanted)


def committed(experiment: str, run: Mapping[str, Any]) -> bool:
    """Whether a run with exactly these settings is in the book: it is read as it was recorded."""
    return (runs.project_root() / runs.PUBLISHED / runs.key(experiment, run)).is_dir()


def recorded(wanted: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The same settings; those of runs that are not `committed` with what is recorded since then.

    That is, all units around the attacks (a twin has the windows of all its attacks), all weights of the
    first such seed's twin; and CIFAR-10 must be its own images, not re-coded ones.
    """
    windows: list[list[int]] = []
    attacked = (run for role in wanted.values() for run in role if run["repeats"])
    for first, last in sorted(map(_window, attacked)):
        if windows and first <= windows[-1][1]:
            windows[-1][1] = max(windows[-1][1], last)
        else:
            windows.append([first, last])
    fresh = [run for role in wanted.values() for run in role if not committed("attacks", run)]
    first_seed = min((run["seed"] for run in fresh), default=None)

    def more(run: dict[str, Any]) -> dict[str, Any]:
        added: dict[str, Any] = {"pixels": "official"} if run["dataset"] == "cifar10" else {}
        if run["watch"] and (run["repeats"] or windows):
            added["around"] = [_window(run)] if run["repeats"] else windows
        if run["watch"] and run["seed"] == first_seed and not run["repeats"]:
            added["snapshots"] = True
        return run | added

    return {name: [more(run) if run in fresh else run for run in role] for name, role in wanted.items()}


def _window(run: Mapping[str, Any]) -> list[int]:
    """From 50 steps before the first attack to 200 after the last."""
    last = run["start"] + (run["repeats"] - 1) * run["interval"]
    return [max(0, run["start"] - 50), last + 200]


def whole_layer(chosen: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings of the runs of chapter 3.4: `twins`, `attacks` on all units of a layer, `controls` of some.

    Args:
        chosen: the chapter's parameters by name.
    """
    base, seeds = shared("attacks", chosen), chosen["seeds"]
    wanted = {
        "twins": twins(base, chosen["timed"], seeds),
        "attacks": attacks(base, units_of(chosen), seeds),
        "controls": attacks(base | {"control": True}, chosen["timed"], seeds),
    }
    return recorded(wanted)


def units_of(chosen: Mapping[str, Any]) -> list[Unit]:
    """The units that chapter 3.4 attacks."""
    return [[chosen["layer"], unit] for unit in range(chosen["units"])]


def milder(chosen: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings of chapter 3.4's attacks with `milder` multipliers, on the same units; `milder_seeds` seeds.

    Beyond the claims, which are judged without them: they watch no unit's values. With `again`, their twins
    once more: computed where the attacks are, so that one training is another's twin to the last bit.

    Args:
        chosen: the chapter's parameters by name.
    """
    base, seeds = shared("attacks", chosen), chosen["milder_seeds"]
    mild = attacks(base, units_of(chosen), seeds, multiplier=chosen["milder"])
    wanted = {"again": twins(base, [], seeds), "milder": [run | {"watch": []} for run in mild]}
    return recorded(wanted)


def one_layer(chosen: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings of all runs of chapter 3.4: `whole_layer`, and `milder`."""
    return whole_layer(chosen) | milder(chosen)


#: What each chapter's claims are judged by.
PLANS = {"03-2-batch-norm": some_units, "03-3-tanh": some_units, "03-4-relu": whole_layer}


def compute(
    wanted: Mapping[str, Sequence[Mapping[str, Any]]],
    results: str = "results",
    data_root: str = "",
    processes: int = 0,
) -> dict[str, list[Run]]:
    """The runs with these settings, by the same names: `runs.ensure` for all of them at once."""
    every = [run for role in wanted.values() for run in role]
    computed = iter(ensure("attacks", every, results, data_root, processes))
    return {name: [next(computed) for _ in role] for name, role in wanted.items()}


def twins(base: Mapping[str, Any], watch: Sequence[Unit], seeds: int) -> list[dict[str, Any]]:
    """Settings of the runs without an attack, a run a seed; the values of the watched units are kept."""
    watched = [list(unit) for unit in dict.fromkeys(map(tuple, watch))]
    return grid({**base, **TWIN, "watch": watched}, seed=range(seeds))


def attacks(
    base: Mapping[str, Any], units: Sequence[Unit], seeds: int, **lists: Sequence[Any]
) -> list[dict[str, Any]]:
    """Settings of attacks: of every unit, with every value of the lists and every seed; none without repeats.

    A control is one whose `base` says so.
    """
    if not base["repeats"]:
        return []
    runs = []
    for layer, unit in units:
        fixed = {"control": False, **base, "layer": layer, "unit": unit, "watch": [[layer, unit]]}
        runs += grid(fixed, **lists, seed=range(seeds))
    return runs


def late(run: Run) -> bool:
    """Whether it is one of `milder`, which came after the claims and decide none: those watch no unit."""
    return run.info["settings"].get("watch") == []


def common(run: Run) -> tuple[Any, ...]:
    """What a trial has in common with its twin: network, seed, and whether both are `late`."""
    return (*(run.info["settings"][name] for name in ("activation", "batch_norm", "seed")), late(run))


def kind(run: Run) -> str:
    """What a run is: "twin", "attack" or "control"."""
    settings = run.info["settings"]
    return "twin" if not settings["repeats"] else "control" if settings["control"] else "attack"


def _twins(runs: Sequence[Run]) -> dict[tuple[Any, ...], Run]:
    return {common(run): run for run in runs if kind(run) == "twin"}


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
        The table's rows with the columns `kind`, `seed`, `lasted` (whether the run did not diverge) and the
        trial's `layer`, `unit`, `start`, `multiplier`. A twin is there once for each trial. A trial that has
        no such table is not there: it diverged before anything was measured, or measured too seldom.
    """
    twins, parts = _twins(others), []
    tables = {run: run.table(name) for run in (*twins.values(), *trials) if run.has(name)}
    for trial in (run for run in trials if run in tables):
        settings = trial.info["settings"]
        for run in (trial, twins[common(trial)]):
            if run not in tables:
                continue
            rows = tables[run]
            if "unit" in rows:
                rows = rows[(rows["layer"] == settings["layer"]) & (rows["unit"] == settings["unit"])]
            if "set" in rows:
                rows = rows[rows["set"] == on]
            about = {name: settings[name] for name in ("layer", "unit", "start", "multiplier")}
            parts.append(rows.assign(kind=kind(run), lasted=lasted(run), **about))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_CURVES, dtype=float)


def ratios(rows: pd.DataFrame, column: str = "mrp") -> pd.DataFrame:
    """The mean of a column over the last epoch, of each trial over its twin's: `ratio`, a row a trial.

    A trial is left out if it or its twin diverged, or if both means are 0.

    Args:
        rows: from `curves`.
    """
    means = late_rows(rows).groupby([*_TRIAL, "kind"])[column].mean().unstack("kind")
    if "twin" not in means or means.shape[1] < 2:
        return pd.DataFrame(columns=[*_TRIAL, "ratio", "kind"], dtype=float)
    ratio = means.drop(columns="twin").div(means["twin"], axis=0).melt(ignore_index=False, value_name="ratio")
    return ratio.reset_index()[[*_TRIAL, "ratio", "kind"]].dropna(ignore_index=True)


def beside(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Means over the seeds of `ratios` of several columns: a row for each unit and kind of trial.

    Args:
        rows: from `curves`.
        names: columns of the table `units`, and what they are called in the result.
    """
    by = ["layer", "unit", "kind"]
    means = {name: ratios(rows, column).groupby(by)["ratio"].mean() for column, name in names.items()}
    return pd.DataFrame(means, columns=list(names.values())).rename_axis(by).reset_index()


def spreads(parts: Mapping[str, pd.Series]) -> pd.DataFrame:
    """A row for each series of ratios to the twin: its number, how many are below 1 and 0.5, its range."""
    rows = [
        {
            "over the twin's": name,
            "number": len(values),
            "below 1": int((values < 1).sum()),
            "below 0.5": int((values < 0.5).sum()),
            "lowest": values.min(),
            "median": values.median(),
            "highest": values.max(),
        }
        for name, values in parts.items()
    ]
    return pd.DataFrame([row for row in rows if row["number"]], columns=list(rows[0]))


def late_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last epoch, of the runs that did not diverge.

    Args:
        rows: from `curves`.
    """
    if "lasted" in rows:
        rows = rows[rows["lasted"].astype(bool)]
    return last_epoch(rows)


def gradient_grows(rows: pd.DataFrame) -> bool:
    """Whether each unit's output gradient, in the twins, is larger at the latest start than at the earliest.

    At a start: at the first measurement from there on; means over the seeds.

    Args:
        rows: from `curves`, of attacks that start at different steps.
    """
    twins, means = rows[rows["kind"] == "twin"].sort_values("step"), []
    for time in (rows["start"].min(), rows["start"].max()):
        firsts = twins[twins["step"] >= time].groupby(["seed", "layer", "unit"])["gradient"].first()
        means.append(firsts.groupby(["layer", "unit"]).mean())
    return bool((means[1] > means[0]).all()) and len(means[0]) > 0


def of_units(runs: Sequence[Run], units: Sequence[Unit]) -> list[Run]:
    """Those trials that are on one of some units."""
    wanted = [list(unit) for unit in units]
    return [run for run in runs if [run.info["settings"][name] for name in ("layer", "unit")] in wanted]


def named(row: pd.DataFrame) -> dict[str, Any]:
    """A trial for the prose, from a table with one row of `ratios`: name, seed and ratio."""
    (trial,) = row.to_dict("records")
    return {"name": called((trial["layer"], trial["unit"])), "seed": trial["seed"], "ratio": trial["ratio"]}


def machines(runs: Sequence[Run]) -> str:
    """Where runs were computed."""
    return " and ".join(dict.fromkeys(run.info["machine"] for run in runs))


def count_outcomes(ratio: pd.Series, noise: pd.Series) -> dict[str, int]:
    """Counts of attacked units by the ratio of their final MRP to the twin's.

    `attacked` of all, `rose`, `fell`, `died` (0) and `nearly` (below 0.01, not 0). Beyond the noise are
    `rose_beyond_noise` (and `above`), above the highest ratio of `noise`, and `below`, below its lowest.

    Args:
        ratio: of attacks.
        noise: from `computed_again`; none: no count beyond it.
    """
    outcomes = {"rose": ratio > 1, "fell": ratio < 1, "died": ratio == 0}
    outcomes["nearly"] = (ratio > 0) & (ratio < 0.01)
    if len(noise):
        above = ratio > noise.max()
        outcomes |= {"rose_beyond_noise": above, "above": above, "below": ratio < noise.min()}
    return {"attacked": len(ratio)} | {name: int(which.sum()) for name, which in outcomes.items()}


def counts_by_multiplier(ratio: pd.DataFrame) -> pd.DataFrame:
    """A row a multiplier, by its size: attacks, how many end higher, lower, nearly dead, and their ratios.

    Args:
        ratio: from `ratios`.
    """
    kinds = {"higher": ratio["ratio"] > 1, "lower": ratio["ratio"] < 1, "dead": ratio["ratio"] < 0.01}
    counts = ratio.assign(attacks=1, **kinds).astype(dict.fromkeys(kinds, int))
    counts = counts.groupby("multiplier")[["attacks", *kinds]].sum()
    median = ratio[ratio["ratio"] >= 0.01].groupby("multiplier")["ratio"].median()
    every = ratio.groupby("multiplier")["ratio"]
    counts = counts.assign(median=median, lowest=every.min(), highest=every.max()).reset_index()
    return counts.sort_values("multiplier", key=abs, kind="stable")


def extremes(table: pd.DataFrame, column: str) -> dict[str, Any]:
    """The lowest and the highest value of a column: `low`, `low_where`, `best`, `best_where`; empty: none.

    Args:
        table: where is its column `where`, or `layer` and `network`.
    """
    known = table[np.isfinite(table[column].astype(float))].sort_values(column, kind="stable")
    if known.empty:
        return {}
    low, best = known.iloc[0], known.iloc[-1]
    places = [row["where"] if "where" in row else f"{row['layer']}, {row['network']}" for row in (low, best)]
    ends = {"low": float(low[column]), "low_where": places[0]}
    return ends | {"best": float(best[column]), "best_where": places[1]}


def shares(names: pd.Series) -> str:
    """Names and how often each is there, most often first, for the prose."""
    return ", ".join(f"{name} ({count})" for name, count in names.value_counts().items())


def durations(runs: Sequence[Run]) -> dict[str, Any]:
    """`lasting`, steps from the first attack to the last, and `steps` of the longest training."""
    settings = [run.info["settings"] for run in runs if kind(run) == "attack"]
    lasting = pd.Series([(run["repeats"] - 1) * run["interval"] for run in settings], dtype=float)
    steps = [int(run.table("training")["step"].max()) for run in runs if lasted(run)]
    return {"lasting": span(lasting, ",.0f"), "steps": max(steps)} if len(lasting) and steps else {}


def by_setting(ratio: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Number, lowest, mean and highest ratio over the seeds: a row for each unit and value of a setting.

    Args:
        ratio: from `ratios`.
        setting: `start` or `multiplier`.
    """
    rows = ratio[ratio["kind"] == "attack"].groupby(["layer", "unit", setting])["ratio"]
    names = {"size": "seeds", "min": "lowest", "max": "highest"}
    return rows.agg(["size", "min", "mean", "max"]).rename(columns=names).reset_index()


def ends(table: pd.DataFrame, setting: str, unit: Unit, name: str) -> dict[str, Any]:
    """The mean ratio of a unit at the lowest and the highest value of a setting, for the prose.

    Args:
        table: from `by_setting`.
        name: that the numbers get: `low_name`, `high_name`, and the unit itself, `name`.
    """
    rows = table[(table["layer"] == unit[0]) & (table["unit"] == unit[1])].sort_values(setting)
    if rows[setting].nunique() < 2:
        return {}
    low, *_, high = rows["mean"]
    return {name: called(unit), f"low_{name}": low, f"high_{name}": high}


def largest_rise(table: pd.DataFrame, setting: str) -> dict[str, Any]:
    """Where the mean ratio of a unit rises most from one value of a setting to the next; empty: nowhere.

    Args:
        table: from `by_setting`.
    """
    rises = []
    for unit, rows in table.sort_values(setting).groupby(["layer", "unit"]):
        for (_, a), (_, b) in itertools.pairwise(rows.iterrows()):
            about = {"rises": called(unit), "rise_from": a["mean"], "rise_to": b["mean"]}
            rises.append(about | {"rise_low": a[setting], "rise_high": b[setting]})
    most = max(rises, key=lambda rise: rise["rise_to"] - rise["rise_from"], default=None)
    return most if most and most["rise_to"] > most["rise_from"] else {}


def soon(rows: pd.DataFrame, column: str, attack_lasts: int) -> pd.DataFrame:
    """The first measurement after the last attack, attacked over not attacked: `ratio`, a row a trial.

    Args:
        rows: from `curves`.
        attack_lasts: steps from the first attack to the last.
    """
    after = rows[rows["step"] > rows["start"] + attack_lasts].sort_values("step")
    first = after.groupby([*_TRIAL, "kind"])[column].first().unstack("kind")
    if not {"attack", "twin"} <= set(first):
        return pd.DataFrame(columns=[*_TRIAL, "ratio"], dtype=float)
    return (first["attack"] / first["twin"]).rename("ratio").reset_index().dropna()


def span(values: pd.Series, how: str = ".2f") -> str | None:
    """The lowest and the highest value for the prose; None: there are none."""
    values = values[np.isfinite(values)]
    if values.empty:
        return None
    low, high = (format(steady(value), how) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def called(unit: Unit) -> str:
    """A unit as the prose names it."""
    return f"{unit[0]}, unit {unit[1]}"


def listed(units: Sequence[Unit]) -> str:
    """Several units as the prose names them."""
    layers = dict.fromkeys(layer for layer, _ in units)
    of = {layer: [str(unit) for name, unit in units if name == layer] for layer in layers}
    return "; ".join(f"{layer}, unit{'s' * (len(n) > 1)} {', '.join(n)}" for layer, n in of.items())


def divergence(runs: Sequence[Run]) -> dict[str, int]:
    """How many of the runs diverged, of how many, and the earliest step; empty if none did."""
    steps = [int(run.table("final")["diverged"].iloc[0]) for run in dict.fromkeys(runs)]
    diverged = [step for step in steps if step]
    return {"diverged": len(diverged), "of": len(steps), "diverged_at": min(diverged)} if diverged else {}


def about(chosen: Mapping[str, Any], twins: Sequence[Run], every: Sequence[Run]) -> dict[str, Any]:
    """What a chapter says of its runs: network, images, accuracy in %, seeds, attack, divergence.

    Args:
        chosen: the chapter's parameters by name.
        twins: the runs without an attack.
        every: all runs of the chapter.
    """
    reached = accuracies(twins)
    images = str(twins[0].table("final")["images"].iloc[0])  # as the tables name the data set
    words = {"network": network(twins[0]), "images": images, "seeds": len(reached)}
    words |= {name: chosen[name] for name in ("start", "interval", "repeats", "multiplier")}
    return words | {"accuracy": reached.mean()} | divergence(every)


def accuracies(runs: Sequence[Run]) -> pd.Series:
    """Accuracy on the test images in %, of the runs that did not diverge."""
    known = [run.table("final")["accuracy"].iloc[0] for run in runs if lasted(run)]
    return 100 * pd.Series(known, dtype=float)


def loss_changes(trials: Sequence[Run], others: Sequence[Run]) -> pd.DataFrame:
    """The final training loss beside the twin's, a row a trial; without those of which one diverged.

    `change` is relative to the twin's loss. The other columns tell the trial: `seed`, `layer`, `unit`,
    `start`, `multiplier` and `kind`.

    Args:
        trials: attacks and controls.
        others: runs among which the twins are.
    """
    twins, rows = _twins(others), []
    for run in dict.fromkeys(trials):  # two sections of a chapter may have the same attack
        twin, settings = twins[common(run)], run.info["settings"]
        if lasted(run) and lasted(twin):
            loss, before = (float(it.table("final")["train_loss"].iloc[0]) for it in (run, twin))
            about = {name: settings[name] for name in _TRIAL}
            rows.append(about | {"kind": kind(run), "change": loss / before - 1})
    return pd.DataFrame(rows, columns=[*_TRIAL, "kind", "change"])


def computed_again(again: Sequence[Run], twins: Sequence[Run], layer: str) -> pd.Series:
    """Final MRP of a layer's units in one training over that in the same training computed earlier.

    1 where both were computed on the same kind of processor; otherwise what rounding alone makes of a unit.
    """

    def final(runs: Sequence[Run]) -> pd.Series:
        tables = [run.table("units") for run in runs if lasted(run) and run.has("units")]
        rows = pd.concat(tables or [pd.DataFrame(columns=["set", "layer", "seed", "unit", "epoch", "mrp"])])
        rows = rows[(rows["set"] == "probe") & (rows["layer"] == layer)]
        return last_epoch(rows).groupby(["seed", "unit"])["mrp"].mean().astype(float)

    ratio = final(again) / final(twins)
    return ratio[np.isfinite(ratio)]


def silenced(rows: pd.DataFrame) -> pd.DataFrame:
    """What came after an attacked unit's MRP was exactly 0 at some measurement: a row for each such unit.

    The columns are `seed`, `layer`, `unit`; `back`, whether it was above 0 again later; `mute`, whether the
    unit's weights got no gradient at all from then on; `end`, the MRP at the last measurement, in nats.

    Args:
        rows: from `curves`.
    """
    by = ["seed", "layer", "unit"]
    parts = []
    for key, unit in rows[rows["kind"] == "attack"].groupby([*by, "start", "multiplier"]):
        unit = unit.sort_values("step")
        after = unit[(unit["mrp"] == 0).cummax()][1:]
        if len(after):
            back, mute = bool((after["mrp"] > 0).any()), bool((after["weight_gradient"] == 0).all())
            end = float(after["mrp"].iloc[-1])
            parts.append(dict(zip(by, key, strict=False)) | {"back": back, "mute": mute, "end": end})
    return pd.DataFrame(parts, columns=[*by, "back", "mute", "end"])


@measures.cached
def ranks(runs: tuple[Run, ...], on: str = "probe", after: int = 0) -> pd.DataFrame:
    """Spearman's correlation of three scores with MRP after a step, by run (number), layer and step.

    The columns are `mrs`, `norm_in`, `gradient`, and `smallest`: whether the unit of lowest MRS (the first of
    several) has the lowest MRP. A correlation is nan where all units of a layer have the same score.
    """
    by = ["run", "layer", "step"]
    units = _numbered([measures.rows(run, "units", set=on) for run in runs])
    units = units[units["step"] > after]
    if units.empty:
        return pd.DataFrame(columns=[*by, *_RANKED, "smallest"], dtype=float).set_index(by)
    lowest_first = units.sort_values("mrs", kind="stable").groupby(by)["mrp"]
    same = (lowest_first.first() == lowest_first.min()).astype(float)
    return unit_correlations(units, _RANKED, by).assign(smallest=same)


def _numbered(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other; `run` numbers them."""
    number = np.repeat(range(len(tables)), [len(table) for table in tables])
    return pd.concat(tables, ignore_index=True).assign(run=number)


def agreement(runs: Sequence[Run]) -> pd.DataFrame:
    """Means of `ranks` over a run's measurements: a row a run and layer; without runs that diverged."""
    runs = tuple(filter(lasted, runs))
    if not runs:
        return pd.DataFrame(columns=["network", "layer", *_RANKED, "smallest"])
    means = ranks(runs).groupby(["run", "layer"]).mean().reset_index()
    return means.assign(network=[network(runs[number]) for number in means["run"]])


def at_the_end(runs: Sequence[Run]) -> pd.DataFrame:
    """All units at the last measurement of each run that did not diverge, with the column `network`."""
    parts = [pd.DataFrame(columns=["network", "layer", "unit", "mrp", "mrs"])]
    for run in filter(lasted, runs):
        rows = measures.rows(run, "units", set="probe")
        parts.append(rows[rows["step"] == rows["step"].max()].assign(network=network(run)))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def halves(*runs: Run, on: str = "probe") -> pd.DataFrame:
    """Units at half-time and at the end: `run` (number), `layer`, `unit`, `what`, `half` and `end`.

    Of a run that measured only once, or diverged, there is none.

    `what` is "MRP" or "output gradient"; `half` and `end` are it, divided by its mean over the layer at that
    time. Half-time is the measurement nearest to half of the last one's step, the earlier of two.
    """
    names = {"mrp": "MRP", "gradient": "output gradient"}
    tables = [_half_and_end(measures.rows(run, "units", set=on)) for run in runs if lasted(run)]
    units = _numbered(tables) if tables else pd.DataFrame()
    if units.empty:
        return pd.DataFrame(columns=["run", "layer", "unit", "what", "half", "end"])
    means = units.groupby(["run", "time", "layer"])[list(names)].transform("mean")
    units[list(names)] /= means
    times = units.pivot(index=["run", "layer", "unit"], columns="time", values=list(names))
    tables = [times[column].assign(what=what) for column, what in names.items()]
    return pd.concat(tables).rename_axis(columns=None).reset_index()


def _half_and_end(units: pd.DataFrame) -> pd.DataFrame:
    """Units at the measurement nearest to half of the last one's step, and at the last one."""
    steps = np.sort(units["step"].unique())
    if len(steps) < 2:
        return units[:0].assign(time="")
    half = steps[np.abs(steps - steps[-1] / 2).argmin()]
    ends = units[units["step"].isin([half, steps[-1]])]
    return ends.assign(time=np.where(ends["step"] == half, "half", "end"))


def gradient_against_weights(runs: Sequence[Run], on: str = "probe") -> pd.DataFrame:
    """How the attacked unit's output gradient goes with its incoming weights: a row an attack.

    `correlation` is Spearman's, over the measurements of a run; a run in which one of the two never changes
    is left out, and so is one that diverged. The other columns are `network`, `layer`, `unit`, `start` and
    `multiplier`.
    """
    parts = []
    for run in (run for run in runs if lasted(run) and kind(run) == "attack"):
        about = {name: run.info["settings"][name] for name in ("layer", "unit", "start", "multiplier")}
        units = measures.rows(run, "units", set=on, layer=about["layer"], unit=about["unit"])
        if units[["gradient", "norm_in"]].nunique().min() > 1:
            correlation = measures.spearman(units["gradient"], units["norm_in"])
            parts.append({"network": network(run), **about, "correlation": correlation})
    return pd.DataFrame(parts, columns=["network", "layer", "unit", "start", "multiplier", "correlation"])


def network(run: Run) -> str:
    """The name of a run's network, as it is written."""
    chosen = run.info["settings"]
    return NAMES[chosen["activation"]] + (" with batch norm" if chosen["batch_norm"] else "")
