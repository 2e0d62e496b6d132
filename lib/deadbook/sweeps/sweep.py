"""Grids of runs and of chapters, from a YAML file: on this machine or, one word changed, on SLURM."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from deadbook import pool, runs, settings
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
    runs.clean(plan.results / "chapters")
    left = [job for job in plan.jobs if not jobs.state(job, plan).startswith(("done", "failed"))]
    total, begun = len(left), Counter[str]()
    queue = contextlib.nullcontext(slurm.Queue(plan)) if plan.where == "slurm" else Here(plan)
    with queue as place, pool.Bar(total, "jobs") as bar:
        while left:
            place.look()
            lost = []
            for job in [job for job in left if not place.has(job)]:
                state = jobs.state(job, plan)  # `running`: another launcher does it
                if state == "waiting" and (why := place.why(job, begun[job.key])):
                    state = jobs.keep_error(job, plan, why)
                if state == "waiting":
                    lost.append(job)
                elif not state.startswith("running"):
                    left.remove(job)
                    bar.clear()
                    show(f"[{total - len(left)}/{total}] {job.sweep} {job.key}: {state}")
            if lost:
                begun.update(job.key for job in lost)
                place.begin(lost, show)
            bar.show(total - len(left), sum(runs.progress(plan.results)))
    return Counter(jobs.state(job, plan).partition(":")[0].partition(",")[0] for job in plan.jobs)


class Here(pool.Pool):
    """Processes of this machine that do the jobs of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.processes or os.cpu_count() or 1)
        self.plan, self.errors = dataclasses.replace(plan, jobs=[]), dict[str, str]()

    def begin(self, wanted: Sequence[Job], show: Callable[[str], None]) -> None:
        """Do these jobs, each as soon as a process is free; what it prints is its log."""
        for job in wanted:
            place = self.plan.place(job)
            place.mkdir(parents=True, exist_ok=True)
            self.submit(job.key, jobs.execute, job, self.plan, log=place / "log")

    def look(self) -> None:
        """Wait a moment for jobs that end."""
        self.errors |= self.ended()

    def has(self, job: Job) -> bool:
        """Whether it is going to be done, or is being done."""
        return job.key in self.pending

    def why(self, job: Job, begun: int) -> str:
        """Why a job that was begun that often, and is not done, is not begun again; "": it is."""
        return f"{self.errors[job.key]}, {begun} times" if begun >= jobs.TRIES else ""


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
        same = (info["experiment"], theirs["dataset"]) == (job.experiment, job.settings["dataset"])
        if None in steps or not same:
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
        Invalid: TensorBoard is not installed, or the name of a sweep leads out of the folder.
    """
    for job in plan.jobs:
        if not (folder / job.sweep).resolve().is_relative_to(folder.resolve()):
            raise Invalid(f"the name of a sweep must be that of a folder, not {job.sweep!r}")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Invalid("TensorBoard is not installed: pip install tensorboard") from error
    finished = list(_finished(plan))
    for job, run in finished:
        place = folder / job.sweep / run.folder.name
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place)) as writer:
            writer.add_text("settings", f"```\n{yaml.safe_dump(run.info['settings'])}```")
            for file in sorted(run.folder.glob("*.parquet")):
                for tag, step, value in _scalars(file):
                    writer.add_scalar(tag, value, step)
    return len(finished)


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
