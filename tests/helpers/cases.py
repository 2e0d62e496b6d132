"""Made-up runs of a claim at four levels: the criterion holds, its direction does, neither, or runs lack."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deadbook.analysis.trials import TWIN
from deadbook.claims import CLAIMS
from deadbook.claims.attacks import NETWORKS
from toys import BOTH, DIRECTION, NEITHER, FakeRun, decide, outcome

LEVELS = {"holds": BOTH, "direction": DIRECTION, "neither": NEITHER, "lacking": None}


class Cases(dict[str, Callable[[str], list[FakeRun]]]):
    """By claim: what builds the runs of a level."""

    def add(self, *names: str) -> Callable:
        """Registers the builder of some claims' runs."""
        return lambda function: self.update(dict.fromkeys(names, function)) or function

    def check(self, claim_id: str, level: str, on: str) -> None:
        """The criterion finds in these runs what the level says."""
        assert self.compare(claim_id, self[claim_id](level), on) == LEVELS[level]

    @staticmethod
    def compare(claim_id: str, runs: list[FakeRun], on: str) -> tuple[bool, bool] | None:
        """What the criterion finds; all numbers that are compared with the thesis's are there."""
        evidence = decide(claim_id, runs, on)
        if evidence is None:
            return None
        numbers = {number.of for number in CLAIMS[claim_id].numbers.values()}
        assert evidence.measured
        assert numbers <= (evidence.values | evidence.also).keys()
        return outcome(evidence)


def of(level: str, *values: Any) -> Any:
    """The value of a level; where something is lacking the first."""
    return dict(zip(LEVELS, (*values, values[0]), strict=False))[level]


def run(experiment: str, tables: dict[str, pd.DataFrame], by: str = "", **settings: Any) -> FakeRun:
    info = {"experiment": experiment, "settings": {"activation": "relu", "seed": 0} | settings}
    return FakeRun(tables, info, by)


def trial(
    network: str = "plain ReLU",
    at: dict[str, Any] | None = None,
    steps: Sequence[int] = (6000, 9000),
    *,
    sizes: dict[str, int] | None = None,
    on: Sequence[str] = ("probe",),
    other_mrp: float = 1.0,
    seed: int = 0,
    final: dict[str, float] | None = None,
    **columns: Any,
) -> FakeRun:
    """A run (without `at` a twin) whose attacked unit has these columns (or one a step); others have 1."""
    settings = {**TWIN, "watch": [["conv1", 0]], "seed": seed} | NETWORKS[network]
    settings |= {"repeats": 10 if at else 0} | (at or {})
    names, rows = ("mrp", "mrs", "gradient", "norm_in", "norm_out"), []
    for step, (layer, size) in itertools.product(steps, (sizes or {"conv1": 8, "conv2": 16}).items()):
        units = pd.DataFrame(1.0, range(size), names).assign(mrp=other_mrp, weight_gradient=1.0)
        if layer == (settings["layer"] or "conv1"):
            for name, values in columns.items():
                value = values if np.ndim(values) == 0 else values[list(steps).index(step)]
                units.loc[settings["unit"], name] = value
        about = {"step": step, "epoch": 10 * step / max(steps), "layer": layer, "unit": range(size)}
        rows.append(units.assign(**about))
    tables = {"units": pd.concat([row.assign(set=it, seed=seed) for row in rows for it in on])}
    ends = {"diverged": 0, "accuracy": 0.6, "train_loss": 0.1, "images": "toys"} | (final or {})
    return run("attacks", tables | {"final": pd.DataFrame([ends])}, **settings)


def twins() -> list[FakeRun]:
    return [trial(network) for network in NETWORKS]
