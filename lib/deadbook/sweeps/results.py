"""All results of the book: what is missing, and how to compute it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from deadbook import runs, settings
from deadbook.build import book
from deadbook.chapters import plans
from deadbook.sweeps import grids, sweep
from deadbook.sweeps.grids import Job, Plan


def plan(seeds: int | None = None, profile: str = book.PUBLISHED, data_root: str = "", **how: int) -> Plan:
    """The runs of all chapters, each once.

    Args:
        seeds: of every chapter; None: as many as the profile says.
        how: `processes` at once.

    Raises:
        Invalid: a wrong number, or missing images.
    """
    settings.check(settings.Command, how | ({} if seeds is None else {"seeds": seeds}))
    jobs: dict[str, Job] = {}
    own = {"data_root": data_root} | ({} if seeds is None else {"seeds": seeds})
    parameters = {chapter: book.chosen(chapter, profile, own) for chapter in plans.PLANS}
    for chapter, experiment, run in plans.every(parameters):
        job = Job(chapter, experiment, "", "", run)
        jobs.setdefault(job.key, job)
    folder, processes = runs.top() / "results", how.get("processes", 0)
    return Plan(list(jobs.values()), folder, data_root, "local", processes, slurm={}, effective={})


def missing(every: Plan) -> list[Job]:
    """The runs that are not there yet."""
    return [job for job in every.jobs if every.found(job) is None]


def describe(every: Plan) -> str:
    """What is missing, a line each, and how long it may take to compute."""
    lines = []
    for job in missing(every):
        own = job.settings
        told = [
            f"{name} {own[name]}" for name in ("activation", "layer", "unit", "start", "seed") if name in own
        ]
        lines.append(f"{job.sweep}: {job.experiment} {job.key}, {', '.join(told)}: missing")
    return "\n".join([*lines, f"{len(every.jobs)} runs; {len(lines)} missing", sweep.forecast(every)])


def update(every: Plan, show: Callable[[str], None] = print) -> bool:
    """Compute what is missing; whether all is there then.

    Experiments that measure time come last, one at a time. Interrupted, what is finished is kept.

    Raises:
        Invalid: missing images, or no place for results; before anything is started.
    """
    grids.check(every)
    timed = [job for job in every.jobs if job.experiment in plans.TIMED]
    others = [job for job in every.jobs if job not in timed]
    for some, processes in ((others, every.processes), (timed, 1)):
        sweep.launch(dataclasses.replace(every, jobs=some, processes=processes), retry=True, show=show)
    return not missing(every)
