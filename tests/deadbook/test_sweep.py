"""Sweeps: what may stand in a file, and that no job is lost, done twice or stopped by another's failure."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

import sweep_calls
from deadbook import runs
from deadbook.__main__ import main
from deadbook.sweeps import grids, queues, sweep
from deadunits import Invalid

ONE = {"dataset": "digits", "image_size": 0, "network": "small_cnn", "layers": ["fc2"]}
ONE |= {"activation": "relu", "epochs": 1, "lr": 0.1, "batch_size": 64, "measure_every": 20}
ONE |= {"probe_size": 50, "schedule": [], "by": "layer"}
QUICK = {"network": "sweep_nets:quick", "layers": ["1"], "activation": "own", "measure_every": 5}


@pytest.fixture
def fake(monkeypatch):
    """Jobs take no time: what is tested is who does them. Other processes find the module, too."""
    path = [str(Path(__file__).parents[1] / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setattr(queues, "execute", sweep_calls.execute)
    return monkeypatch


@pytest.fixture
def write(tmp_path):
    """A file with one sweep, `a`, of `weight_pruning`."""

    def file(lists, name="grid.yaml", top=(), **own):
        one = {name: value for name, value in (ONE | own).items() if name not in lists}
        whole = {"results": str(tmp_path / "results")} | dict(top)
        whole |= {"sweeps": {"a": {"experiment": "weight_pruning", "settings": one, "lists": lists}}}
        (tmp_path / name).write_text(yaml.safe_dump(whole))
        return tmp_path / name

    return file


def seeds(plan):
    return [job.settings["seed"] for job in plan.jobs]


def start(file, **how):
    code = "import sweep_calls; sweep_calls.main()"
    command = [sys.executable, "-c", code, "sweep", str(file), "--processes", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, **how)


def test_a_file_is_the_cross_product_of_its_lists(write):
    plan = grids.read(write({"seed": {"range": [2, 8, 3]}, "lr": {"linspace": [0.1, 0.3, 3]}}))
    pairs = [(job.settings["seed"], round(job.settings["lr"], 9)) for job in plan.jobs]
    assert sorted(pairs) == [(seed, lr) for seed in (2, 5) for lr in (0.1, 0.2, 0.3)]
    plan = grids.read(write({"lr": {"logspace": [-2, -1, 2]}, "seed": [0]}))
    assert [job.settings["lr"] for job in plan.jobs] == [0.01, 0.1]
    assert len({job.key for job in plan.jobs}) == 2
    assert grids.read(write({"seed": {"range": 3}})).jobs[2].key == runs.key(
        "weight_pruning", ONE | {"seed": 2}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lists": {"sed": [1]}}, "unknown parameter 'sed' (did you mean seed?)"),
        ({"lists": {"seed": [0.5]}}, "seed = 0.5 must be an integer"),
        ({"lists": {"seed": [0, 0]}}, "1 jobs are there twice"),
        ({"lists": {"seed": "+range(5)"}}, "seed = '+range(5)' must be a list"),
        ({"lists": {"seed": {"range": 10**12}}}, "has more than 10,000 values"),
        ({"lists": {"seed": {"linspace": [0, 1]}}}, "must be a list of values"),
        ({"lists": {"seed": {"range": 200}, "lr": {"linspace": [0.1, 1, 200]}}}, "more than 10,000 jobs"),
        ({"lists": {}}, "missing: seed"),
        ({"settings": [1]}, "a: settings = [1] must be a mapping"),
        ({"experiment": "weight_prunning"}, "did you mean weight_pruning?"),
        ({"chapter": "01-background"}, "must name an experiment or a chapter"),
        ({"experiment": 5}, "experiment = 5 must be the name of an experiment"),
        (
            {"lists": {"lr": {"logspace": [0, 1000, 3]}, "seed": [0]}},
            "lr = {'logspace': [0, 1000, 3]} must be a list",
        ),
        ({"lists": {"seed": [0], "lr": [10**400]}}, "(401 characters) must be a number above 0"),
        (
            {"lists": {"seed": [0.5], "lr": [-1]}},
            "seed = 0.5 must be an integer from 0 to 2,147,483,647\ngrid.yaml, a: lr = -1 must",
        ),
        ({"experimant": "x"}, "unknown name 'experimant' (did you mean experiment?)"),
    ],
)
def test_a_wrong_file_says_what_would_be_right(write, change, message):
    file = write({"seed": [0]})
    whole = yaml.safe_load(file.read_text())
    whole["sweeps"]["a"] |= change
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(Invalid) as error:
        grids.read(file)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweeps: {a: !!python/object/apply:os.system [touch broken]}", "is no YAML"),
        ("[1, 2", "is no YAML"),
        ("- 1", "must be a mapping"),
        ("where: slurm", "missing: sweeps"),
        ("where: cloud\nsweeps: {a: 1}", "where = 'cloud' must be one of local, slurm"),
        ("on: local\nsweeps: {a: 1}", "unknown name 'True'"),  # YAML's idea of `on`
        ("slurm: {minutes: 0}\nsweeps: {a: 1}", "minutes = 0 must be an integer from 1 to"),
        ("sweeps: {../../x: {chapter: 03-1-dead-units}}", "the name of a sweep must be of letters"),
        ("where: local\nwhere: local", "where is there twice"),
        ("a: &a [1]\nb: [*a, *a]", r"aliases \(\*a\) are not read"),
        ("processes: " + 5000 * "9", "is no YAML"),
        ("sweeps: {a: 1}", "must name an experiment or a chapter"),
    ],
)
def test_a_file_cannot_run_code_or_be_half_right(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    with pytest.raises(Invalid, match=message):
        grids.read(Path("bad.yaml"))
    assert not Path("broken").exists()
    Path("bad.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(Invalid, match="is no YAML"):
        grids.read(Path("bad.yaml"))
    with pytest.raises(Invalid, match="cannot read"):
        grids.read(Path("none.yaml"))


def test_the_command_line_wins_and_what_is_done_is_kept_beside_the_results(write, tmp_path):
    file = write({"seed": {"range": 3}, "lr": [0.1, 0.2]})
    plan = grids.read(file, {"lr": 0.3, "epochs": 2}, processes=1)
    assert [(job.settings["lr"], job.settings["epochs"]) for job in plan.jobs] == [(0.3, 2)] * 3
    assert plan.processes == 1
    grids.check(plan)
    kept = grids.keep_configuration(plan, "grid")
    assert kept.parent == tmp_path / "results"
    again = grids.read(kept)
    assert again.jobs == plan.jobs
    with pytest.raises(Invalid, match=r"no sweep of grid\.yaml has a setting scorer"):
        grids.read(file, {"scorer": "mrs"})


def test_a_dry_run_shows_the_jobs_and_starts_nothing_nor_torch(write, tmp_path):
    code = "import sys; from deadbook.__main__ import main; main(sys.argv[1:]);"
    code += " assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", str(write({"seed": {"range": 2}})), "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("waiting") == 2
    assert "2 jobs, 0 of them done" in done.stdout
    assert not (tmp_path / "results").exists()


def test_the_estimate_follows_the_most_similar_run_and_its_steps(write, tmp_path):
    plan = grids.read(write({"seed": [0], "epochs": [4]}))
    known = []
    for number, (other, seconds) in enumerate([({"epochs": 2}, 10.0), ({"epochs": 2, "lr": 0.5}, 99.0)]):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        info = {"experiment": "weight_pruning", "settings": ONE | {"seed": 1} | other, "seconds": seconds}
        (folder / "run.json").write_text(json.dumps(info))
        known.append(runs.Run(folder))
    assert sweep.estimate(plan.jobs[0], known) == 20.0
    assert sweep.estimate(plan.jobs[0], []) is None


def test_what_fails_fails_alone_and_is_tried_again_on_demand(write, fake):
    plan = grids.read(write({"seed": [0, 99, 2]}))
    said = []
    assert sweep.launch(plan, show=said.append) == {"done": 2, "failed": 1}
    rows = sweep.table(plan).set_index("seed")
    assert rows["state"].tolist() == ["done", "failed: ValueError: seed 99 is unlucky", "done"]
    assert "Traceback" in Path(rows["log"][99]).read_text()
    assert len(said) == 3
    assert sweep.launch(plan, show=said.append) == {"done": 2, "failed": 1}  # nothing to do
    assert len(said) == 3
    sweep.launch(plan, retry=True, show=said.append)
    assert len(said) == 4
    assert len((plan.results / "computed").read_text().split()) == 2
    assert list(plan.results.glob(".*")) == []


def test_gathered_tables_have_the_settings_as_columns_and_curves_become_events(write, tmp_path):
    plan = grids.read(write({"seed": {"range": 2}, "schedule": [[], [[1, 0.5]]]}, **QUICK))
    for job in plan.jobs:
        queues.execute(job, plan)
    rows = sweep.gather(plan, "training")
    assert set(rows["schedule"]) == {"[]", "[[1, 0.5]]"}
    assert rows.groupby(["seed", "schedule"]).ngroups == 4
    assert rows["lr"].eq(0.1).all()
    one = runs.stored(runs.key("weight_pruning", ONE | QUICK | {"seed": 1}), plan.results)
    mine = rows[rows["run"] == one.folder.name]
    kept = pd.read_parquet(one.folder / "training.parquet")
    assert mine[kept.columns].reset_index(drop=True).equals(kept)
    with pytest.raises(Invalid, match=r"no finished run has a table 'nothing'; there are: .*training"):
        sweep.gather(plan, "nothing")
    assert sweep.tensorboard(plan, tmp_path / "events") == 4
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "events/a" / one.folder.name))
    events.Reload()
    curve = events.Scalars("training/probe")
    assert [event.step for event in curve] == kept["step"].tolist()
    assert [event.value for event in curve] == pytest.approx(kept["probe"].tolist())


def test_a_chapter_is_executed_for_each_combination(tmp_path):
    whole = {"results": str(tmp_path / "results"), "sweeps": {"c": {"chapter": "03-1-dead-units"}}}
    whole["sweeps"]["c"]["lists"] = {"noise": [0.1, 2.0]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(whole))
    with pytest.raises(Invalid, match=r"noise = 2\.0 must be"):
        grids.read(tmp_path / "c.yaml")
    whole["sweeps"]["c"]["lists"] = {"noise": [0.1]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(whole))
    plan = grids.read(tmp_path / "c.yaml", {"points": 60})  # a parameter that the file does not set
    grids.check(plan)
    assert sweep.launch(plan, show=lambda _: None) == {"done": 1}
    folder = plan.result(plan.jobs[0])
    assert json.loads((folder / "settings.json").read_text()) == {"noise": 0.1, "points": 60}
    assert "<code>60</code>" in (folder / "03-1-dead-units.ipynb").read_text()


def done_once(plan):
    """All jobs are done, and nothing is left of anything else; a worker told to end may take a while."""
    waited_until = time.monotonic() + 60
    while states := [queues.state(job, plan) for job in plan.jobs]:
        if not list(plan.results.glob("jobs/*/claim")) or time.monotonic() > waited_until:
            break
        time.sleep(0.05)
    assert states == ["done"] * len(plan.jobs)
    assert len(runs.runs_in(plan.results)) == len(plan.jobs)
    assert list(plan.results.glob(".*.*")) == []
    assert list(plan.results.glob("jobs/*/claim")) == []


def test_two_launchers_do_not_do_the_same_run_twice(write, fake):
    fake.setenv("SWEEP_CALLS_SECONDS", "0.5")
    file = write({"seed": {"range": 6}})
    both = [start(file) for _ in range(2)]
    assert [one.communicate(timeout=200)[0].count(b": done") for one in both] == [6, 6]
    assert [one.returncode for one in both] == [0, 0]
    plan = grids.read(file)
    done_once(plan)
    assert sorted((plan.results / "computed").read_text().split()) == sorted(job.key for job in plan.jobs)


def test_a_worker_that_is_killed_begins_again_and_gives_up_the_third_time(write, fake, tmp_path):
    fake.setenv("SWEEP_CALLS_DEATHS", str(tmp_path / "deaths"))  # how many are left
    (tmp_path / "deaths").write_text("3")
    plan = grids.read(write({"seed": [0]}))
    said = []
    assert sweep.launch(plan, show=said.append) == {"failed": 1}
    assert said == [f"[1/1] a {plan.jobs[0].key}: failed: ended by signal 9, 3 times"]
    assert queues.state(plan.jobs[0], plan) == "failed: ended by signal 9, 3 times"
    (tmp_path / "deaths").write_text("2")
    assert sweep.launch(plan, retry=True, show=said.append) == {"done": 1}
    done_once(plan)


def test_a_full_disk_is_no_end(write, monkeypatch):
    """What cannot be written now, not even the error, is done at the next call."""
    plan = grids.read(write({"seed": [0]}, **QUICK))
    (job,) = plan.jobs

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "execute", full)
        assert queues.execute(job, plan) == "failed"
        assert queues.state(job, plan) == "failed: OSError: [Errno 28] No space left on device"
        write_text = Path.write_text
        patch.setattr(
            Path,
            "write_text",
            lambda file, *args: (full if file.name == "error" else write_text)(file, *args),
        )
        assert queues.execute(job, plan) == "failed"
        assert queues.state(job, plan) == "waiting"
    (plan.place(job) / "error").touch()  # it was made, and nothing fitted in
    assert queues.state(job, plan).startswith("failed: ")
    assert queues.execute(job, plan) == "done"
    done_once(plan)


def test_killed_at_random_moments_it_loses_and_doubles_nothing(write, fake):
    fake.setenv("SWEEP_CALLS_SECONDS", "0.3")
    file = write({"seed": {"range": 12}})
    plan, chance, kept = grids.read(file), random.Random(0), {}
    for moment in range(4):
        launcher = start(file, start_new_session=True)
        launcher.stdout.readline()  # it has checked the file
        launcher.stdout.readline()  # a job is done, or all are
        time.sleep(chance.uniform(0, 0.5))
        # the launcher alone, or its workers with it
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if moment % 2 else os.kill)(launcher.pid, signal.SIGKILL)
        launcher.communicate()
        now = {run.folder.name: run.folder.stat().st_ino for run in runs.runs_in(plan.results)}
        assert kept.items() <= now.items()  # what was finished stays, the same
        kept = now
    sweep.launch(plan, show=lambda _: None)
    done_once(plan)


def test_a_claimed_job_is_left_to_who_has_it(write):
    plan = grids.read(write({"seed": [0]}, **QUICK))
    (job,) = plan.jobs
    place = plan.place(job)
    place.mkdir(parents=True)
    code = f"import filelock; lock = filelock.FileLock({str(place / 'claim')!r})\nlock.acquire()\n"
    code += "print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    assert queues.execute(job, plan) == "taken"
    assert queues.state(job, plan) == "running"
    os.utime(place / "claim", (1, 1))  # no clock takes part
    assert queues.state(job, plan) == "running"
    other.kill()  # the lock ends with its process
    other.communicate()
    (place / "claim").touch()
    assert queues.state(job, plan) == "waiting"
    assert not (place / "claim").exists()  # an orphan is removed
    assert queues.execute(job, plan) == "done"
    (place / "claim").touch()  # its process was killed after it had stored the result
    assert queues.state(job, plan) == "done"
    assert not (place / "claim").exists()


def test_a_damaged_run_is_named_and_done_again(write):
    plan = grids.read(write({"seed": {"range": 2}}, **QUICK))
    for job in plan.jobs:
        assert queues.execute(job, plan) == "done"
    file = plan.result(plan.jobs[0]) / "training.parquet"
    os.truncate(file, 9)
    with pytest.warns(UserWarning, match=re.escape(str(file))):
        rows = sweep.gather(plan, "training")
    assert set(rows["seed"]) == {1}
    with pytest.warns(UserWarning, match=re.escape(str(file))):
        assert queues.execute(plan.jobs[0], plan) == "done"
    assert set(sweep.gather(plan, "training")["seed"]) == {0, 1}


def test_the_examples_of_the_page_are_what_it_says(tmp_path, capfd, fake):
    page = Path("book/sweeps.md").read_text()
    here, there = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    (tmp_path / "grid.yaml").write_text(here)
    (commands,) = re.findall(r"```bash\n(.*?)```", page, flags=re.S)
    said = {}
    for line in commands.splitlines():
        words = line.partition("#")[0].split()[3:]
        for name in ("grid.yaml", "elsewhere", "all.csv", "events"):
            words = [str(tmp_path / name) if word == name else word for word in words]
        if "--results" not in words:
            words += ["--results", str(tmp_path / "results")]
        assert main(words) == 0
        said[line.partition("#")[0].split("grid.yaml")[1].strip()] = capfd.readouterr().out
    assert "6 jobs, 0 of them done" in said["--dry-run"]
    assert said[""].endswith("6 done\n")
    assert "4 done" in said["-p seed 7 --results elsewhere"]
    assert said["--status"].count("done") == 6
    assert said["--retry"].endswith("6 done\n")
    assert set(pd.read_csv(tmp_path / "all.csv")["scorer"]) == {"mrs", "norm_l1"}
    assert "wrote 4 runs" in said["--tensorboard events"]
    both = yaml.safe_load(here) | yaml.safe_load(there)  # one word changed, and what a cluster wants
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(both))
    plan = grids.read(tmp_path / "grid.yaml")
    assert plan.where == "slurm"
    assert plan.slurm.more == {"account": "mylab"}
