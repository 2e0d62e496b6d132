"""The claims of `claims.yaml`, checked when it is read, and the settings in which they are judged."""

from __future__ import annotations

import inspect
import re
import string
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from deadbook import settings
from deadbook.claims import attacks, questions, units, weights
from deadbook.claims.evidence import Case, Evidence, Lacking, Limits
from deadbook.claims.numbers import BANDS
from deadunits import Invalid

FILE = Path(__file__).with_name("claims.yaml")
NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
NAMED = {0.1: "tenth", 0.25: "quarter", 0.5: "half", 1: "one", 2: "two", 3: "three", 4: "four"}
CHAPTERS = {"weights": weights, "attacks": attacks, "units": units, "questions": questions}

Number = int | float
Allowed = tuple[Any, ...]  # the values that a setting may have


class Filled(string.Formatter):
    """`str.format`, which also knows "words" (half, one), "times" (twice) and "count" (of a list)."""

    def format_field(self, value: Any, spec: str) -> str:
        """Called by `format`."""
        if spec == "words":
            return NAMED.get(value, f"{value:g}")
        if spec == "times":
            return "twice" if value == 2 else f"{value:g} times"
        return str(len(value)) if spec == "count" else super().format_field(value, spec)


class Strict(BaseModel):
    """No unknown field, none missing, and no type taken for another."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Judged(Strict):
    """The settings in which a run of an experiment must be as its chapter's thesis profile has them."""

    same: list[str]
    also: dict[str, Any] = {}  # a value of a setting that is judged too


class Compared(Strict):
    """A number of the thesis that is compared with ours: `of` is a value of the evidence."""

    of: str
    kind: Literal[tuple(BANDS)]


class Claim(Strict):
    """A claim of the thesis and what decides it; `claims.yaml` says what each field means."""

    id: str
    words: str
    place: str
    criterion: str
    direction: str
    decided_by: str
    runs: dict[str, list[str]]
    thesis: dict[str, Number | list[Number]] = {}
    numbers: dict[str, Compared] = {}
    thresholds: dict[str, Number | list[Number]] = {}
    activations: list[str] = []
    scored_on: Literal["probe", "train_probe"] = "probe"
    pooled: bool = False
    named: dict[str, str] = {}
    figure: str = ""
    listed: Literal["first", "second", "open"] = "first"

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        """Thresholds are those that the criterion reads, and sentences name nothing else."""
        if not inspect.isfunction(self.function):
            raise ValueError("decided_by must be weights.<function>, or one of attacks, units or questions")
        reads = set(re.findall(r"\blimits\.(\w+)", inspect.getsource(self.function))) - {"thesis"}
        if reads != self.thresholds.keys():
            raise ValueError(f"thresholds must be {', '.join(sorted(reads)) or 'none'}")
        if not self.numbers.keys() <= self.thesis.keys():
            raise ValueError(f"numbers must be among {', '.join(self.thesis)}")
        for template in (self.words, self.criterion, self.direction):
            try:
                self.filled(template)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                known = ", ".join([*self.thresholds, *self.thesis])
                raise ValueError(f"{error!r} in {template!r}: names in braces must be {known}") from error
        return self

    @property
    def function(self) -> Callable[[Case, str, Limits], Evidence | None] | None:
        """The criterion."""
        file, _, name = self.decided_by.partition(".")
        return getattr(CHAPTERS.get(file), name, None)

    @property
    def setting(self) -> dict[str, dict[str, Allowed]]:
        """By experiment: the values that each setting must have, from the thesis profile of its chapters."""
        return {experiment: self._allowed(experiment) for experiment in self.runs}

    def filled(self, template: str) -> str:
        """A sentence with its numbers."""
        return Filled().vformat(template, (), self.thesis | self.thresholds)

    def evidence(self, case: Case, on: str) -> Evidence | None:
        """What its criterion finds in the runs of one seed (or of all, if pooled), on a set of images."""
        with suppress(Lacking):
            return self.function(case, on, Limits(**self.thresholds, thesis=self.thesis))

    def _allowed(self, experiment: str) -> dict[str, Allowed]:
        chapters = [thesis_profile(chapter) for chapter in self.runs[experiment]]
        judged, allowed = SETTINGS[experiment], {}
        for name in judged.same:
            if name == "activation":
                every = [value for chosen in chapters for value in chosen["activations"]]
                values = [value for value in every if value in (self.activations or every)]
            else:
                values = [chosen[self.named.get(name, name)] for chosen in chapters]
            values += [judged.also[name]] if name in judged.also else []
            allowed[name] = tuple(value for i, value in enumerate(values) if value not in values[:i])
        return allowed


class Catalogue(Strict):
    """All of `claims.yaml`."""

    fixed: dict[Literal["commit", "date"], str]
    settings: dict[str, Judged]
    claims: list[Claim]

    @model_validator(mode="after")
    def _unique(self) -> Catalogue:
        names = [claim.id for claim in self.claims]
        twice = {name for name in names if names.count(name) > 1}
        unknown = {name for claim in self.claims for name in claim.runs} - self.settings.keys()
        if twice or unknown:
            wrong = sorted(twice | unknown)
            raise ValueError(f"ids must differ, and `settings` have each experiment: {wrong}")
        return self


@cache
def thesis_profile(chapter: str) -> dict[str, Any]:
    """The parameters of a chapter in the thesis profile; `activations` also where it has a single one."""
    profile = yaml.safe_load((NOTEBOOKS / f"profiles/thesis/{chapter}.yaml").read_text("utf8"))
    chosen = settings.check(settings.chapter(chapter), profile).model_dump()
    return {"activations": [chosen.get("activation")]} | chosen


def read(file: Path = FILE) -> Catalogue:
    """The claims of a file.

    Raises:
        Invalid: what is wrong, with the claim, the field and what it must be.
    """
    try:
        content = yaml.safe_load(file.read_text("utf8"))
        return Catalogue.model_validate(content)
    except yaml.YAMLError as error:
        raise Invalid(f"{file}: {error}") from error
    except ValidationError as error:
        lines = [_line(content, problem) for problem in error.errors()]
        raise Invalid("\n".join(f"{file}: {line}" for line in dict.fromkeys(lines))) from error


def _line(content: Any, problem: Mapping[str, Any]) -> str:
    """What is wrong, and where: by the claim's id."""
    place, words = list(problem["loc"]), problem["msg"]
    if place[:1] == ["claims"] and len(place) > 1:
        entry = content["claims"][place[1]]
        number = f"claim {place[1] + 1}"
        place[:2] = [entry.get("id", number) if isinstance(entry, dict) else number]
    if problem["type"] == "extra_forbidden" and problem["loc"][0] == "claims":
        words = f"must be one of {', '.join(Claim.model_fields)}"
    return ": ".join([".".join(map(str, place)), words])


_READ = read()
FIXED = _READ.fixed  # when the criteria were committed, before the first run of a fresh seed
SETTINGS = _READ.settings
CLAIMS = {claim.id: claim for claim in _READ.claims}
