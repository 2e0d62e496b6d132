"""Jobs of a sweep in processes of this machine, or on SLURM through submitit (an optional extra).

The process that does a job holds the lock of its file `claim` (filelock), which the system releases when the
process ends, however it ends; there is no lease timeout. The file system must have locks; NFS has. A job is
done when its result is there: SLURM's accounting, which many clusters lack, is not needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from deadbook import pool, runs
from deadbook.build import book
from deadbook.sweeps.grids import Job, Plan
from deadunits import Invalid

TRIES = 3  # starts of a job whose process was killed each time
LOOK = 2.0  # seconds between two looks at SLURM's queue
ENDS = {  # why a job that left the queue without a result is not submitted again
    "CANCELLED": "it was cancelled in the queue",
    "TIMEOUT": "it took longer than the {minutes} minutes that it had",
    "OUT_OF_MEMORY": "it took more than the {memory} GB that it had",
}
OVER = ("gone", "COMPLETED", "FAILED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", *ENDS)


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
            state = "done" if plan.result(job) else _do(job, plan)
            (place / "claim").unlink(missing_ok=True)
            return state
    except Timeout:
        return "taken"


def claimed(place: Path) -> bool:
    """Whether a process does the job of that folder; the file of one that has ended is removed."""
    if not (place / "claim").exists():
        return False
    with contextlib.suppress(Timeout), FileLock(place / "claim", timeout=0):
        (place / "claim").unlink(missing_ok=True)
        return False
    return True


def _do(job: Job, plan: Plan) -> str:
    (plan.place(job) / "error").unlink(missing_ok=True)
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
    try:
        book.execute(job.chapter, job.profile, plan.parameters(job), folder=draft)
        (draft / "settings.json").write_text(json.dumps(job.settings, indent=1) + "\n", "utf8")
        draft.rename(folder / job.key)
    finally:
        for failed in draft.glob("*.failed.ipynb"):
            failed.replace(plan.place(job) / failed.name)
        shutil.rmtree(draft, ignore_errors=True)


def state(job: Job, plan: Plan) -> str:
    """`done`, `running`, `failed: why`, or `waiting`."""
    place = plan.place(job)
    running = claimed(place)  # first: a job that ends in between is done, not waiting
    if plan.result(job) is not None:
        return "done"
    if running:
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


class LocalQueue(pool.Pool):
    """Processes of this machine that do the jobs of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.processes or os.cpu_count() or 1)
        self.plan, self.errors = dataclasses.replace(plan, jobs=[]), dict[str, str]()

    def begin(self, jobs: Sequence[Job]) -> str:
        """Do these jobs, each as soon as a process is free; what it prints is its log."""
        for job in jobs:
            place = self.plan.place(job)
            place.mkdir(parents=True, exist_ok=True)
            self.submit(job.key, execute, job, self.plan, log=place / "log")
        return ""

    def look(self) -> None:
        """Wait a moment, and notice the jobs that ended."""
        self.errors |= self.ended()

    def has(self, job: Job) -> bool:
        """Whether it waits or runs in this pool."""
        return job.key in self.pending

    def error(self, job: Job, starts: int) -> str:
        """Why a job that was started that often, and is not done, failed; "": it is started again."""
        return f"{self.errors[job.key]}, {starts} times" if starts >= TRIES else ""


class SlurmQueue(contextlib.AbstractContextManager):
    """SLURM's queue, in which the jobs of a plan stay if the launcher is interrupted; `cancel` removes them.

    Raises:
        Invalid: no submitit, or no SLURM.
    """

    def __init__(self, plan: Plan) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise Invalid("SLURM needs submitit: pip install 'deadunits[slurm]'")
        self.plan, self.known = dataclasses.replace(plan, jobs=[]), queue()

    def __exit__(self, *_: object) -> None:
        """Called at the end of a `with` block: the jobs stay."""

    def look(self) -> None:
        """Wait a moment, and ask SLURM."""
        time.sleep(LOOK)
        self.known = queue()

    def has(self, job: Job) -> bool:
        """Whether it is waiting or running."""
        return self.known.get(submitted(job, self.plan), "gone") not in OVER

    def error(self, job: Job, starts: int) -> str:
        """Why a job that was started that often, and is not done, failed; "": it is started again."""
        lost = f"it left the queue without a result {starts} times" if starts >= TRIES else ""
        return ENDS.get(self.known.get(submitted(job, self.plan)), lost).format(**vars(self.plan.slurm))

    def begin(self, jobs: Sequence[Job]) -> str:
        """Submit these jobs as one array."""
        import submitit

        resources = self.plan.slurm
        executor = submitit.AutoExecutor(folder=self.plan.results / "jobs/slurm", cluster="slurm")
        optional = {"slurm_partition": resources.partition, "gpus_per_node": resources.gpus}
        executor.update_parameters(
            **{name: value for name, value in optional.items() if value},
            name="deadunits",
            timeout_min=resources.minutes,
            mem_gb=resources.memory,
            cpus_per_task=1,
            slurm_array_parallelism=resources.at_once,
            slurm_signal_delay_s=1,  # `task` ignores the warning, which must not come before it
            stderr_to_stdout=True,  # one log
            slurm_additional_parameters=dict(resources.more),
        )
        tasks = executor.map_array(task, jobs, [self.plan] * len(jobs))
        for job, submission in zip(jobs, tasks, strict=True):
            place = self.plan.place(job)
            place.mkdir(parents=True, exist_ok=True)
            (place / "slurm").write_text(submission.job_id, "utf8")
            (place / "log").unlink(missing_ok=True)
            (place / "log").symlink_to(submission.paths.stdout.resolve())
        return f"submitted {len(jobs)} jobs"


def task(job: Job, plan: Plan) -> str:
    """What a task of the array does; SLURM begins it again if it takes the node away."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a warning, at which submitit, and kernels, would end
    pool.end_on_sigterm()
    os.environ |= pool.ONE_THREAD
    return execute(job, plan, wait=True)


def cancel(plan: Plan) -> int:
    """Take the sweep's jobs out of SLURM's queue, running ones too; how many there were."""
    known = queue()
    names = [submitted(job, plan) for job in plan.jobs]
    names = [name for name in names if known.get(name, "gone") not in OVER]
    if names:
        subprocess.run(["scancel", *names], check=True)
    return len(names)


def submitted(job: Job, plan: Plan) -> str:
    """SLURM's id of the job, when it was submitted last; "": it was not."""
    file = plan.place(job) / "slurm"
    return file.read_text("utf8").strip() if file.is_file() else ""


def queue() -> dict[str, str]:
    """The state of each job that SLURM knows, also of those that ended a short while ago, by its id.

    Raises:
        Invalid: there is no SLURM here.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T"]
    try:
        squeue = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise Invalid("there is no SLURM here (squeue); write `where: local`") from error
    if squeue.returncode:
        raise Invalid(f"squeue failed: {squeue.stderr.strip()}")
    return dict(line.split() for line in squeue.stdout.splitlines())
