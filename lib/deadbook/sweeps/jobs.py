"""One job of a sweep, on whichever machine: done once, claimed meanwhile, its error kept if it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from deadbook import runs
from deadbook.build import book
from deadbook.sweeps import claimed
from deadbook.sweeps.grids import Job, Plan

TRIES = 3  # how often a job is begun whose process was killed


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
        book.execute(job.chapter, job.profile, plan.parameters(job), folder=draft, **more)
        (draft / "settings.json").write_text(json.dumps(job.settings, indent=1) + "\n", "utf8")
        draft.rename(folder / job.key)
    finally:
        if draft.exists():
            failed = next(draft.glob("*.failed.ipynb"), None)
            if failed:
                failed.replace(plan.place(job) / failed.name)
            shutil.rmtree(draft, ignore_errors=True)


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


def start(job: Job, plan: Plan) -> subprocess.Popen:
    """A process that does this job; what it prints is the job's log."""
    place = plan.place(job)
    place.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with (place / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deadbook", "job", packed(job, plan)],
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
