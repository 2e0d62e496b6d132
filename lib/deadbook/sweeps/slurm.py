"""The jobs of a sweep on SLURM, through submitit (an optional extra): one array, one job a task.

A job is done when its result is there. SLURM's accounting, which many clusters lack, is not needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import subprocess
import time
from collections.abc import Callable, Sequence

from deadbook import pool
from deadbook.sweeps import jobs
from deadbook.sweeps.grids import Job, Plan
from deadunits import Invalid

LOOK = 2.0  # seconds between two looks at the queue
EARLY = 60  # seconds by which SLURM's warning may come early, as sbatch's manual has it
ENDS = {  # why a job that left the queue without a result is not submitted again
    "CANCELLED": "it was cancelled in the queue",
    "TIMEOUT": "it took longer than the {minutes} minutes that it had",
    "OUT_OF_MEMORY": "it took more than the {memory} GB that it had",
}
OVER = ("gone", "COMPLETED", "FAILED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", *ENDS)


class Task:
    """What a task of the array does; preempted or requeued, it begins again.

    Args:
        seconds: that it may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.began = seconds, 0.0

    def __call__(self, job: Job, plan: Plan) -> str:
        self.began = time.monotonic()
        os.environ |= pool.ONE_THREAD
        return jobs.execute(job, plan, wait=True)

    def checkpoint(self, job: Job, plan: Plan) -> object:
        """Called when SLURM warns: the node is taken away, so begin again; or the time is up, so fail."""
        from submitit.helpers import DelayedSubmission

        if time.monotonic() - self.began > self.seconds - _warning(self.seconds) - EARLY:
            raise TimeoutError(f"not done when its {self.seconds / 60:g} minutes were nearly over")
        return DelayedSubmission(self, job, plan)


def _warning(seconds: float) -> float:
    """How long before its end a task is warned."""
    return min(60, seconds / 4)


class Queue(contextlib.AbstractContextManager):
    """SLURM's queue, in which the jobs of a plan stay if the launcher is interrupted; `cancel` removes them.

    Raises:
        Invalid: no submitit, or no SLURM.
    """

    def __init__(self, plan: Plan) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise Invalid("SLURM needs submitit: pip install 'deadunits[slurm]'")
        self.plan, self.known = plan, queue()

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
        lost = f"it left the queue without a result {starts} times" if starts >= jobs.TRIES else ""
        return ENDS.get(self.known.get(submitted(job, self.plan)), lost).format(**vars(self.plan.slurm))

    def begin(self, waiting: Sequence[Job], show: Callable[[str], None]) -> None:
        """Submit these jobs as one array."""
        import submitit

        chosen, folder = self.plan.slurm, self.plan.results / "jobs/slurm"
        seconds = 60 * chosen.minutes
        # `Task.checkpoint` decides what a timeout is
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=1_000_000)
        optional = {"slurm_partition": chosen.partition, "gpus_per_node": chosen.gpus}
        executor.update_parameters(
            **{name: value for name, value in optional.items() if value},
            name="deadunits",
            timeout_min=chosen.minutes,
            mem_gb=chosen.memory,
            cpus_per_task=1,
            slurm_array_parallelism=chosen.at_once,
            slurm_signal_delay_s=int(_warning(seconds)),
            stderr_to_stdout=True,  # one log
            slurm_additional_parameters=dict(chosen.more),
        )
        plan = dataclasses.replace(self.plan, jobs=[])
        for job, task in zip(
            waiting, executor.map_array(Task(seconds), waiting, [plan] * len(waiting)), strict=True
        ):
            place = plan.place(job)
            place.mkdir(parents=True, exist_ok=True)
            (place / "slurm").write_text(task.job_id, "utf8")
            (place / "log").unlink(missing_ok=True)
            (place / "log").symlink_to(task.paths.stdout.resolve())
        show(f"submitted {len(waiting)} jobs")


def cancel(plan: Plan) -> int:
    """Take the sweep's jobs out of the queue, running ones too; how many there were."""
    known = queue()
    names = (submitted(job, plan) for job in plan.jobs)
    left = [name for name in names if known.get(name, "gone") not in OVER]
    if left:
        subprocess.run(["scancel", *left], check=True)
    return len(left)


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
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise Invalid("there is no SLURM here (squeue); write `where: local`") from error
    if done.returncode:
        raise Invalid(f"squeue failed: {done.stderr.strip()}")
    return dict(line.split() for line in done.stdout.splitlines())
