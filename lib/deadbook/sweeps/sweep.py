"""Grids of runs and of chapters, from a YAML file: on this machine or, one word changed, on SLURM."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from deadbook import runs, settings
from deadbook.build import book
from deadbook.sweeps import jobs, slurm
from deadbook.sweeps.grids import Job, Plan
from deadunits import Invalid

if TYPE_CHECKING:
    import pandas as pd


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
    missing = [job for job in plan.jobs if jobs.state(job, plan).partition(":")[0] not in ("done", "failed")]
    if plan.where == "slurm":
        slurm.launch(missing, plan, show)
    else:
        _locally(missing, plan, show)
    return Counter(jobs.state(job, plan).partition(":")[0].partition(",")[0] for job in plan.jobs)


def _locally(wanted: Sequence[Job], plan: Plan, show: Callable[[str], None]) -> None:
    """Each in a process of its own, of one thread; so many at a time."""
    waiting, elsewhere = deque(wanted), list[Job]()
    working: dict[subprocess.Popen, Job] = {}
    begun, bar = Counter[str](), jobs.Bar(len(wanted))
    at_once = plan.processes or os.cpu_count() or 1
    try:
        while waiting or working or elsewhere:
            while waiting and len(working) < at_once:
                job = waiting.popleft()
                begun[job.key] += 1
                working[jobs.start(job, plan)] = job
            for process, job in [(p, j) for p, j in working.items() if p.poll() is not None]:
                del working[process]
                ended = jobs.state(job, plan)
                if ended.startswith("running"):  # another launcher does it
                    elsewhere.append(job)
                elif ended == "waiting" and begun[job.key] < jobs.TRIES:
                    waiting.append(job)
                else:
                    if ended == "waiting":
                        ended = jobs.give_up(job, plan, f"its process was killed {jobs.TRIES} times")
                    bar.ended(show, f"{job.sweep} {job.key}: {ended}")
            for job in list(elsewhere):
                ended = jobs.state(job, plan)
                if ended.startswith("running"):
                    continue
                elsewhere.remove(job)
                if ended == "waiting":  # that launcher died
                    waiting.append(job)
                else:
                    bar.ended(show, f"{job.sweep} {job.key}: {ended}")
            bar.ahead(sum(runs.progress(plan.results)))
            time.sleep(0.1)
    finally:
        bar.close()
        for process in working:  # an interrupt: each removes its own draft and claim
            process.terminate()
        for process in working:
            process.wait()


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
            | {"state": jobs.state(job, plan)}
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
            if run := runs.stored(key, plan.results):
                yield job, run
