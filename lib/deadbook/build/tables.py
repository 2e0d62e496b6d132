"""One tidy table a chapter, for people who plot themselves: what is in it, and how runs give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from deadbook.analysis import trials
from deadbook.runs import Run, write

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
PENALTY = {"penalty": "loss after minus loss before, in nats; for random the mean over the draws"}


@dataclass(frozen=True, eq=False)
class Table:
    """A chapter's table: a row is a `row`; the columns and their meanings, with units."""

    row: str
    columns: dict[str, str]
    make: Callable[[Sequence[Run]], pd.DataFrame]


def _rows(experiment: str, name: str, runs: Sequence[Run]) -> pd.DataFrame:
    """A table of the runs of one experiment; of random choices the mean over the draws."""
    parts = []
    for run in (run for run in runs if run.info["experiment"] == experiment):
        widths = run.info["settings"].get("widths", [0])
        parts.append(run.table(name).assign(hidden=widths[-1]))
    rows = pd.concat(parts, ignore_index=True)
    if experiment == "units":
        rows = rows[rows["set"] == "other"].drop(columns="set")
    if "draw" in rows:
        by = [column for column in rows if column not in ("draw", "penalty")]
        rows = rows.groupby(by, sort=False)["penalty"].mean().reset_index()
    return rows


def _attacked(runs: Sequence[Run]) -> pd.DataFrame:
    attacks: dict[int, list[Run]] = {}
    for run in runs:
        if trials.kind(run) != "twin":
            attacks.setdefault(run.info["settings"]["interval"], []).append(run)
    parts = [trials.curves(group, runs).assign(interval=interval) for interval, group in attacks.items()]
    return pd.concat(parts).drop_duplicates()


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
        partial(_rows, "background", "expansion"),
    ),
    "02-1-saliency": Table(
        "temporary pruning",
        {
            "activation": "of the network: relu or tanh",
            **STEP,
            "scorer": "that chose the weights of conv1; _abs: by absolute value",
            "fraction": "of the weights, from 0 to 1",
            **ON,
            **PENALTY,
        },
        partial(_rows, "saliency", "penalties"),
    ),
    "02-2-weight-pruning": Table(
        "measurement",
        {
            "pruned_by": "layer, network, or empty: the twin that is not pruned",
            **STEP,
            "pruned": "share of the weights, from 0 to 1",
            **LOSSES,
        },
        partial(_rows, "weight_pruning", "training"),
    ),
    "03-2-batch-norm": _ATTACKED,
    "03-3-tanh": _ATTACKED,
    "03-4-relu": _ATTACKED,
    "04-1-units": Table(
        "temporary pruning, judged on other images than those scored on",
        {
            "activation": "of the network: relu or tanh",
            "hidden": "units in fc1: 64, or 256 for some of the seeds",
            **STEP,
            "layer": "whose units are pruned",
            "scorer": "that chose them",
            "fraction": "of the layer's units, from 0 to 1",
            "constant": "what replaces a unit: mean of h (before), of a (behind the nonlinearity), ...",
            **PENALTY,
        },
        partial(_rows, "units", "penalties"),
    ),
    "04-2-unit-pruning": Table(
        "measurement",
        {**STEP, "pruned": "share of all parameters, from 0 to 1", **LOSSES},
        partial(_rows, "unit_pruning", "training"),
    ),
}


def make(chapter: str, runs: Sequence[Run]) -> pd.DataFrame:
    """The table of a chapter from its runs: its columns in their order, rows sorted by them."""
    names = list(TABLES[chapter].columns)
    rows = TABLES[chapter].make(runs)[names]
    keys = [name for name in names if name not in LOSSES and rows[name].dtype.kind != "f"]
    return rows.sort_values([*keys, *(["size"] if "size" in names else [])], kind="stable", ignore_index=True)


def save(chapter: str, runs: Sequence[Run], folder: Path) -> Path:
    """`make` it, as parquet; measurements as float32, settings as they are."""
    rows = make(chapter, runs)
    settings = ("fraction", "size", "epoch", "multiplier")
    floats = {name: "float32" for name in rows if rows[name].dtype.kind == "f" and name not in settings}
    folder.mkdir(exist_ok=True)
    draft = folder / f".{chapter}"
    write(rows.astype(floats), draft)
    return draft.replace(folder / f"{chapter}.parquet")


def describe() -> str:
    """All tables and their columns, in Markdown."""
    parts = []
    for shown in dict.fromkeys(TABLES.values()):
        files = ", ".join(f"`{chapter}.parquet`" for chapter, made in TABLES.items() if made is shown)
        lines = [f"| `{name}` | {meaning} |" for name, meaning in shown.columns.items()]
        parts.append(f"**{files}**: a row is a {shown.row}.")
        parts.append("\n".join(["| column | meaning |", "| --- | --- |", *lines]))
    return "\n\n".join(parts)
