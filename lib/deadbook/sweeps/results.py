"""The runs of all chapters: which are missing, and how to compute them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from deadbook import runs, settings
from deadbook.build import book
from deadbook.chapters import plans
from deadbook.sweeps import grids, sweep
from deadbook.sweeps.grids import Job, Plan


def plan(
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
    jobs: dict[str, Job] = {}
    root = {"data_root": data_root}
    overrides = root | ({} if seeds is None else {"seeds": seeds})
    parameters = {chapter: book.chosen(chapter, profile, overrides) for chapter in plans.PLANS}
    parameters[plans.OPEN] = book.chosen(plans.OPEN, profile, root)
    for chapter, experiment, run in plans.every(parameters):
        job = Job(chapter, experiment, "", "", run)
        jobs.setdefault(job.key, job)
    return Plan(list(jobs.values()), runs.top() / "results", data_root, "local", processes)


def missing(every: Plan) -> list[Job]:
    """The runs that are not there yet."""
    return [job for job in every.jobs if every.result(job) is None]


def describe(every: Plan) -> str:
    """What is missing, a line each, and an estimate of the time to compute it."""
    lines, names = [], ("activation", "layer", "unit", "start", "seed")
    for job in missing(every):
        shown = ", ".join(f"{name} {job.settings[name]}" for name in names if name in job.settings)
        lines.append(f"{job.sweep}: {job.experiment} {job.key}, {shown}: missing")
    return "\n".join([*lines, f"{len(every.jobs)} runs; {len(lines)} missing", sweep.forecast(every)])


def update(every: Plan, show: Callable[[str], None] = print) -> bool:
    """Compute what is missing; whether nothing is missing then.

    Experiments that measure time come last, one at a time. What is finished stays if it is interrupted.

    Raises:
        Invalid: missing images, or no place for results; before anything is started.
    """
    grids.check(every)
    timed = [job for job in every.jobs if job.experiment in plans.TIMED]
    others = [job for job in every.jobs if job not in timed]
    for jobs, processes in ((others, every.processes), (timed, 1)):
        sweep.launch(dataclasses.replace(every, jobs=jobs, processes=processes), retry=True, show=show)
    return not missing(every)
