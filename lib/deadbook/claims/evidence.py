"""What the criteria of all chapters share: evidence, and which runs they look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pandas as pd

from deadbook.runs import Run

Case = Sequence[Run]  # the runs of one seed; of all seeds where a claim is pooled
Limits = SimpleNamespace  # a claim's thresholds by name, and `thesis`: the thesis's numbers
ROUNDING = 1e-9  # three images of a thousand are 0.3 points, whatever floats make of it


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


def penalties(
    case: Case, on: str, scorer: str, fraction: float, activation: str | None = None
) -> pd.DataFrame:
    """Rows of the table `penalties` of the first run (with that activation), judged on a set; or no rows."""
    runs = [run for run in case if activation is None or run.info["settings"]["activation"] == activation]
    rows = runs[0].table("penalties") if runs else case[0].table("penalties")[:0]
    return rows[(rows["scorer"] == scorer) & (rows["fraction"] == fraction) & (rows["set"] == on)]


def pruned_by(case: Case, experiment: str, by: str = "layer") -> Run | None:
    """The first run of an experiment that was pruned so; by "": its twin, which was not."""
    return next((run for run in case if run.info["experiment"] == experiment and run.by == by), None)


def of_activation(case: Case, *activations: str) -> list[Run] | None:
    """The first run with each activation; None if one is missing."""
    runs = {run.info["settings"]["activation"]: run for run in reversed(case)}
    return [runs[name] for name in activations] if set(activations) <= runs.keys() else None


def over(penalty: float, other: float) -> float:
    """The ratio of two penalties: infinite where only the other is no loss, undefined where neither is."""
    if other > 0:
        return float(penalty / other)
    return math.inf if penalty > 0 else math.nan
