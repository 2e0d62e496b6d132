"""Grids of runs and of chapters, from a YAML file: on this machine or, one word changed, on SLURM.

A file defines sweeps; a sweep is an experiment or a chapter, fixed settings, and lists: every combination is
a job. A job's result is kept under a hash of its settings, so that what is finished is never done again.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deadunits import Invalid, __version__, book, claimed, data, runs, settings
from deadunits.settings import Rule

if TYPE_CHECKING:
    import pandas as pd

MANY = 10_000  # jobs in one file: more is a slip
TRIES = 3  # how often a job is begun whose process was killed
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
            book.parameters(job.chapter, job.profile, _own(job, plan))
            continue
        one = tuple(job.settings[name] for name in ("dataset", "probe_size", "image_size"))
        if one not in seen:
            data.check(one[0], plan.data_root, *one[1:])
            runs.decode(job.settings, plan.data_root)
            seen.add(one)


def keep_configuration(plan: Plan, name: str) -> Path:
    """Write what is done, the command line's settings included, beside the results."""
    text = f"# deadunits {__version__}\n{yaml.safe_dump(plan.effective, sort_keys=False)}"
    place = plan.results / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    draft = place.with_suffix(f".{os.getpid()}")
    draft.write_text(text, "utf8")
    return draft.replace(place)


def execute(job: Job, plan: Plan, wait: bool = False) -> str:
    """Do one job here and now: `done`, `failed` (the error is kept), or `taken` by another process.

    Args:
        wait: for that other process, and do it if that dies.
    """
    place = plan.place(job)
    while plan.found(job) is None:
        with claimed.claimed(place) as mine:
            if mine and plan.found(job) is None:
                return _do(job, plan, place)
        if not wait and not mine:
            return "taken"
        time.sleep(1)
    return "done"


def _do(job: Job, plan: Plan, place: Path) -> str:
    (place / "error").unlink(missing_ok=True)
    for draft in plan.results.glob(f".{job.key}.*"):  # of processes that are dead, or we had no claim
        shutil.rmtree(draft, ignore_errors=True)
    try:
        if job.experiment:
            runs.execute(job.experiment, job.settings, plan.results, plan.data_root)
        else:
            _execute_chapter(job, plan)
    except Exception as error:
        traceback.print_exc()
        said = "".join(traceback.format_exception_only(error)).strip()
        (place / "error").write_text(said + "\n", "utf8")
        return "failed"
    return "done"


def _execute_chapter(job: Job, plan: Plan) -> None:
    folder = plan.results / "chapters"
    draft = folder / f".{job.key}.{os.getpid()}"
    draft.mkdir(parents=True)
    more = {}
    if "SLURM_JOB_ID" in os.environ:
        more["kernel_manager_class"] = _patient_kernels()
    try:
        book.execute(job.chapter, job.profile, _own(job, plan), folder=draft, **more)
        (draft / "settings.json").write_text(json.dumps(job.settings, indent=1) + "\n", "utf8")
        draft.rename(folder / job.key)
    finally:
        if draft.exists():
            failed = next(draft.glob("*.failed.ipynb"), None)
            if failed:
                failed.replace(plan.place(job) / failed.name)
            shutil.rmtree(draft, ignore_errors=True)


def _own(job: Job, plan: Plan) -> dict[str, Any]:
    """The parameters of a chapter; its runs lie beside the others, and it takes one core."""
    names = settings.declared(runs.top() / f"notebooks/{job.chapter}.ipynb")
    own = {"results": str(plan.results), "processes": 1, "data_root": plan.data_root}
    return {name: value for name, value in own.items() if name in names} | job.settings


def _patient_kernels() -> type:
    """Kernels that leave it to their parent what to do about SLURM's signals, which every process gets."""
    from jupyter_client import AsyncKernelManager

    class Patient(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            command = super().format_kernel_cmd(extra_arguments)
            return ["env", "--ignore-signal=TERM", "--ignore-signal=USR2", *command]

    return Patient


def state(job: Job, plan: Plan) -> str:
    """`done`, `running`, `failed: why`, or `waiting`."""
    place = plan.place(job)
    if plan.found(job) is not None:
        return "done"
    if claimed.alive(place):
        share = runs.progress(plan.results, job.key)
        return "running" + (f", {max(share):.0%}" if share else "")
    if (place / "error").is_file():
        return f"failed: {(place / 'error').read_text('utf8').strip().splitlines()[-1]}"
    return "waiting"


def table(plan: Plan) -> pd.DataFrame:
    """A row a job: sweep, key, the settings that differ, state, minutes, log."""
    import pandas as pd

    every = list(dict.fromkeys(name for job in plan.jobs for name in job.settings))
    values = {name: {str(job.settings[name]) for job in plan.jobs if name in job.settings} for name in every}
    varied = [name for name in every if len(values[name]) > 1]
    rows = []
    for job in plan.jobs:
        folder, log = plan.found(job), plan.place(job) / "log"
        info = json.loads((folder / "run.json").read_text("utf8")) if folder and job.experiment else {}
        rows.append(
            {"sweep": job.sweep, "key": job.key}
            | {name: job.settings.get(name, "") for name in varied}
            | {"state": state(job, plan)}
            | {"minutes": round(info["seconds"] / 60, 1) if info else ""}
            | {"log": str(log) if log.exists() else ""}
        )
    return pd.DataFrame(rows)


def estimate(job: Job, plan: Plan, known: Sequence[runs.Run]) -> float | None:
    """Seconds of a run, from the most similar one that was done, by their numbers of steps; None: unknown."""
    best, seconds = -1, None
    for run in known:
        info = run.info
        theirs = info["settings"]
        steps = settings.training_steps(job.settings), settings.training_steps(theirs)
        if (
            info["experiment"] != job.experiment
            or None in steps
            or theirs["dataset"] != job.settings["dataset"]
        ):
            continue
        alike = sum(theirs.get(name) == value for name, value in job.settings.items())
        if alike > best:
            best, seconds = alike, info["seconds"] * steps[0] / steps[1]
    return seconds


def forecast(plan: Plan) -> str:
    """How many jobs there are, and how long those that are not done may take."""
    known = runs.runs_in(runs.top() / runs.PUBLISHED) + runs.runs_in(plan.results)
    missing = [job for job in plan.jobs if plan.found(job) is None]
    guesses = [estimate(job, plan, known) if job.experiment else None for job in missing]
    seconds, unknown = sum(filter(None, guesses)), guesses.count(None)
    text = f"{len(plan.jobs)} jobs, {len(plan.jobs) - len(missing)} of them done"
    if missing:
        text += f"; the others take about {seconds / 60:.0f} minutes of one core" if seconds else ""
        text += f"; of {unknown} the time is not known" if unknown else ""
    return text


def gather(plan: Plan, name: str) -> pd.DataFrame:
    """The same table of all finished runs, one below the other, with the settings as columns.

    A setting whose name the table has already becomes `setting_<name>`; `sweep` and `run` say where a row is
    from. Of a chapter, these are the runs that it shows.

    Raises:
        Invalid: no finished run has such a table.
    """
    import pandas as pd

    parts, others = [], set[str]()
    for job, run in _finished(plan):
        others |= {file.stem for file in run.folder.glob("*.parquet")}
        if not run.has(name):
            continue
        rows = pd.read_parquet(run.folder / f"{name}.parquet")
        about = {"sweep": job.sweep, "run": run.folder.name}
        for setting, value in run.info["settings"].items():
            plain = json.dumps(value) if isinstance(value, list | dict) else value
            about[f"setting_{setting}" if setting in rows else setting] = plain
        parts.append(rows.assign(**about))
    if not parts:
        raise Invalid(
            f"no finished run has a table {name!r}; there are: {', '.join(sorted(others)) or 'none'}"
        )
    return pd.concat(parts, ignore_index=True)


def tensorboard(plan: Plan, folder: Path) -> int:
    """Curves and scalars of all finished runs as TensorBoard events, a directory a run; how many runs.

    A number of a table with steps becomes a curve for each combination of the words in its rows (a layer, a
    scorer, a set of images), averaged over what is left (units, weights, draws).

    Raises:
        Invalid: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Invalid("TensorBoard is not installed: pip install tensorboard") from error
    number = 0
    for job, run in _finished(plan):
        number += 1
        place = folder / job.sweep / run.folder.name
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place)) as writer:
            writer.add_text("settings", f"```\n{yaml.safe_dump(run.info['settings'])}```")
            for file in sorted(run.folder.glob("*.parquet")):
                for tag, step, value in _scalars(file):
                    writer.add_scalar(tag, value, step)
    return number


def _scalars(file: Path) -> Iterator[tuple[str, int, float]]:
    import pandas as pd

    rows = pd.read_parquet(file)
    words = [name for name in rows if not pd.api.types.is_numeric_dtype(rows[name])]
    numbers = [name for name in rows if name not in (*words, "step", "epoch", "unit", "weight")]
    steps = rows["step"] if "step" in rows else pd.Series(0, index=rows.index)
    by = [steps.rename("step"), *(rows[name] for name in words)]
    means = rows[numbers].astype(float).groupby(by, sort=False).mean()
    for index, values in means.iterrows():
        step, *names = index if isinstance(index, tuple) else (index,)
        for name, value in values.items():
            if math.isfinite(value):
                yield "/".join((file.stem, *map(str, names), str(name))), int(step), value


def _finished(plan: Plan) -> Iterator[tuple[Job, runs.Run]]:
    for job in plan.jobs:
        folder = plan.found(job)
        if folder is None:
            continue
        if job.experiment:
            yield job, runs.Run(folder)
            continue
        for key in book.runs_shown(folder / f"{job.chapter}.ipynb"):
            places = [runs.top() / runs.PUBLISHED / key, plan.results / key]
            yield from ((job, runs.Run(place)) for place in places if place.is_dir())


def launch(plan: Plan, retry: bool = False, show: Callable[[str], None] = print) -> Counter[str]:
    """Do all jobs that are not done, and say how each ended; how many are `done` and `failed`.

    Args:
        retry: try those again that failed before.
        show: gets a line for each job that ended.
    """
    for job in plan.jobs:
        if retry:
            (plan.place(job) / "error").unlink(missing_ok=True)
    runs.clean(plan.results)
    missing = [job for job in plan.jobs if state(job, plan).partition(":")[0] not in ("done", "failed")]
    if plan.where == "slurm":
        from deadunits import slurm

        slurm.launch(missing, plan, show)
    else:
        _locally(missing, plan, show)
    return Counter(state(job, plan).partition(":")[0].partition(",")[0] for job in plan.jobs)


def _locally(jobs: Sequence[Job], plan: Plan, show: Callable[[str], None]) -> None:
    """Each in a process of its own, of one thread; so many at a time."""
    waiting, elsewhere = deque(jobs), list[Job]()
    working: dict[subprocess.Popen, Job] = {}
    begun, bar = Counter[str](), Bar(len(jobs))
    at_once = plan.processes or os.cpu_count() or 1
    try:
        while waiting or working or elsewhere:
            while waiting and len(working) < at_once:
                job = waiting.popleft()
                begun[job.key] += 1
                working[start(job, plan)] = job
            for process, job in [(p, j) for p, j in working.items() if p.poll() is not None]:
                del working[process]
                ended = state(job, plan)
                if ended.startswith("running"):  # another launcher does it
                    elsewhere.append(job)
                elif ended == "waiting" and begun[job.key] < TRIES:
                    waiting.append(job)
                else:
                    if ended == "waiting":
                        ended = give_up(job, plan, f"its process was killed {TRIES} times")
                    bar.ended(show, f"{job.sweep} {job.key}: {ended}")
            for job in [one for one in elsewhere if not state(one, plan).startswith("running")]:
                elsewhere.remove(job)
                if state(job, plan) == "waiting":  # that launcher died
                    waiting.append(job)
                else:
                    bar.ended(show, f"{job.sweep} {job.key}: {state(job, plan)}")
            bar.ahead(sum(runs.progress(plan.results)))
            time.sleep(0.1)
    finally:
        bar.close()
        for process in working:  # an interrupt: each removes its own draft and claim
            process.terminate()
        for process in working:
            process.wait()


def start(job: Job, plan: Plan) -> subprocess.Popen:
    """A process that does this job; what it prints is the job's log."""
    place = plan.place(job)
    place.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with (place / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deadunits", "job", packed(job, plan)],
            env=os.environ | threads,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def packed(job: Job, plan: Plan) -> str:
    """A job, and what its process has to know of the plan, as text."""
    return json.dumps([vars(job), str(plan.results), plan.data_root])


def execute_packed(text: str, wait: bool = False) -> str:
    """`execute` what was `packed`."""
    job, results, data_root = json.loads(text)
    plan = Plan([], Path(results), data_root, "local", 1, {}, {})
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job}", flush=True)
    return execute(Job(**job), plan, wait)


def give_up(job: Job, plan: Plan, why: str) -> str:
    """Keep that as the job's error, and say so."""
    (plan.place(job) / "error").write_text(why + "\n", "utf8")
    return f"failed: {why}"


class Bar:
    """Progress in the foreground: a bar on a terminal, else a line for each job that ended."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self.done, self.total = 0, total
        layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self.bar = tqdm(total=total, bar_format=layout, disable=not sys.stderr.isatty() or not total)

    def ended(self, show: Callable[[str], None], line: str) -> None:
        """One more, and what is said of it."""
        self.done += 1
        self.bar.clear()
        show(f"[{self.done}/{self.total}] {line}")

    def ahead(self, share: float) -> None:
        """How much of the others is done."""
        self.bar.set_description(f"{self.done} of {self.total} jobs", refresh=False)
        self.bar.update(min(self.done + share, self.total) - self.bar.n)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.close()


def declared(experiment: str) -> list[str]:
    """The settings of an experiment: the names that its loop takes.

    Raises:
        Invalid: there is no such experiment.
    """
    folder = Path(__file__).parent / "experiments"
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
