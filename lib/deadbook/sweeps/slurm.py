"""The jobs of a sweep on SLURM, through submitit (an optional extra): one array, one job a task.

Whether a job is done is told by its result, not by SLURM's accounting, which many clusters do not have.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence

from deadbook import runs
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

    def __call__(self, text: str) -> str:
        self.began = time.monotonic()
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return jobs.execute_packed(text, wait=True)

    def checkpoint(self, text: str) -> object:
        """Called when SLURM warns: the node is taken away, so begin again; or the time is up, so fail."""
        from submitit.helpers import DelayedSubmission

        if time.monotonic() - self.began > self.seconds - _warning(self.seconds) - EARLY:
            raise TimeoutError(f"not done when its {self.seconds / 60:g} minutes were nearly over")
        return DelayedSubmission(self, text)


def _warning(seconds: float) -> float:
    """How long before its end a task is warned."""
    return min(60, seconds / 4)


def launch(wanted: Sequence[Job], plan: Plan, show: Callable[[str], None]) -> None:
    """Submit what is not in the queue already, and watch until all have ended.

    Interrupted, it leaves the jobs in the queue; `cancel` takes them out.

    Raises:
        Invalid: no submitit, or no SLURM.
    """
    try:
        import submitit
    except ImportError as error:
        raise Invalid("SLURM wants submitit: pip install 'deadunits[slurm]'") from error
    queue()  # an error here, if there is no SLURM
    begun, bar, left = Counter[str](), jobs.Bar(len(wanted)), list(wanted)
    try:
        while left:
            known, lost = queue(), list[Job]()
            for job in left:
                last = known.get(submitted(job, plan), "gone")
                if last not in OVER or jobs.state(job, plan) != "waiting":
                    continue
                if why := ENDS.get(last):
                    jobs.give_up(job, plan, why.format(**plan.slurm))
                elif begun[job.key] >= jobs.TRIES:
                    jobs.give_up(job, plan, f"it left the queue without a result {jobs.TRIES} times")
                else:
                    lost.append(job)
            if lost:
                begun.update(job.key for job in lost)
                _submit(submitit, lost, plan)
                show(f"submitted {len(lost)} jobs")
            for job in list(left):
                ended = jobs.state(job, plan)
                if ended.startswith(("done", "failed")):
                    left.remove(job)
                    bar.ended(show, f"{job.sweep} {job.key}: {ended}")
            bar.ahead(sum(runs.progress(plan.results)))
            if left:
                time.sleep(LOOK)
    finally:
        bar.close()


def cancel(plan: Plan) -> int:
    """Take the sweep's jobs out of the queue, running ones too; how many there were."""
    known = queue()
    names = (submitted(job, plan) for job in plan.jobs)
    mine = [name for name in names if known.get(name, "gone") not in OVER]
    if mine:
        subprocess.run(["scancel", *mine], check=True)
    return len(mine)


def submitted(job: Job, plan: Plan) -> str:
    """The name that SLURM gave the job when it was submitted last; "": it was not."""
    file = plan.place(job) / "slurm"
    return file.read_text("utf8").strip() if file.is_file() else ""


def queue() -> dict[str, str]:
    """The state of each job that SLURM knows, also of those that ended a short while ago, by its name.

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


def _submit(submitit: object, wanted: Sequence[Job], plan: Plan) -> None:
    chosen = plan.slurm
    folder = plan.results / "jobs/slurm"
    seconds = 60 * chosen["minutes"]
    # what is a timeout, and what is done about it, is for `Task.checkpoint` to say
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=1_000_000)
    more = dict(chosen.get("more", {}))
    if "partition" in chosen:
        executor.update_parameters(slurm_partition=chosen["partition"])
    if chosen["gpus"]:
        executor.update_parameters(gpus_per_node=chosen["gpus"])
    executor.update_parameters(
        name="deadunits",
        timeout_min=chosen["minutes"],
        mem_gb=chosen["memory"],
        cpus_per_task=1,
        slurm_array_parallelism=chosen["at_once"],
        slurm_signal_delay_s=int(_warning(seconds)),
        stderr_to_stdout=True,  # one log
        slurm_additional_parameters=more,
    )
    for job in wanted:
        plan.place(job).mkdir(parents=True, exist_ok=True)
    found = executor.map_array(Task(seconds), [jobs.packed(job, plan) for job in wanted])
    for job, one in zip(wanted, found, strict=True):
        (plan.place(job) / "slurm").write_text(one.job_id, "utf8")
        log = plan.place(job) / "log"
        log.unlink(missing_ok=True)
        log.symlink_to(one.paths.stdout.resolve())
