"""What the criteria of all chapters share: evidence, and which runs they look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd

from deadbook.analysis.measures import rows
from deadbook.runs import Run

Case = Sequence[Run]  # the runs of one seed; of all seeds where a claim is pooled
Limits = SimpleNamespace  # a claim's thresholds by name, and `thesis`: the thesis's numbers
ROUNDING = 1e-9  # three images of a thousand are 0.3 points, whatever floats make of it


class Lacking(Exception):
    """Nothing can be judged: a run, a layer, a unit or a measurement is not there."""


@dataclass(frozen=True)
class Evidence:
    """What the runs of one seed give: numbers, whether the criterion holds, whether the direction does."""

    values: Mapping[str, float]
    holds: bool
    direction_holds: bool
    also: Mapping[str, float] = field(default_factory=dict)  # further numbers, for the ledger

    @property
    def measured(self) -> bool:
        """Whether all numbers are there: one that diverged leaves nan, which cannot be judged."""
        return not any(math.isnan(value) for value in self.values.values())


def need(*conditions: object) -> None:
    """Go on only if all of these are true, or not empty.

    Raises:
        Lacking: one is not.
    """
    if not all(len(it) if hasattr(it, "__len__") else it for it in conditions):
        raise Lacking


def known(*numbers: float) -> bool:
    """Whether none of the numbers is nan."""
    return not np.isnan(numbers).any()


def pruned_by(case: Case, experiment: str, by: str = "layer") -> Run:
    """The first run of an experiment that was pruned so; by "": its twin, which was not.

    Raises:
        Lacking: there is none.
    """
    runs = [run for run in case if run.info["experiment"] == experiment and run.by == by]
    need(runs)
    return runs[0]


def of_seeds(case: Case) -> list[Case]:
    """The runs of each seed."""
    seeds = sorted({run.info["settings"]["seed"] for run in case})
    return [[run for run in case if run.info["settings"]["seed"] == seed] for seed in seeds]


def compacted(run: Run, table: str, column: str) -> float:
    """A number of the smaller network, in which units were pruned."""
    return float(run.table(table).set_index("network")[column]["compacted"])


def jumps_beside(
    pruned: Run, twin: Run, on: str, percentile: int, gap: float, **wanted: str
) -> tuple[pd.Series, float, dict[str, float]]:
    """The jump of the loss at each fraction, the percentile of the twin's changes, and both as values."""
    prunings = rows(pruned, "pruned", set=on, **wanted).set_index("fraction")
    jump = (prunings["after"] - prunings["before"]).sort_index()
    usual = float(twin.table("training")[on].diff().dropna().quantile(percentile / 100))
    values = {f"jump at {fraction:g}": float(value) for fraction, value in jump.items()}
    values |= {f"{percentile}th percentile of the twin's changes": usual}
    return jump, usual, values | {"final training loss minus the twin's": gap}


def of_activation(case: Case, *activations: str) -> list[Run] | None:
    """The first run with each activation; None if one is missing."""
    runs = {run.info["settings"]["activation"]: run for run in reversed(case)}
    return [runs[name] for name in activations] if set(activations) <= runs.keys() else None


def over(penalty: float, other: float) -> float:
    """The ratio of two penalties: infinite where only the other is no loss, undefined where neither is."""
    if other > 0:
        return float(penalty / other)
    return math.inf if penalty > 0 else math.nan
