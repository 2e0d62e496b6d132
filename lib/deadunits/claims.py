"""The thesis's claims, the criteria that decide them, and verdicts computed from result tables.

A criterion is a small function of one run: it returns the `Evidence` of one seed on one set of images
(`probe`, on which the weights were scored, or `other`), or None where there is nothing to judge. They were
fixed before anything was measured; whoever disagrees changes one here and builds the book again.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deadunits.runs import Run

ENOUGH = 0.8  # share of the seeds in which a criterion is to hold
FULL = 5  # seeds; with fewer a verdict is provisional


@dataclass(frozen=True)
class Evidence:
    """What one seed says: the numbers, whether the criterion holds, whether the direction does."""

    values: Mapping[str, float]
    holds: bool
    directs: bool


@dataclass(frozen=True)
class Claim:
    """A claim of the thesis and what decides it."""

    id: str
    text: str
    where: str
    criterion: str
    direction: str
    evidence: Callable[[Run, str], Evidence | None]
    setting: Mapping[str, Any]  # the claim is judged in this setting only
    activation: str


@dataclass(frozen=True, repr=False)
class Verdict:
    """The word on a claim, and what it rests on."""

    claim: Claim
    word: str  # reproduced, partly, not reproduced, not testable or not judged
    note: str
    evidence: Sequence[Evidence]
    other: Verdict | None = field(default=None)  # the same criterion, evaluated on other images

    def __str__(self) -> str:
        return f"{self.word} ({self.note})"

    def __repr__(self) -> str:
        return f"{self.claim.id}: {self}. {self.measured()}"

    def measured(self) -> str:
        """Each number as its mean over the seeds, with the lowest and the highest, and how often it holds."""
        if not self.evidence:
            return "no measurement that the criterion could be evaluated on"
        parts = []
        for name in self.evidence[0].values:
            values = [one.values[name] for one in self.evidence]
            spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
            parts.append(f"{name}: {sum(values) / len(values):.3g}{spread}")
        held = sum(one.holds for one in self.evidence)
        return f"{'; '.join(parts)}. The criterion holds in {held} of {_seeds(len(self.evidence))}"

    def _repr_html_(self) -> str:
        claim, css = self.claim, self.word.replace(" ", "-")
        rows = {
            "Criterion": claim.criterion,
            "Measured": self.measured(),
        }
        if self.other:
            rows["On other images"] = self.other.measured()
            if self.other.word != self.word:
                rows["On other images"] += f"; the verdict there would be: {self.other.word}"
        if self.word == "partly":
            rows["Partly"] = f"the direction holds: {claim.direction}"
        if self.word == "not judged":
            rows["Why not judged"] = "the criterion speaks of " + _words(claim.setting)
        items = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items())
        return (
            f'<div class="verdict verdict-{css}"><p class="verdict-head">'
            f'<span class="verdict-id">{claim.id}</span> <span class="verdict-word">{self.word}</span> '
            f'<span class="verdict-note">{html.escape(self.note)}</span></p>'
            f'<p class="verdict-claim">{html.escape(claim.text)} '
            f'<span class="verdict-where">(thesis, {html.escape(claim.where)})</span></p>'
            f"<dl>{items}</dl></div>"
        )


def verdict(claim_id: str, runs: Sequence[Run]) -> Verdict:
    """Judge a claim by runs of its experiment, one a seed; those of another activation are left out."""
    claim = CLAIMS[claim_id]
    chosen = [run for run in runs if run.info["settings"]["activation"] == claim.activation]
    settings = [run.info["settings"] for run in chosen]
    own = all(one[name] == value for one in settings for name, value in claim.setting.items())
    datasets = sorted({one["dataset"] for one in settings})
    on_probe, on_other = ([claim.evidence(run, name) for run in chosen] for name in ("probe", "other"))
    return judge(claim, on_probe, own, datasets, judge(claim, on_other, own, datasets))


def judge(
    claim: Claim,
    evidence: Sequence[Evidence | None],
    own_setting: bool,
    datasets: Sequence[str],
    other: Verdict | None = None,
) -> Verdict:
    """The rules. Reproduced: the criterion holds in at least 80% of the seeds; partly: the direction does."""
    eligible = [one for one in evidence if one is not None]
    seeds = _seeds(len(evidence))
    if not own_setting:
        return Verdict(claim, "not judged", f"{', '.join(datasets)}, {seeds}", eligible, other)
    note = seeds if len(evidence) >= FULL else f"provisional, {seeds}"
    if not eligible:
        word = "not testable"
    elif sum(one.holds for one in eligible) >= ENOUGH * len(eligible):
        word = "reproduced"
    elif sum(one.directs for one in eligible) >= ENOUGH * len(eligible):
        word = "partly"
    else:
        word = "not reproduced"
    return Verdict(claim, word, note, eligible, other)


def negative_share(run: Run, on: str) -> Evidence | None:
    """C2.1: the share of weights of conv1 whose exact loss change is negative, over training."""
    scores = run.table("scores")
    column = {"probe": "loss_change", "other": "loss_change_other"}[on]
    share = (scores[column] < 0).groupby(scores["step"]).mean()
    late, last = share[share.index > 500], share.index.max()
    if late.empty:
        return None
    second = share[(share.index > last / 4) & (share.index <= last / 2)].mean()
    fourth = share[share.index > last * 3 / 4].mean()
    mean, drift = float(late.mean()), float(fourth - second)
    return Evidence(
        values={"mean share": mean, "last quarter minus second": drift},
        holds=0.25 <= mean <= 0.45 and abs(drift) < 0.10,
        directs=mean > 0.15,
    )


def two_lowest(run: Run, on: str) -> Evidence | None:
    """C2.2: the penalty of removing the hundredth of conv1 (2 weights) of lowest loss change."""
    rows = run.table("penalties")
    chosen = (rows["scorer"] == "loss_change") & (rows["fraction"] == 0.01) & (rows["set"] == on)
    penalty = rows.loc[chosen, "penalty"]
    if penalty.empty:
        return None
    below = float((penalty < 0).mean())
    return Evidence(
        values={"share below 0": below, "mean penalty in nats": float(penalty.mean())},
        holds=below >= 0.9,
        directs=bool(penalty.mean() < 0),
    )


def _seeds(number: int) -> str:
    return f"{number} seed{'s' if number != 1 else ''}"


def _words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in setting.items())


_CHAPTER_2 = {
    "dataset": "mnist",
    "epochs": 5,
    "lr": 0.01,
    "batch_size": 32,
    "measure_every": 50,
    "probe_size": 1000,
}

CLAIMS = {
    claim.id: claim
    for claim in (
        Claim(
            id="C2.1",
            text="About 35% of the weights of conv1 have a negative exact loss change, all through training.",
            where="2.1.1, Fig. 2.1",
            criterion="the mean share after step 500 is 0.25 to 0.45, and its means in the second and in the "
            "last quarter of training differ by less than 0.10",
            direction="mean share above 0.15",
            evidence=negative_share,
            setting=_CHAPTER_2,
            activation="relu",
        ),
        Claim(
            id="C2.2",
            text="With tanh, removing the 2 weights of conv1 with the lowest loss change lowers the loss, "
            "all through training.",
            where="2.1.2, Fig. 2.2a",
            criterion="the penalty is below 0 in at least 90% of the measurements",
            direction="mean penalty below 0",
            evidence=two_lowest,
            setting=_CHAPTER_2,
            activation="tanh",
        ),
    )
}
