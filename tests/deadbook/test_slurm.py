"""Sweeps on a real SLURM of one node: `.ci/slurm` starts it. Without one, skipped; in CI, failed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from deadbook import runs
from deadbook.sweeps import grids, queues, sweep
from deadbook.sweeps.grids import Plan
from deadunits import Invalid
from waiting import until

pytest.importorskip("submitit", reason="submitit is not installed: make install")
ONE = {"dataset": "digits", "image_size": 0, "layers": ["1"], "activation": "own", "epochs": 1, "lr": 0.1}
ONE |= {"batch_size": 64, "measure_every": 5, "probe_size": 50, "schedule": [], "by": "layer"}
SLOW = {"network": "sweep_nets:slow", "epochs": 2, "measure_every": 20}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A SLURM that answers."""
    known = os.environ.get("SLURM_CONF") or Path("/etc/slurm/slurm.conf").is_file()
    up = known and subprocess.run(["sinfo"], capture_output=True, timeout=30).returncode == 0
    if not up:
        reason = "no SLURM here: export SLURM_CONF=$(.ci/slurm)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan of runs of a network of the tests, by their seeds; its jobs are cancelled afterwards."""
    path = [str(Path(__file__).parents[1] / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    made = []

    def make(*seeds, minutes=5, memory=2, chapter=None, **own):
        settings = {"network": "sweep_nets:quick"} | ONE | own
        one = {"experiment": "weight_pruning", "settings": settings, "lists": {"seed": list(seeds)}}
        if chapter:
            one = {"chapter": chapter, "lists": {"seed": list(seeds)}}
        whole = {"where": "slurm", "slurm": {"minutes": minutes, "memory": memory}, "sweeps": {"a": one}}
        whole["results"] = str(tmp_path / "results")
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(whole))
        made.append(grids.read(tmp_path / "grid.yaml"))
        grids.check(made[-1])
        return made[-1]

    yield make
    for one in made:
        queues.cancel(one)


class Launched(threading.Thread):
    """`sweep.launch` in the background."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(daemon=True)
        self.plan, self.said, self.ended = plan, list[str](), Counter[str]()
        self.start()

    def run(self) -> None:
        """Called by the thread."""
        self.ended = sweep.launch(self.plan, show=self.said.append)

    def end(self) -> Counter[str]:
        """How its jobs ended."""
        self.join(240)
        assert not self.is_alive(), (self.said, queues.queue())
        return self.ended


def running(plan):
    """The process of the first job, when it has begun to train."""
    place = plan.place(plan.jobs[0])
    until(lambda: queues.claimed(place) and "running, " in queues.state(plan.jobs[0], plan))
    (draft,) = plan.results.glob(f".{plan.jobs[0].key}.*")
    return int(draft.name.split(".")[2].partition("@")[0])


def test_what_succeeds_and_what_fails_and_what_is_done_is_not_done_again(plan):
    first = plan(0, 1, network="sweep_nets:failing")
    launched = Launched(first)
    assert launched.end() == {"done": 1, "failed": 1}
    rows = sweep.table(first).set_index("seed")
    assert rows["state"].tolist() == ["done", "failed: ValueError: seed 1 is unlucky"]
    assert "Traceback" in Path(rows["log"][1]).read_text()
    assert launched.said[0] == "submitted 2 jobs"
    kept = runs.runs_in(first.results)[0].folder.stat().st_ino
    again = Launched(plan(0, 1, 2, network="sweep_nets:failing"))  # resumed with one more
    assert again.end() == {"done": 2, "failed": 1}
    assert again.said[0] == "submitted 1 jobs"  # not what is done, nor what failed
    assert kept in [run.folder.stat().st_ino for run in runs.runs_in(first.results)]
    local = runs.execute("weight_pruning", first.jobs[0].settings, first.results.parent / "local")
    there = runs.Run(first.result(first.jobs[0]))
    assert there.table("training").equals(local.table("training"))  # the same numbers as here


def test_a_requeued_job_begins_again_and_is_counted_once(plan):
    one = plan(0, **SLOW)
    launched = Launched(one)
    pid = running(one)
    subprocess.run(["scontrol", "requeue", queues.submitted(one.jobs[0], one)], check=True)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert running(one) != pid
    assert launched.end() == {"done": 1}
    assert launched.said.count("submitted 1 jobs") == 1
    assert len(runs.runs_in(one.results)) == 1


def test_a_chapter_that_is_requeued_begins_again(plan):
    one = plan(3, chapter="03-1-dead-units")
    launched = Launched(one)
    until(lambda: queues.claimed(one.place(one.jobs[0])))
    time.sleep(3)  # its kernel is there
    subprocess.run(["scontrol", "requeue", queues.submitted(one.jobs[0], one)], check=True)
    assert launched.end() == {"done": 1}
    assert launched.said.count("submitted 1 jobs") == 1


def test_a_worker_that_is_killed_is_submitted_again(plan):
    one = plan(0, **SLOW)
    launched = Launched(one)
    os.kill(running(one), signal.SIGKILL)
    assert launched.end() == {"done": 1}
    assert launched.said.count("submitted 1 jobs") == 2
    assert len(runs.runs_in(one.results)) == 1


def test_a_warning_does_not_end_a_job(plan):
    one = plan(0, **SLOW)
    launched = Launched(one)
    os.kill(running(one), signal.SIGUSR2)  # what SLURM sends before it takes a node away, or the time is up
    assert launched.end() == {"done": 1}
    assert launched.said.count("submitted 1 jobs") == 1


def test_cancelled_jobs_stay_cancelled_until_they_are_wanted_again(plan):
    one = plan(0, 1, **SLOW)
    launched = Launched(one)
    running(one)
    assert queues.cancel(one) == 2
    assert launched.end() == {"failed": 2}
    assert set(sweep.table(one)["state"]) == {"failed: it was cancelled in the queue"}
    assert launched.said.count("submitted 2 jobs") == 1
    assert runs.runs_in(one.results) == []


def test_a_job_that_takes_too_long_fails_and_says_so(plan):
    one = plan(0, minutes=1, network="sweep_nets:slow", epochs=200)
    launched = Launched(one)
    assert launched.end() == {"failed": 1}
    assert "it took longer than the 1 minutes that it had" in sweep.table(one)["state"][0]
    assert launched.said.count("submitted 1 jobs") == 1


def test_without_slurm_it_says_what_to_write(plan, monkeypatch):
    one = plan(0)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        with pytest.raises(Invalid, match="there is no SLURM here"):
            sweep.launch(one)
