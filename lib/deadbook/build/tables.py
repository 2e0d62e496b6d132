"""One tidy table a chapter, for people who plot themselves: what is in it, and how runs give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deadbook.analysis import trials
from deadbook.runs import Run, table, write

STEP = {"seed": "of weights and minibatches", "step": "of the training, from 1", "epoch": "passes so far"}
ON = {
    "scored_on": "images that gave the scores: probe, other, train_probe",
    "set": "images that gave the penalty",
}
LOSSES = {
    "minibatch": "loss of the step's minibatch, in nats",
    "probe": "loss on the images scored on, in nats",
    "other": "loss on other images, in nats",
    "train_probe": "loss on 1,000 images trained on, in nats",
}


@dataclass(frozen=True)
class Table:
    """A chapter's table: a row is a `row`; the columns and their meanings, with units."""

    row: str
    columns: dict[str, str]
    make: Callable[[Sequence[Run]], pd.DataFrame]


def _expansion(some: Sequence[Run]) -> pd.DataFrame:
    return table(some, "expansion")


def _weight_penalties(some: Sequence[Run]) -> pd.DataFrame:
    return _without_draws(table(_of(some, "saliency"), "penalties"))


def _unit_penalties(some: Sequence[Run]) -> pd.DataFrame:
    rows = pd.concat(
        run.table("penalties").assign(hidden=run.info["settings"]["widths"][-1]) for run in _of(some, "units")
    )
    return _without_draws(rows[rows["set"] == "other"].drop(columns="set"))


def _weights_pruned(some: Sequence[Run]) -> pd.DataFrame:
    return table(_of(some, "weight_pruning"), "training")


def _units_pruned(some: Sequence[Run]) -> pd.DataFrame:
    return table(_of(some, "unit_pruning"), "training")


def _attacked(some: Sequence[Run]) -> pd.DataFrame:
    by_interval: dict[int, list[Run]] = {}
    for run in some:
        if trials.kind(run) != "twin":
            by_interval.setdefault(run.info["settings"]["interval"], []).append(run)
    parts = [trials.curves(own, some).assign(interval=interval) for interval, own in by_interval.items()]
    return pd.concat(parts).drop_duplicates()


def _of(some: Sequence[Run], experiment: str) -> list[Run]:
    return [run for run in some if run.info["experiment"] == experiment]


def _without_draws(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean over random choices."""
    by = [name for name in rows if name not in ("draw", "penalty")]
    return rows.groupby(by, sort=False)["penalty"].mean().reset_index()


_ATTACKED = Table(
    "measurement of an attacked unit, or of the same unit in its twin or control",
    {
        "kind": "attack, control (scaled once) or twin (left alone)",
        "layer": "of the unit",
        "unit": "its index, from 0",
        "start": "step of the first attack",
        "interval": "steps from one attack to the next",
        "multiplier": "of the learning rate",
        **STEP,
        "mrp": "mean replacement penalty, in nats",
        "mrs": "its first-order estimate, in nats",
        "gradient": "norm of the loss's gradient by the unit's output, mean over the images, in nats",
        "norm_in": "L1 norm of the incoming weights",
        "norm_out": "L1 norm of the outgoing weights",
        "weight_gradient": "L1 norm of a minibatch's gradient by the incoming weights, a mean, in nats",
    },
    _attacked,
)
TABLES = {
    "01-background": Table(
        "walk away from the weights",
        {
            **STEP,
            "direction": "gradient (along the negative one) or removal (towards 0)",
            "size": "t, of the walk",
            "exact": "change of the loss, in nats",
            "first": "the same to first order",
            "second": "to second order",
        },
        _expansion,
    ),
    "02-1-saliency": Table(
        "pruning for a moment",
        {
            "activation": "of the network: relu or tanh",
            **STEP,
            "scorer": "that chose the weights of conv1; _abs: by absolute value",
            "fraction": "of the weights, from 0 to 1",
            **ON,
            "penalty": "loss after minus loss before, in nats; for random the mean over the draws",
        },
        _weight_penalties,
    ),
    "02-2-weight-pruning": Table(
        "measurement",
        {
            "pruned_by": "layer, network, or empty: the twin that is not pruned",
            **STEP,
            "pruned": "share of the weights, from 0 to 1",
            **LOSSES,
        },
        _weights_pruned,
    ),
    "03-2-batch-norm": _ATTACKED,
    "03-3-tanh": _ATTACKED,
    "03-4-relu": _ATTACKED,
    "04-1-units": Table(
        "pruning for a moment, judged on other images than those scored on",
        {
            "activation": "of the network: relu or tanh",
            "hidden": "units in fc1: 64, or 256 for some of the seeds",
            **STEP,
            "layer": "whose units go",
            "scorer": "that chose them",
            "fraction": "of the layer's units, from 0 to 1",
            "constant": "what stands for a unit: mean of h (before), of a (behind the nonlinearity), ...",
            "penalty": "loss after minus loss before, in nats; for random the mean over the draws",
        },
        _unit_penalties,
    ),
    "04-2-unit-pruning": Table(
        "measurement",
        {**STEP, "pruned": "share of all parameters, from 0 to 1", **LOSSES},
        _units_pruned,
    ),
}


def make(chapter: str, some: Sequence[Run]) -> pd.DataFrame:
    """The table of a chapter from its runs: its columns in their order, rows sorted by them."""
    names = list(TABLES[chapter].columns)
    rows = TABLES[chapter].make(some)[names]
    keys = [name for name in names if name not in LOSSES and rows[name].dtype.kind != "f"]
    return rows.sort_values([*keys, *(["size"] if "size" in names else [])], kind="stable", ignore_index=True)


def save(chapter: str, some: Sequence[Run], folder: Path) -> Path:
    """`make` it, as parquet; what was measured with seven digits, what was set as it was set."""
    rows = make(chapter, some)
    given = ("fraction", "size", "epoch", "multiplier")
    floats = {name: "float32" for name in rows if rows[name].dtype.kind == "f" and name not in given}
    folder.mkdir(exist_ok=True)
    draft = folder / f".{chapter}"
    write(rows.astype(floats), draft)
    return draft.replace(folder / f"{chapter}.parquet")


def describe() -> str:
    """All tables and their columns, in Markdown."""
    parts = []
    for chapter, one in TABLES.items():
        if chapter in ("03-3-tanh", "03-4-relu"):
            continue
        files = [chapter] if one is not _ATTACKED else [c for c, t in TABLES.items() if t is one]
        parts.append("**" + ", ".join(f"`{name}.parquet`" for name in files) + f"**: a row is a {one.row}.")
        lines = [f"| `{name}` | {meaning} |" for name, meaning in one.columns.items()]
        parts.append("\n".join(["| column | meaning |", "| --- | --- |", *lines]))
    return "\n\n".join(parts)
