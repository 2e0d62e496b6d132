"""The YAML file of a sweep: what it may say, and the jobs that it asks for.

A file defines sweeps; a sweep is an experiment or a chapter, fixed settings, and lists: every combination is
a job. A job's result is kept under a hash of its settings, so that what is finished is never done again.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deadbook import datasets, runs, settings
from deadbook.build import book
from deadbook.settings import Rule
from deadunits import Invalid, __version__

MANY = 10_000  # jobs in one file: more is a slip
LISTS = {  # lists as data: nothing in a file is ever executed
    "range": lambda *ends: list(range(*ends)),
    "linspace": lambda low, high, number: [_even(low, high, number, i) for i in range(number)],
    "logspace": lambda low, high, number: [10 ** _even(low, high, number, i) for i in range(number)],
}
RULES = {
    "where": Rule("local or slurm", lambda value: value in ("local", "slurm")),
    "processes": settings.RULES["processes"],
    "results": settings.RULES["results"],
    "data_root": settings.RULES["data_root"],
    "slurm": Rule("a mapping", lambda value: type(value) is dict),
    "sweeps": Rule("a mapping of names to sweeps, at least one", lambda v: type(v) is dict and bool(v)),
}
SLURM_RULES = {
    "minutes": Rule("a whole number of minutes, at least 1", lambda v: type(v) is int and v >= 1),
    "memory": Rule("gigabytes, a number above 0", lambda v: type(v) in (int, float) and v > 0),
    "gpus": Rule("a whole number from 0", lambda value: type(value) is int and value >= 0),
    "partition": Rule("a text", lambda value: type(value) is str and value != ""),
    "at_once": Rule("a whole number from 1", lambda value: type(value) is int and value >= 1),
    "more": Rule("a mapping: options of sbatch", lambda value: type(value) is dict),
}
SLURM = {"minutes": 24 * 60, "memory": 4, "gpus": 0, "at_once": 100}
ONE = ("experiment", "chapter", "profile", "settings", "lists")


@dataclass(frozen=True)
class Job:
    """One run of an experiment, or one execution of a chapter."""

    sweep: str  #: its name in the file
    experiment: str  #: "" for a chapter
    chapter: str
    profile: str  #: of a chapter
    settings: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        """Name of its result; of a run the same as everywhere."""
        if self.experiment:
            return runs.key(self.experiment, self.settings)
        return runs.key(f"{self.chapter}:{self.profile}", self.settings)


@dataclass(frozen=True)
class Plan:
    """What a file wants: jobs, and where and how."""

    jobs: list[Job]
    results: Path
    data_root: str
    where: str
    processes: int
    slurm: dict[str, Any]
    effective: dict[str, Any]  #: the file, with what was set on the command line

    def place(self, job: Job) -> Path:
        """Where claim, log and error of a job lie."""
        return self.results / "jobs" / job.key

    def found(self, job: Job) -> Path | None:
        """The folder of a job's finished result."""
        if job.experiment:
            run = runs.find(job.experiment, job.settings, self.results)
            return run.folder if run else None
        folder = self.results / "chapters" / job.key
        return folder if folder.is_dir() else None

    def parameters(self, job: Job) -> dict[str, Any]:
        """Those of a chapter; its runs lie beside the others, and it takes one core."""
        names = settings.declared(runs.top() / f"notebooks/{job.chapter}.ipynb")
        own = {"results": str(self.results), "processes": 1, "data_root": self.data_root}
        return {name: value for name, value in own.items() if name in names} | job.settings


def read(file: Path, own: Mapping[str, Any] | None = None, **top: Any) -> Plan:
    """What a file wants, all of it checked; nothing is started, and no torch is imported.

    Args:
        file: YAML.
        own: settings that overrule those of the file, in every sweep that has them.
        top: `where`, `processes`, `results`, `data_root`: overrule the file's; None: not set.

    Raises:
        Invalid: what is wrong, and what would be right.
    """
    try:
        whole = yaml.safe_load(file.read_text("utf8"))
    except OSError as error:
        raise Invalid(f"cannot read {file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise Invalid(f"{file} is no YAML: {error}") from error
    if type(whole) is not dict:
        raise Invalid(f"{file} is to be a mapping with the name `sweeps`")
    whole |= {name: value for name, value in top.items() if value is not None}
    _check(whole, RULES, file.name)
    _check(whole.get("slurm", {}), SLURM_RULES, f"{file.name}, slurm")
    if "sweeps" not in whole:
        raise Invalid(f"{file} defines no sweep: it wants a mapping `sweeps`")
    used, jobs = set[str](), list[Job]()
    for name, one in whole["sweeps"].items():
        whole["sweeps"][name] = one = _overruled(f"{file.name}, {name}", one, own or {}, used)
        jobs += _jobs(f"{file.name}, {name}", name, one)
        if len(jobs) > MANY:
            raise Invalid(f"{file.name}: more than {MANY:,} jobs; a slip in a list?")
    if unused := set(own or {}) - used:
        raise Invalid(f"no sweep of {file.name} has a setting {', '.join(sorted(unused))}")
    doubled = [key for key, times in Counter(job.key for job in jobs).items() if times > 1]
    if doubled:
        raise Invalid(f"{file.name}: {len(doubled)} jobs are there twice; the same value twice in a list?")
    return Plan(
        jobs,
        runs.top() / whole.get("results", "results"),
        whole.get("data_root", ""),
        whole.get("where", "local"),
        whole.get("processes", 0),
        SLURM | whole.get("slurm", {}),
        whole,
    )


def check(plan: Plan) -> None:
    """Look for the images, and whether there is a place for results; before anything is started."""
    runs.check_writable(plan.results)
    seen = set()
    for job in (one for one in plan.jobs if plan.found(one) is None):
        if job.chapter:
            book.parameters(job.chapter, job.profile, plan.parameters(job))
            continue
        one = tuple(job.settings[name] for name in ("dataset", "probe_size", "image_size"))
        if one not in seen:
            datasets.check(one[0], plan.data_root, *one[1:])
            runs.decode(job.settings, plan.data_root)
            seen.add(one)


def keep_configuration(plan: Plan, name: str) -> Path:
    """Write what is done, the command line's settings included, beside the results."""
    text = f"# deadunits {__version__}\n{yaml.safe_dump(plan.effective, sort_keys=False)}"
    place = plan.results / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    draft = place.with_suffix(f".{os.getpid()}")
    draft.write_text(text, "utf8")
    return draft.replace(place)


def declared(experiment: str) -> list[str]:
    """The settings of an experiment: the names that its loop takes.

    Raises:
        Invalid: there is no such experiment.
    """
    folder = Path(__file__).parents[1] / "experiments"
    known = {}
    for file in sorted(folder.glob("*.py")):
        for node in ast.parse(file.read_text("utf8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == file.stem:
                known[file.stem] = [one.arg for one in node.args.kwonlyargs if one.arg != "data_root"]
    if experiment not in known:
        raise Invalid(settings.unknown("experiment", experiment, list(known)))
    return known[experiment]


def _jobs(where: str, name: str, one: Mapping[str, Any]) -> list[Job]:
    """The jobs of one sweep, each checked."""
    experiment, chapter = one.get("experiment", ""), one.get("chapter", "")
    fixed, lists = one["settings"], one["lists"]
    names = _names(one)
    for setting in (*fixed, *lists):
        if setting not in names:
            raise Invalid(f"{where}: {settings.unknown('parameter', str(setting), names)}")
    missing = [setting for setting in names if setting not in fixed and setting not in lists]
    if experiment and missing:
        raise Invalid(f"{where}: {experiment} wants {', '.join(missing)}, too")
    wide = {setting: _values(f"{where}, {setting}", value) for setting, value in lists.items()}
    if math.prod(map(len, wide.values())) > MANY:
        raise Invalid(f"{where}: more than {MANY:,} jobs; a slip in a list?")
    found = []
    for values in itertools.product(*wide.values()):
        chosen = fixed | dict(zip(wide, values, strict=True))
        try:
            settings.check(chosen, names)
        except Invalid as error:
            raise Invalid(f"{where}: {error}") from None
        found.append(Job(name, experiment, chapter, one.get("profile", "quick") if chapter else "", chosen))
    return found


def _names(one: Mapping[str, Any]) -> list[str]:
    """The settings that a sweep may have."""
    if "experiment" in one:
        return declared(one["experiment"])
    book.known(one["chapter"], one.get("profile", "quick"))
    return list(settings.declared(runs.top() / f"notebooks/{one['chapter']}.ipynb"))


def _values(where: str, value: Any) -> list[Any]:
    """The values of a list: written out, or as `range`, `linspace` (low, high, number) or `logspace`."""
    if type(value) is list and value:
        return value
    if type(value) is dict and len(value) == 1 and next(iter(value)) in LISTS:
        ((how, given),) = value.items()
        given = given if type(given) is list else [given]
        number = given[-1] if how != "range" else 1
        right = all(type(one) in (int, float) and math.isfinite(one) for one in given)
        right = right and (1 <= len(given) <= 3 if how == "range" else len(given) == 3)
        right = right and (how != "range" or all(type(one) is int for one in given))
        right = (
            right and type(number) is int and 1 <= number <= MANY and (how != "range" or 0 not in given[2:])
        )
        if right and how == "range" and len(range(*given)) > MANY:
            raise Invalid(f"{where}: {value} has more than {MANY:,} values")
        if right and (values := LISTS[how](*given)):
            return values
    raise Invalid(
        f"{where} = {value!r} is to be a list of values, or {{range: [start, stop, step]}}, "
        "{linspace: [low, high, number]} or {logspace: [low, high, number]} (powers of 10)"
    )


def _even(low: float, high: float, number: int, place: int) -> float:
    return low if number == 1 else low + (high - low) * place / (number - 1)


def _overruled(where: str, one: Any, own: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    """A sweep of the file with the command line's settings in the place of its own."""
    if type(one) is not dict or ("experiment" in one) == ("chapter" in one):
        raise Invalid(f"{where} is to name an experiment or a chapter, its settings and its lists")
    if unknown := [name for name in one if name not in ONE]:
        raise Invalid(f"{where}: {settings.unknown('name', unknown[0], ONE)}")
    parts = [one.get(part) or {} for part in ("settings", "lists")]
    if any(type(part) is not dict for part in parts):
        raise Invalid(f"{where}: settings and lists are to be mappings of names to values")
    fixed, lists = parts
    names = _names(one)
    mine = {name: value for name, value in own.items() if name in names}
    used.update(mine)
    lists = {name: value for name, value in lists.items() if name not in mine}
    return one | {"settings": fixed | mine, "lists": lists}


def _check(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> None:
    for name, value in values.items():
        if name not in rules:
            raise Invalid(f"{where}: {settings.unknown('name', str(name), list(rules))}")
        if not rules[name].holds(value):
            raise Invalid(f"{where}: {name} = {value!r} is to be {rules[name].says}")
