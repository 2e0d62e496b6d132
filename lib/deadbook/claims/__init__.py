"""Verdicts on the thesis's claims, computed from result tables by the criteria."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deadbook.analysis import trials
from deadbook.analysis.measures import in_seeds, steady
from deadbook.claims.catalogue import CLAIMS, Allowed, Claim
from deadbook.claims.evidence import Evidence
from deadbook.runs import Run

ENOUGH = 0.8  # share of the seeds in which a criterion must hold
FULL = 5  # seeds; with fewer a verdict is provisional


@dataclass(frozen=True, repr=False)
class Verdict:
    """The word on a claim, and what it rests on."""

    claim: Claim
    word: str  # reproduced, partly, not reproduced, not testable or not judged
    note: str
    evidence: Sequence[Evidence]
    other: Verdict | None = field(default=None)  # the same criterion, evaluated on other images
    differs: Mapping[str, Allowed] = field(default_factory=dict)  # what the claim speaks of, the runs do not

    def __str__(self) -> str:
        return f"{self.word} ({self.note})"

    def __repr__(self) -> str:
        return f"{self.claim.id}: {self}. {'; '.join(self.measured())}"

    def measured(self) -> list[str]:
        """Each number as its mean over the seeds, with the lowest and the highest, and how often it holds."""
        if not self.evidence:
            return ["no measurement that the criterion could be evaluated on"]
        parts = []
        most_first = sorted(self.evidence, key=lambda seed: -len(seed.values))  # so names stay in order
        for name in dict.fromkeys(name for seed in most_first for name in seed.values):
            values = [seed.values[name] for seed in self.evidence if name in seed.values]
            spread = f" ({_number(min(values))} to {_number(max(values))})" if len(values) > 1 else ""
            parts.append(f"{name}: {_number(sum(values) / len(values))}{spread}")
        held = sum(seed.holds for seed in self.evidence)
        if self.claim.pooled:
            return [*parts, f"All seeds together: the criterion {'holds' if held else 'does not hold'}"]
        return [*parts, f"The criterion holds in {held} of {in_seeds(len(self.evidence))}"]

    def _repr_html_(self) -> str:
        claim, css = self.claim, self.word.replace(" ", "-")
        rows = {"Criterion": [claim.filled(claim.criterion)], "Measured": self.measured()}
        if self.other and self.other.evidence:
            rows["On other images"] = self.other.measured()
            if self.other.word != self.word:
                rows["On other images"].append(f"The verdict there would be: {self.other.word}")
        if self.word == "partly":
            rows["Partly"] = [f"the direction holds: {claim.filled(claim.direction)}"]
        if self.word == "not judged":
            rows["Why not judged"] = ["the criterion speaks of " + _words(self.differs)]
        items = "".join(
            f"<dt>{name}</dt><dd>{'<br>'.join(map(html.escape, lines))}</dd>" for name, lines in rows.items()
        )
        return (
            f'<div class="verdict verdict-{css}"><p class="verdict-head">'
            f'<span class="verdict-id">{claim.id}</span> <span class="verdict-word">{self.word}</span> '
            f'<span class="verdict-note">{html.escape(self.note)}</span></p>'
            f'<p class="verdict-claim">{html.escape(claim.filled(claim.words))} '
            f'<span class="verdict-where">(thesis, {html.escape(claim.place)})</span></p>'
            f"<dl>{items}</dl></div>"
        )


def verdict(claim_id: str, runs: Sequence[Run]) -> Verdict:
    """Judge a claim by runs, several a seed where it compares them.

    Those of other experiments and networks are left out, and attacks that came after the claims were fixed
    (`trials.late`); of other widths if there are some of its own.
    """
    claim = CLAIMS[claim_id]
    setting = claim.setting
    known = [run for run in runs if run.info["experiment"] in setting and not trials.late(run)]
    chosen = [run for run in known if not {"activation", "batch_norm"} & _differing(run, setting).keys()]
    chosen = [run for run in chosen if "widths" not in _differing(run, setting)] or chosen
    differs: dict[str, Allowed] = {}
    for run in chosen or known:
        differs |= _differing(run, setting)
    settings = [run.info["settings"] for run in chosen or known]
    datasets = sorted({Path(values["dataset"]).name for values in settings})
    seeds = sorted({values["seed"] for values in settings})
    cases = [[run for run in chosen if run.info["settings"]["seed"] == seed] for seed in seeds]
    cases = [chosen] if claim.pooled else cases
    scored, other = (
        [claim.evidence(case, name) if case else None for case in cases]
        for name in (claim.scored_on, "other")
    )
    number, few = len(seeds) if claim.pooled else 0, fewest(chosen)
    on_other = judge(claim, other, differs, datasets, number=number, few=few)
    return judge(claim, scored, differs, datasets, on_other, number, few)


def _differing(run: Run, setting: Mapping[str, Mapping[str, Allowed]]) -> dict[str, Allowed]:
    """What a claim has otherwise than a run; named with the experiment where the claim's differ in it."""
    experiment, chosen = run.info["experiment"], run.info["settings"]
    shared = {name for name in setting[experiment] if len({str(s.get(name)) for s in setting.values()}) == 1}
    return {
        name if name in shared else f"{experiment}: {name}": allowed
        for name, allowed in setting[experiment].items()
        if name in chosen and chosen[name] not in allowed
    }


def fewest(runs: Sequence[Run]) -> tuple[int, str]:
    """Of the networks that a claim compares, the one with the fewest seeds: how many, and its name."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        setting = run.info["settings"]
        name = "batch normalisation" if setting.get("batch_norm") else setting["activation"]
        seeds.setdefault(name, set()).add(setting["seed"])
    return min(((len(of), name) for name, of in seeds.items()), default=(0, ""))


def judge(
    claim: Claim,
    evidence: Sequence[Evidence | None],
    differs: Mapping[str, Allowed],
    datasets: Sequence[str],
    other: Verdict | None = None,
    number: int = 0,
    few: tuple[int, str] = (FULL, ""),
) -> Verdict:
    """The rules. Reproduced: the criterion holds in at least 80% of the seeds; partly: the direction does.

    A seed with a measure that is nan, as after a training that diverged, is left out.

    Args:
        number: that of the seeds, where they are pooled in one evidence.
        few: `fewest`; a verdict is provisional if one of the networks that it rests on has few seeds.
    """
    eligible = [seed for seed in evidence if seed is not None and seed.measured]
    number = number or len(eligible) or len(evidence)
    seeds = in_seeds(number)
    if differs:
        return Verdict(claim, "not judged", f"{', '.join(datasets)}, {seeds}", eligible, other, differs)
    note = seeds if min(number, few[0]) >= FULL else f"provisional, {seeds}"
    if few[0] < number:
        note += f", {few[0]} of {few[1]}"
    if not eligible:
        word = "not testable"
    elif sum(seed.holds for seed in eligible) >= ENOUGH * len(eligible):
        word = "reproduced"
    elif sum(seed.directs for seed in eligible) >= ENOUGH * len(eligible):
        word = "partly"
    else:
        word = "not reproduced"
    return Verdict(claim, word, note, eligible, other)


def _number(value: float) -> str:
    value = steady(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _words(setting: Mapping[str, Allowed]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {' or '.join(map(str, of))}" for name, of in setting.items())
