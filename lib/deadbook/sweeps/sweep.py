"""Grids of runs and of chapters, done here or, with `where: slurm`, on SLURM; and what came out."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from deadbook import pool, runs, settings
from deadbook.build import book
from deadbook.chapters import plans
from deadbook.sweeps import grids, queues
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
    left = [job for job in plan.jobs if not queues.state(job, plan).startswith(("done", "failed"))]
    total, starts = len(left), Counter[str]()
    kind = queues.SlurmQueue if plan.where == "slurm" else queues.LocalQueue
    with kind(plan) as queue, pool.Bar(total, "jobs") as bar:
        while left:
            queue.look()
            waiting = []
            for job in [job for job in left if not queue.has(job)]:
                state = queues.state(job, plan)  # `running`: by another launcher
                if state == "waiting" and (error := queue.error(job, starts[job.key])):
                    state = queues.keep_error(job, plan, error)
                if state == "waiting":
                    waiting.append(job)
                elif not state.startswith("running"):
                    left.remove(job)
                    bar.clear()
                    show(f"[{total - len(left)}/{total}] {job.sweep} {job.key}: {state}")
            starts.update(job.key for job in waiting)
            if waiting and (submitted := queue.begin(waiting)):
                show(submitted)
            bar.show(total - len(left), sum(runs.progress(plan.results)))
    return Counter(re.match(r"\w+", queues.state(job, plan))[0] for job in plan.jobs)


def all_chapters(
    seeds: int | None = None, profile: str = book.PUBLISHED, data_root: str = "", processes: int = 0
) -> Plan:
    """The runs of all chapters, each once.

    Args:
        seeds: of every chapter; None: as many as the profile says.
        processes: runs at once; 0: one a core.

    Raises:
        Invalid: a wrong number, or missing images.
    """
    settings.check(settings.Command, {"processes": processes, "seeds": 1 if seeds is None else seeds})
    root = {"data_root": data_root}
    overrides = root | ({} if seeds is None else {"seeds": seeds})
    parameters = {chapter: book.chosen(chapter, profile, overrides) for chapter in plans.PLANS}
    parameters[plans.OPEN] = book.chosen(plans.OPEN, profile, root)
    jobs = [Job(chapter, experiment, "", "", run) for chapter, experiment, run in plans.every(parameters)]
    first = {job.key: job for job in reversed(jobs)}  # several chapters want the same runs
    jobs = [job for job in jobs if first[job.key] is job]
    return Plan(jobs, runs.project_root() / "results", data_root, "local", processes)


def launch_chapters(plan: Plan, show: Callable[[str], None] = print) -> bool:
    """Compute what is missing of `all_chapters`; whether nothing is missing then.

    Experiments that measure time come last, one at a time. What is finished stays if it is interrupted.

    Raises:
        Invalid: missing images, or no place for results; before anything is started.
    """
    grids.check(plan)
    timed = [job for job in plan.jobs if job.experiment in plans.TIMED]
    others = [job for job in plan.jobs if job not in timed]
    for jobs, processes in ((others, plan.processes), (timed, 1)):
        launch(dataclasses.replace(plan, jobs=jobs, processes=processes), retry=True, show=show)
    return not plan.missing()


def table(plan: Plan) -> pd.DataFrame:
    """A row a job: sweep, key, the settings that differ, state, minutes, log."""
    import pandas as pd

    values: dict[str, set[str]] = {}
    for name, value in (pair for job in plan.jobs for pair in job.settings.items()):
        values.setdefault(name, set()).add(str(value))
    rows = []
    for job in plan.jobs:
        folder, log = plan.result(job), plan.place(job) / "log"
        minutes = round(runs.Run(folder).info["seconds"] / 60, 1) if folder and job.experiment else ""
        rows.append(
            {"sweep": job.sweep, "key": job.key}
            | {name: job.settings.get(name, "") for name in values if len(values[name]) > 1}
            | {"state": queues.state(job, plan), "minutes": minutes, "log": str(log) if log.exists() else ""}
        )
    return pd.DataFrame(rows)


def estimate(job: Job, known: Sequence[runs.Run]) -> float | None:
    """Seconds of a run, by its number of steps, from the most similar one that was done; None: unknown."""
    steps, infos = settings.training_steps, [run.info for run in known]
    infos = [info for info in infos if info["experiment"] == job.experiment and steps(info["settings"])]
    infos = [info for info in infos if info["settings"]["dataset"] == job.settings["dataset"]]
    alike = [sum(info["settings"].get(name) == job.settings[name] for name in job.settings) for info in infos]
    if not infos:
        return None
    best = infos[alike.index(max(alike))]
    return best["seconds"] * steps(job.settings) / steps(best["settings"])


def forecast(plan: Plan) -> str:
    """How many jobs there are, and an estimate of the time of those that are not done."""
    known = runs.runs_in(runs.project_root() / runs.PUBLISHED) + runs.runs_in(plan.results)
    guesses = [estimate(job, known) for job in plan.missing()]
    seconds, unknown = sum(filter(None, guesses)), guesses.count(None)
    text = f"{len(plan.jobs)} jobs, {len(plan.jobs) - len(guesses)} of them done"
    text += f"; the others take about {seconds / 60:.0f} minutes of one core" if seconds else ""
    return text + (f"; of {unknown} the time is not known" if unknown else "")


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
        if run.has(name):
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
        Invalid: TensorBoard is not installed.
    """
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
    rows = rows if "step" in rows else rows.assign(step=0)
    words = [name for name in rows if not pd.api.types.is_numeric_dtype(rows[name])]
    numbers = [name for name in rows if name not in (*words, "step", "epoch", "unit", "weight")]
    for names, group in rows.groupby(["step", *words], sort=False):
        for name, value in group[numbers].astype(float).mean().items():
            if math.isfinite(value):
                yield "/".join((file.stem, *map(str, names[1:]), name)), int(names[0]), value


def _finished(plan: Plan) -> Iterator[tuple[Job, runs.Run]]:
    for job in plan.jobs:
        if folder := plan.result(job):
            shown = [folder.name] if job.experiment else book.runs_shown(folder / f"{job.chapter}.ipynb")
            for run in filter(None, (runs.stored(key, plan.results) for key in shown)):
                yield job, run
