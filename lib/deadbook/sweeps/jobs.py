"""One job of a sweep, on whichever machine: done once, locked meanwhile, its error stored if it fails.

The process that does a job holds the lock of its file `claim` (filelock), which the system releases when the
process ends, however it ends; there is no lease timeout. The file system must have locks; NFS has.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

from deadbook import pool, runs
from deadbook.build import book
from deadbook.sweeps.grids import Job, Plan

TRIES = 3  # starts of a job whose process was killed each time


def execute(job: Job, plan: Plan, wait: bool = False) -> str:
    """Do one job in this process: `done`, `failed` (the error is stored), or `taken` by another process.

    Args:
        wait: for that other process, and do it if that dies.
    """
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job}", flush=True)
    place = plan.place(job)
    place.mkdir(parents=True, exist_ok=True)
    try:  # `claimed` may hold it for a moment
        with FileLock(place / "claim", timeout=-1 if wait else 2, poll_interval=0.1):
            ended = "done" if plan.result(job) else _do(job, plan, place)
            (place / "claim").unlink(missing_ok=True)
            return ended
    except Timeout:
        return "taken"


def claimed(place: Path) -> bool:
    """Whether a process does the job of that folder; the file of one that has ended is removed."""
    claim = place / "claim"
    if not claim.exists():
        return False
    try:
        with FileLock(claim, timeout=0):
            claim.unlink(missing_ok=True)
    except Timeout:
        return True
    return False


def _do(job: Job, plan: Plan, place: Path) -> str:
    (place / "error").unlink(missing_ok=True)
    for draft in plan.results.glob(f".{job.key}*.*"):  # of processes that have ended: this one has the lock
        shutil.rmtree(draft, ignore_errors=True)
    try:
        if job.experiment:
            runs.execute(job.experiment, job.settings, plan.results, plan.data_root)
        else:
            _execute_chapter(job, plan)
    except Exception as error:
        traceback.print_exc()
        keep_error(job, plan, pool.last_line(error))
        return "failed"
    return "done"


def _execute_chapter(job: Job, plan: Plan) -> None:
    folder = plan.results / "chapters"
    draft = folder / f".{job.key}.{runs.here()}"
    draft.mkdir(parents=True)
    options = {"kernel_manager_class": _patient_kernels()} if "SLURM_JOB_ID" in os.environ else {}
    try:
        book.execute(job.chapter, job.profile, plan.parameters(job), folder=draft, **options)
        (draft / "settings.json").write_text(json.dumps(job.settings, indent=1) + "\n", "utf8")
        draft.rename(folder / job.key)
    finally:
        for failed in draft.glob("*.failed.ipynb"):
            failed.replace(plan.place(job) / failed.name)
        shutil.rmtree(draft, ignore_errors=True)


def _patient_kernels() -> type:
    """Kernels that ignore SLURM's signals, which every process gets: their parent handles them."""
    from jupyter_client import AsyncKernelManager

    class Patient(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            command = super().format_kernel_cmd(extra_arguments)
            return ["env", "--ignore-signal=TERM", "--ignore-signal=USR2", *command]

    return Patient


def state(job: Job, plan: Plan) -> str:
    """`done`, `running`, `failed: why`, or `waiting`."""
    place = plan.place(job)
    if plan.result(job) is not None:
        return "done"
    if claimed(place):
        share = runs.progress(plan.results, job.key)
        return "running" + (f", {max(share):.0%}" if share else "")
    if (place / "error").is_file():
        error = (place / "error").read_text("utf8").strip()
        return f"failed: {error or 'unknown, because the disk was full'}"
    return "waiting"


def keep_error(job: Job, plan: Plan, why: str) -> str:
    """Store the job's error, and return its state; on a full disk it is tried again the next time."""
    with contextlib.suppress(OSError):
        (plan.place(job) / "error").write_text(why + "\n", "utf8")
    return f"failed: {why}"
