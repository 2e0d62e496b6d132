"""Verdicts on the thesis's claims, computed from result tables by the criteria."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from deadbook.analysis import trials
from deadbook.analysis.measures import CONFIRMATION, in_seeds, steady
from deadbook.claims.catalogue import CLAIMS, Allowed, Claim
from deadbook.claims.evidence import Case, Evidence
from deadbook.claims.numbers import Compared, compared, worst
from deadbook.runs import Run

ENOUGH = 0.8  # share of the seeds in which a criterion must hold
FULL = 5  # seeds; with fewer a verdict is provisional


@dataclass(frozen=True, repr=False)
class Verdict:
    """What the runs say of a claim, and what that rests on."""

    claim: Claim
    outcome: str  # reproduced, partly, not reproduced, not testable, not judged or not run yet
    note: str
    evidence: Sequence[Evidence]
    other: Verdict | None = field(default=None)  # the same criterion, evaluated on other images
    differs: Mapping[str, Allowed] = field(default_factory=dict)  # what the claim speaks of, the runs do not
    exploration: Verdict | None = field(default=None)  # of other seeds than CONFIRMATION, where those decide

    @property
    def numbers(self) -> list[Compared]:
        """The thesis's numbers beside ours: on the seeds of the confirmation, in the claim's own setting."""
        return [] if self.exploration is None or self.differs else compared(self.claim, self.evidence)

    @property
    def held(self) -> float:
        """The share of the seeds in which the criterion holds; of pooled seeds 0 or 1."""
        return sum(seed.holds for seed in self.evidence) / len(self.evidence)

    @property
    def means(self) -> dict[str, float]:
        """The mean over the seeds of each number that the criterion measures; else of the exploration."""
        values: dict[str, list[float]] = {}
        for seed in self.evidence or (self.exploration.evidence if self.exploration else ()):
            for name, value in seed.values.items():
                values.setdefault(name, []).append(value)
        return {name: sum(of) / len(of) for name, of in values.items()}

    def __str__(self) -> str:
        differs = self.outcome == "reproduced" and worst(self.numbers) == "differs"
        return f"{self.outcome}{', number differs' * differs} ({self.note})"

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

    def _line(self) -> str:
        """The thesis's numbers and ours; without one of the thesis, the first that the criterion measures."""
        beside = [] if self.differs else compared(self.claim, self.evidence)
        if beside:
            thesis = " / ".join(_stated(number.thesis) for number in beside)
            ours = " / ".join(_number(number.ours) for number in beside)
            return f"{beside[0].name + ': ' if len(beside) == 1 else ''}thesis {thesis}, here {ours}"
        name, _, ours = self.measured()[0].partition(": ")
        return f"{name}: here {ours}" if self.evidence else ""

    def _repr_html_(self) -> str:
        """One line, a heading, as a section of the page holds it; and what unfolds beside it."""
        claim, css = self.claim, self.outcome.replace(" ", "-")
        shown = str(self).partition(" (")[0]
        words, criterion = claim.filled(claim.words), claim.filled(claim.criterion)
        rows = {"Claim": [f"{words} (thesis, {claim.place})"], "Criterion": [criterion]}
        if self.outcome != "not run yet":
            rows["Measured"] = self.measured()
        if self.other and self.other.evidence:
            rows["On other images"] = self.other.measured()
            if self.other.outcome != self.outcome:
                rows["On other images"].append(f"The verdict there would be: {self.other.outcome}")
        if self.outcome == "partly":
            rows["Partly"] = [f"the direction holds: {claim.filled(claim.direction)}"]
        if self.outcome == "not judged":
            rows["Why not judged"] = ["the criterion speaks of " + _words(self.differs)]
        if self.exploration:
            elsewhere = compared(claim, self.other.evidence if self.other else ())
            lines = [_beside(number, "") for number in self.numbers]
            lines += [_beside(number, ", other images") for number in elsewhere]
            rows |= {"The thesis's number": lines} if lines else {}
            if self.exploration.evidence:
                rows["Exploration"] = [str(self.exploration), *self.exploration.measured()]
        texts = {name: "<br>".join(map(html.escape, lines)) for name, lines in rows.items()}
        items = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in texts.items())
        note = "; ".join(filter(None, [self._line(), self.note]))
        return (
            f'<div class="verdict verdict-{css}"><h3 class="verdict-head">'
            f'<span class="verdict-id">{claim.id}</span> <span class="verdict-word">{shown}</span> '
            f'<span class="verdict-note">{html.escape(note)}</span></h3>'
            f"<details><summary>Details<span> of {claim.id}</span></summary><dl>{items}</dl></details></div>"
        )


def verdict(claim_id: str, runs: Sequence[Run]) -> Verdict:
    """Judge a claim by runs, several a seed where it compares them.

    Those of other experiments and networks are left out, and attacks that came after the claims were fixed
    (`trials.late`); of other widths if there are some of its own. The seeds of CONFIRMATION decide, and the
    others stand beside them as exploration; where there are only others, they decide the claims of the first
    list.
    """
    claim = CLAIMS[claim_id]
    known = [run for run in runs if run.info["experiment"] in claim.runs and not trials.late(run)]
    fresh, seen = [], []
    for run in known:
        (fresh if run.info["settings"]["seed"] in CONFIRMATION else seen).append(run)
    exploration = _judged(claim, seen)
    if fresh:
        return replace(_judged(claim, fresh), exploration=exploration)
    if claim.listed == "first" or exploration.outcome == "not judged":
        return exploration
    return Verdict(claim, "not run yet", "seeds 5 to 9", [], exploration=exploration)


def _judged(claim: Claim, known: Sequence[Run]) -> Verdict:
    """The verdict of these runs, all of the claim's experiments."""
    setting = claim.setting
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

    def evidence(case: Case, on: str) -> Evidence | None:
        wrong = (LookupError, ValueError, AttributeError) if differs else ()  # such tables may lack anything
        with suppress(*wrong):
            return claim.evidence(case, on) if case else None

    scored, other = ([evidence(case, name) for case in cases] for name in (claim.scored_on, "other"))
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
        outcome = "not testable"
    elif sum(seed.holds for seed in eligible) >= ENOUGH * len(eligible):
        outcome = "reproduced"
    elif sum(seed.direction_holds for seed in eligible) >= ENOUGH * len(eligible):
        outcome = "partly"
    else:
        outcome = "not reproduced"
    return Verdict(claim, outcome, note, eligible, other)


def _number(value: float) -> str:
    value = steady(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _stated(thesis: float | list[float]) -> str:
    """A number of the thesis, or a range."""
    return " to ".join(map(_number, thesis if isinstance(thesis, list) else [thesis]))


def _beside(number: Compared, where: str) -> str:
    """A number of the thesis beside ours, in words."""
    spread = f"95%: {_number(number.low)} to {_number(number.high)}"
    interval = spread if number.low == number.low else "one seed"
    ours = f"{_number(number.ours)} here ({interval})"
    return f"{number.name}{where}: {_stated(number.thesis)} in the thesis, {ours}: number {number.outcome}"


def _words(setting: Mapping[str, Allowed]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {' or '.join(map(str, of))}" for name, of in setting.items())
