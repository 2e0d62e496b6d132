"""All results of the book: what is missing or stale, and why; and how to bring them up to date."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable

from deadunits import book, grids, plans, runs, settings, sweep
from deadunits.grids import Job, Plan


def plan(seeds: int | None = None, profile: str = book.PUBLISHED, data_root: str = "", **how: int) -> Plan:
    """The runs of all chapters, each once.

    Args:
        seeds: of every chapter; None: as many as the profile says.
        how: `processes` at once.

    Raises:
        Invalid: a wrong number, or missing images.
    """
    settings.check(how | ({} if seeds is None else {"seeds": seeds}), ["processes", "seeds"])
    jobs: dict[str, Job] = {}
    for chapter, wanted in plans.PLANS.items():
        own = {"data_root": data_root} | ({} if seeds is None else {"seeds": seeds})
        for experiment, one in wanted(book.chosen(chapter, profile, own)):
            job = Job(chapter, experiment, "", "", one)
            jobs.setdefault(job.key, job)
    where = {"where": "local", "slurm": {}, "effective": {}}
    return Plan(
        list(jobs.values()), runs.top() / "results", data_root, processes=how.get("processes", 0), **where
    )


def wrong(every: Plan) -> list[tuple[Job, str]]:
    """What is missing or stale, and why."""
    found = []
    for job in every.jobs:
        folder = every.found(job)
        if folder is None:
            spoilt = runs.Run(every.results / job.key)
            found.append((job, spoilt.state() if spoilt.folder.is_dir() else "missing"))
        elif (state := runs.Run(folder).state()).startswith("stale"):
            found.append((job, state))
    return found


def describe(every: Plan) -> str:
    """What is missing or stale, a line each, and how long it may take to mend."""
    lines = []
    for job, why in wrong(every):
        own = job.settings
        told = [
            f"{name} {own[name]}" for name in ("activation", "layer", "unit", "start", "seed") if name in own
        ]
        lines.append(f"{job.sweep}: {job.experiment} {job.key}, {', '.join(told)}: {why}")
    stale = sum("stale" in line.rpartition(": ")[2] for line in lines)
    said = f"{len(every.jobs)} runs; {len(lines) - stale} missing, {stale} stale"
    return "\n".join([*lines, said, sweep.forecast(every)])


def update(every: Plan, show: Callable[[str], None] = print) -> bool:
    """Replay what is stale, compute what is missing or no longer holds; whether all is well then.

    A run that does not hold is set aside in `results/stale`, and computed anew. Experiments that
    measure time come last, one at a time. Interrupted, what is finished is kept.

    Raises:
        Invalid: missing images, or no place for results; before anything is started.
    """
    grids.check(every)
    for job, why in wrong(every):
        if not why.startswith("stale"):
            continue
        run = runs.Run(every.found(job) or every.results / job.key)
        if run.has_steps:
            show(f"{job.key}: replayed, difference {runs.record_replay(run, every.data_root):.1g}")
        if run.state().startswith("stale"):
            aside = every.results / "stale" / job.key
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(run.folder, aside)
    timed = [job for job in every.jobs if job.experiment in plans.TIMED]
    others = [job for job in every.jobs if job not in timed]
    for some, processes in ((others, every.processes), (timed, 1)):
        sweep.launch(dataclasses.replace(every, jobs=some, processes=processes), retry=True, show=show)
    return not wrong(every)
