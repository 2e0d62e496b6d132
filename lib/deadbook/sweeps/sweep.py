"""Grids of runs and of chapters, from a YAML file: on this machine or, with `where: slurm`, on SLURM."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
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
    """Do all jobs that are not done; return how many are `done` and `failed`.

    Args:
        retry: do those again that failed before.
        show: gets a line for each job that ended.
    """
    for job in plan.jobs if retry else ():
        (plan.place(job) / "error").unlink(missing_ok=True)
    runs.clean(plan.results)
    runs.clean(plan.results / "chapters")
    left = [job for job in plan.jobs if not jobs.state(job, plan).startswith(("done", "failed"))]
    total, starts = len(left), Counter[str]()
    with slurm.Queue(plan) if plan.where == "slurm" else Here(plan) as queue, pool.Bar(total, "jobs") as bar:
        while left:
            queue.look()
            waiting = []
            for job in [job for job in left if not queue.has(job)]:
                state = jobs.state(job, plan)  # `running`: by another launcher
                if state == "waiting" and (error := queue.error(job, starts[job.key])):
                    state = jobs.keep_error(job, plan, error)
                if state == "waiting":
                    waiting.append(job)
                elif not state.startswith("running"):
                    left.remove(job)
                    bar.clear()
                    show(f"[{total - len(left)}/{total}] {job.sweep} {job.key}: {state}")
            if waiting:
                starts.update(job.key for job in waiting)
                queue.begin(waiting, show)
            bar.show(total - len(left), sum(runs.progress(plan.results)))
    return Counter(re.match(r"\w+", jobs.state(job, plan))[0] for job in plan.jobs)


class Here(pool.Pool):
    """Processes of this machine that do the jobs of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.processes or os.cpu_count() or 1)
        self.plan, self.errors = dataclasses.replace(plan, jobs=[]), dict[str, str]()

    def begin(self, waiting: Sequence[Job], show: Callable[[str], None]) -> None:
        """Do these jobs, each as soon as a process is free; what it prints is its log."""
        for job in waiting:
            place = self.plan.place(job)
            place.mkdir(parents=True, exist_ok=True)
            self.submit(job.key, jobs.execute, job, self.plan, log=place / "log")

    def look(self) -> None:
        """Wait a moment, and notice the jobs that ended."""
        self.errors |= self.ended()

    def has(self, job: Job) -> bool:
        """Whether it waits or runs in this pool."""
        return job.key in self.pending

    def error(self, job: Job, starts: int) -> str:
        """Why a job that was started that often, and is not done, failed; "": it is started again."""
        return f"{self.errors[job.key]}, {starts} times" if starts >= jobs.TRIES else ""


def table(plan: Plan) -> pd.DataFrame:
    """A row a job: sweep, key, the settings that differ, state, minutes, log."""
    import pandas as pd

    values: dict[str, set[str]] = {}
    for name, value in (pair for job in plan.jobs for pair in job.settings.items()):
        values.setdefault(name, set()).add(str(value))
    varied = [name for name in values if len(values[name]) > 1]
    rows = []
    for job in plan.jobs:
        folder, log = plan.result(job), plan.place(job) / "log"
        minutes = round(runs.Run(folder).info["seconds"] / 60, 1) if folder and job.experiment else ""
        rows.append(
            {"sweep": job.sweep, "key": job.key}
            | {name: job.settings.get(name, "") for name in varied}
            | {"state": jobs.state(job, plan), "minutes": minutes, "log": str(log) if log.exists() else ""}
        )
    return pd.DataFrame(rows)


def estimate(job: Job, known: Sequence[runs.Run]) -> float | None:
    """Seconds of a run, by its number of steps, from the most similar one that was done; None: unknown."""
    kind, steps = (job.experiment, job.settings["dataset"]), settings.training_steps
    infos = [run.info for run in known if (run.info["experiment"], run.info["settings"]["dataset"]) == kind]
    infos = [info for info in infos if steps(info["settings"])]
    if not infos or steps(job.settings) is None:
        return None
    best = max(
        infos, key=lambda info: sum(info["settings"].get(name) == job.settings[name] for name in job.settings)
    )
    return best["seconds"] * steps(job.settings) / steps(best["settings"])


def forecast(plan: Plan) -> str:
    """How many jobs there are, and an estimate of the time of those that are not done."""
    known = runs.runs_in(runs.top() / runs.PUBLISHED) + runs.runs_in(plan.results)
    missing = [job for job in plan.jobs if plan.result(job) is None]
    guesses = [estimate(job, known) if job.experiment else None for job in missing]
    seconds, unknown = sum(filter(None, guesses)), guesses.count(None)
    text = f"{len(plan.jobs)} jobs, {len(plan.jobs) - len(missing)} of them done"
    if missing:
        text += f"; the others take about {seconds / 60:.0f} minutes of one core" if seconds else ""
        text += f"; of {unknown} the time is not known" if unknown else ""
    return text


def gather(plan: Plan, name: str) -> pd.DataFrame:
    """The same table of all finished runs, one below the other, with the settings as columns.

    A setting whose name the table has already becomes `setting_<name>`; `sweep` and `run` name where a row is
    from. Of a chapter, these are the runs that it shows.

    Raises:
        Invalid: no finished run has such a table.
    """
    import pandas as pd

    parts, names = [], set[str]()
    for job, run in _finished(plan):
        names |= {file.stem for file in run.folder.glob("*.parquet")}
        if not run.has(name):
            continue
        rows = pd.read_parquet(run.folder / f"{name}.parquet")
        columns = {"sweep": job.sweep, "run": run.folder.name}
        for setting, value in run.info["settings"].items():
            plain = json.dumps(value) if isinstance(value, list | dict) else value
            columns[f"setting_{setting}" if setting in rows else setting] = plain
        parts.append(rows.assign(**columns))
    if not parts:
        tables = ", ".join(sorted(names)) or "none"
        raise Invalid(f"no finished run has a table {name!r}; there are: {tables}")
    return pd.concat(parts, ignore_index=True)


def tensorboard(plan: Plan, folder: Path) -> int:
    """Curves and scalars of all finished runs as TensorBoard events, a directory a run; how many runs.

    A number of a table with steps becomes a curve for each combination of the words in its rows (a layer, a
    scorer, a set of images), averaged over what is left (units, weights, draws).

    Raises:
        Invalid: TensorBoard is not installed, or the name of a sweep is a path out of the folder.
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
        if folder := plan.result(job):
            shown = [folder.name] if job.experiment else book.runs_shown(folder / f"{job.chapter}.ipynb")
            for run in filter(None, (runs.stored(key, plan.results) for key in shown)):
                yield job, run
