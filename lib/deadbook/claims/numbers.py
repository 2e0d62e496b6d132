"""The thesis's numbers beside ours: a second field beside the verdict, which stays as computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deadbook.analysis.measures import t_interval
from deadbook.claims.evidence import ROUNDING, Evidence

#: By kind of number: the lowest and the highest that are as in the thesis.
BANDS: dict[str, Callable[..., tuple[float, float]]] = {
    **dict.fromkeys(("share", "ratio", "steps"), lambda n: (0.8 * n, 1.2 * n)),
    "up to": lambda n: (n / 1.5, 1.5 * n),
    "range": lambda low, high: (0.9 * low, 1.1 * high),
    "count": lambda n: (n - 1, n + 1),
    "points": lambda n: (n - 0.3, n + 0.3),
    "loss": lambda n: (n - 0.01, n + 0.01),
    "exact": lambda n: (n, n),
}
GEOMETRIC = ("ratio", "up to")  # their mean over seeds
WORST = ("differs", "open", "met")


@dataclass(frozen=True)
class Compared:
    """A number: the thesis's, ours as a mean over the seeds, its 95% t interval; met, differs or open."""

    name: str
    thesis: float | list[float]
    ours: float
    low: float
    high: float
    outcome: str


def compare(name: str, thesis: float | list[float], kind: str, values: Sequence[float]) -> Compared:
    """A number of the thesis beside those of the seeds; open where the interval is not known."""
    seeds = np.array(values, float)
    with np.errstate(all="ignore"):
        scaled = np.log(seeds) if kind in GEOMETRIC else seeds
        ours, low, high = float(scaled.mean()), *t_interval(scaled)
        if kind in GEOMETRIC:
            ours, low, high = (float(np.exp(value)) for value in (ours, low, high))
    floor, ceiling = BANDS[kind](*(thesis if isinstance(thesis, list) else [thesis]))
    met = floor - ROUNDING <= ours <= ceiling + ROUNDING
    differs = not met and (high < floor or low > ceiling)
    return Compared(name, thesis, ours, low, high, "met" if met else "differs" if differs else "open")


def compared(claim: object, evidence: Sequence[Evidence]) -> list[Compared]:
    """The numbers of a claim (`catalogue.Claim`) beside those of its seeds."""
    found = []
    for name, number in claim.numbers.items():
        every = [seed.values | seed.also for seed in evidence]
        values = [seed[number.of] for seed in every if number.of in seed]
        if values:
            found.append(compare(number.of, claim.thesis[name], number.kind, values))
    return found


def worst(numbers: Sequence[Compared]) -> str:
    """Of several numbers the worst outcome; "": there are none."""
    return next((it for it in WORST if it in {number.outcome for number in numbers}), "")
