"""The YAML file of a sweep: what may stand in it, and its jobs.

A file defines sweeps; a sweep is an experiment or a chapter, fixed settings, and lists: every combination is
a job. A job's result is stored under a hash of its settings, so that what is finished is never done again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from deadbook import runs, settings
from deadbook.build import book
from deadbook.settings import DataRoot, Positive, Processes, Profile, Results, choice, integer, setting
from deadunits import Invalid, __version__

MANY = 10_000  # jobs in one file: more is a slip
LISTS = {  # lists as data: nothing in a file is ever executed
    "range": range,
    "linspace": lambda low, high, number: (_even(low, high, number, i) for i in range(number)),
    "logspace": lambda low, high, number: (10 ** _even(low, high, number, i) for i in range(number)),
}
Mapped = setting(dict, "a mapping", "names and values")
Partition = setting(str | None, "the name of a partition", "where the jobs are queued", Field(min_length=1))
Name = setting(str | None, "the name of an experiment, or of a chapter", "whose jobs they are")


class Part(settings.Settings):
    """Of a file."""

    noun = "name"


class File(Part):
    """What may stand in a file."""

    where: choice("where the jobs are done", "local", "slurm") = "local"
    processes: Processes = 0
    results: Results = "results"
    data_root: DataRoot = ""
    slurm: Mapped = Field({})
    sweeps: setting(dict, "a mapping of names to sweeps, at least one", "the sweeps", Field(min_length=1))


class Slurm(Part):
    """Resources on SLURM; `more` are further options of sbatch."""

    minutes: integer(1, 10**6, "time of a job, in minutes", " (minutes)") = 24 * 60
    memory: setting(Positive, "gigabytes, a number above 0", "memory of a job") = 4
    gpus: integer(0, 1000, "GPUs of a job") = 0
    partition: Partition = None
    at_once: integer(1, 10**6, "jobs at a time") = 100
    more: Mapped = Field({})


class Sweep(Part):
    """A sweep in a file: an experiment or a chapter, what is the same in all jobs, and lists."""

    experiment: Name = None
    chapter: Name = None
    profile: Profile = "quick"
    settings: Mapped = Field({})
    lists: Mapped = Field({})


@dataclass(frozen=True)
class Job:
    """One run of an experiment, or one execution of a chapter."""

    sweep: str  #: its name in the file
    experiment: str  #: "" for a chapter
    chapter: str
    profile: str  #: of a chapter
    settings: dict[str, Any]

    @functools.cached_property
    def key(self) -> str:
        """Name of its result; of a run the same as everywhere."""
        return runs.key(self.experiment or f"{self.chapter}:{self.profile}", self.settings)


@dataclass(frozen=True)
class Plan:
    """The jobs of a file, and where and how they are done."""

    jobs: list[Job]
    results: Path
    data_root: str
    where: str
    processes: int
    slurm: Slurm = field(default_factory=Slurm)
    effective: dict[str, Any] = field(default_factory=dict)  #: the file, with the command line's settings

    def place(self, job: Job) -> Path:
        """Where claim, log and error of a job lie."""
        return self.results / "jobs" / job.key

    def result(self, job: Job) -> Path | None:
        """The folder of a job's finished result."""
        if job.experiment:
            run = runs.stored(job.key, self.results)
            return run.folder if run else None
        folder = self.results / "chapters" / job.key
        return folder if folder.is_dir() else None

    def missing(self) -> list[Job]:
        """The jobs that are not done."""
        return [job for job in self.jobs if self.result(job) is None]

    def parameters(self, job: Job) -> dict[str, Any]:
        """Those of a chapter; its runs lie beside the others, and it takes one core."""
        names = settings.chapter(job.chapter).model_fields
        common = {"results": str(self.results), "processes": 1, "data_root": self.data_root}
        return {name: value for name, value in common.items() if name in names} | job.settings


def read(file: Path, overrides: Mapping[str, Any] | None = None, **options: Any) -> Plan:
    """The jobs of a file, all of it checked; nothing is started, and no torch is imported.

    Args:
        file: YAML.
        overrides: settings that overrule those of the file, in every sweep that has them.
        options: `where`, `processes`, `results`, `data_root`: overrule the file's; None: not set.

    Raises:
        Invalid: what is wrong, and what is valid.
    """
    whole = _loaded(file) | {name: value for name, value in options.items() if value is not None}
    checked = _checked(file.name, File, whole)
    slurm = _checked(f"{file.name}, slurm", Slurm, checked.slurm)
    unused, jobs, sweeps = dict(overrides or {}), list[Job](), dict[str, Any]()
    for name, values in checked.sweeps.items():
        where = f"{file.name}, {name}"
        if type(name) is not str or not re.fullmatch(r"\w[\w.-]*", name):
            raise Invalid(f"{where}: the name of a sweep must be of letters, digits, _, - and .")
        if type(values) is not dict or ("experiment" in values) == ("chapter" in values):
            raise Invalid(f"{where} must name an experiment or a chapter, its settings and its lists")
        sweep = _checked(where, Sweep, {key: value for key, value in values.items() if value is not None})
        new = {key: value for key, value in (overrides or {}).items() if key in _model(sweep).model_fields}
        unused = {key: value for key, value in unused.items() if key not in new}
        lists = {key: value for key, value in sweep.lists.items() if key not in new}
        sweep = sweep.model_copy(update={"settings": sweep.settings | new, "lists": lists})
        sweeps[name] = sweep.model_dump(exclude_unset=True)
        jobs += _jobs(where, name, sweep)
        if len(jobs) > MANY:
            raise Invalid(f"{file.name}: more than {MANY:,} jobs; a slip in a list?")
    if unused:
        raise Invalid(f"no sweep of {file.name} has a setting {', '.join(sorted(unused))}")
    if doubled := len(jobs) - len({job.key for job in jobs}):
        raise Invalid(f"{file.name}: {doubled} jobs are there twice; the same value twice in a list?")
    results = runs.project_root() / checked.results
    how = checked.data_root, checked.where, checked.processes, slurm
    return Plan(jobs, results, *how, whole | {"sweeps": sweeps})


def check(plan: Plan) -> None:
    """Look for the images, and whether there is a place for results; before anything is started.

    Jobs that failed before are left alone: they fail again, or not, without the others.
    """
    runs.check_writable(plan.results)
    missing = [job for job in plan.missing() if not (plan.place(job) / "error").exists()]
    for job in missing:
        if job.chapter:
            book.complete(job.chapter, job.profile, plan.parameters(job))
    for experiment in dict.fromkeys(job.experiment for job in missing if job.experiment):
        wanted = [job.settings for job in missing if job.experiment == experiment]
        at_once = 1 if plan.where == "slurm" else plan.processes or os.cpu_count() or 1
        runs.check_ready(experiment, wanted, plan.results, plan.data_root, at_once)


def keep_configuration(plan: Plan, name: str) -> Path:
    """Write the file of a plan, with the command line's settings, beside the results."""
    plain = json.loads(json.dumps(plan.effective))  # nothing twice in it, so YAML needs no aliases
    text = f"# deadunits {__version__}\n{yaml.safe_dump(plain, sort_keys=False)}"
    place = plan.results / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    draft = place.with_suffix(f".{os.getpid()}")
    draft.write_text(text, "utf8")
    return draft.replace(place)


class _Loader(yaml.SafeLoader):
    """YAML without aliases and without names that are there twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*{self.peek_event().anchor}) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        for name, times in Counter(key.value for key, _ in node.value).items():
            if times > 1:
                raise yaml.YAMLError(f"{name} is there twice")
        return super().construct_mapping(node, deep)


def _loaded(file: Path) -> dict[str, Any]:
    try:
        whole = yaml.load(file.read_text("utf8"), _Loader)
    except OSError as error:
        raise Invalid(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also no UTF-8, numbers too long
        raise Invalid(f"{file} is no YAML: {error}") from error
    if type(whole) is not dict:
        raise Invalid(f"{file} must be a mapping with the name `sweeps`")
    return whole


def _model(sweep: Sweep) -> type[settings.Settings]:
    """What its settings must be; raise `Invalid` for an unknown experiment, chapter or profile."""
    if sweep.experiment:
        return settings.experiment(sweep.experiment)
    book.known(sweep.chapter or "", sweep.profile)
    return settings.chapter(sweep.chapter)


def _jobs(where: str, name: str, sweep: Sweep) -> list[Job]:
    """The jobs of one sweep, each checked."""
    chapter, profile = sweep.chapter or "", sweep.profile if sweep.chapter else ""
    lists = {setting: _values(f"{where}, {setting}", value) for setting, value in sweep.lists.items()}
    if math.prod(map(len, lists.values())) > MANY:
        raise Invalid(f"{where}: more than {MANY:,} jobs; a slip in a list?")
    base = book.chosen(chapter, profile) if chapter else {}
    combinations = runs.grid(sweep.settings, **lists)
    for chosen in combinations:
        _checked(where, _model(sweep), base | chosen)
    return [Job(name, sweep.experiment or "", chapter, profile, chosen) for chosen in combinations]


def _values(where: str, value: Any) -> list[Any]:
    """The values of a list: written out, or as `range`, `linspace` (low, high, number) or `logspace`."""
    values = value if type(value) is list else []
    if type(value) is dict and len(value) == 1 and next(iter(value)) in LISTS:
        ((kind, numbers),) = value.items()
        numbers = numbers if type(numbers) is list else [numbers]
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # too few numbers, too large ones
            if all(type(number) in (int, float) for number in numbers):
                values = list(itertools.islice(LISTS[kind](*numbers), MANY + 1))
    if len(values) > MANY:
        raise Invalid(f"{where}: {value} has more than {MANY:,} values")
    if not values:
        raise Invalid(
            f"{where} = {value!r} must be a list of values, or {{range: [start, stop, step]}}, "
            "{linspace: [low, high, number]} or {logspace: [low, high, number]} (powers of 10)"
        )
    return values


def _even(low: float, high: float, number: int, place: int) -> float:
    return low if number == 1 else low + (high - low) * place / (number - 1)


def _checked(where: str, kind: type[settings.Settings], values: Mapping[str, Any]) -> Any:
    try:
        return settings.check(kind, values)
    except Invalid as error:
        raise Invalid("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None
