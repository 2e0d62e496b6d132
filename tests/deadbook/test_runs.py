"""Runs are computed once, whole or not at all, and give the same numbers wherever they are computed."""

from __future__ import annotations

import errno
import html
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from chapters import _compute_here
from deadbook import datasets, pool, rehearsal, runs
from deadbook.build import status as build_status
from deadbook.experiments.common import mean_loss
from deadunits import Invalid

TINY = {"dataset": "digits", "image_size": 0, "network": "small_cnn", "layers": ["conv1"], "epochs": 1}
TINY |= {"lr": 0.1, "batch_size": 64, "measure_every": 8, "probe_size": 30, "fractions": [0.01], "draws": 2}
TINY |= {"activation": "tanh", "seed": 0}
LONG = TINY | {"epochs": 500, "measure_every": 5}


@pytest.fixture(autouse=True)
def _keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.execute("saliency", TINY, tmp_path_factory.mktemp("results"))


def test_tables_are_tidy_and_carry_their_settings(run):
    steps = [8, 16]
    assert sorted(run.table("training")["step"]) == steps
    scores = run.table("scores")
    assert len(scores) == 2 * 200
    assert set(scores["set"]) == {"probe"}  # the others follow at every fifth measurement
    assert set(scores["activation"]) == {"tanh"}
    penalties = run.table("penalties")
    assert len(penalties) == 2 * (5 + 2) * 1 * 2  # steps, scorers and draws, fractions, sets
    assert not penalties.isna().any(axis=None)
    info = run.info
    assert info["settings"] == TINY
    assert {"python", "torch", "numpy"} <= set(info["versions"])
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert info["commit"].rstrip("+") == commit.stdout.strip()


def test_penalties_are_what_removing_the_weights_costs(run):
    """The first measurement again, by hand and with the slow scorer."""
    from deadbook import datasets
    from deadunits import models, scorers, training

    images = datasets.load("digits", probe_size=30)
    net = models.small_cnn(images.shape, activation="tanh", seed=0)
    for step in training.sgd(net, images.train, epochs=1, lr=0.1, batch_size=64, seed=0):
        if step.number == 8:
            break
    score = scorers.loss_change_slow(net, images.probe, "conv1.weight") / 30
    scores = run.table("scores").query("step == 8")
    assert score.flatten().tolist() == pytest.approx(scores["loss_change"].tolist(), abs=1e-5)
    before = mean_loss(net, images.other)
    two = scores.nsmallest(2, "loss_change")["weight"].tolist()
    with torch.no_grad():
        net.conv1.weight.view(-1)[two] = 0
    penalty = mean_loss(net, images.other) - before
    row = run.table("penalties").query("step == 8 and scorer == 'loss_change' and set == 'other'")
    assert row["penalty"].item() == pytest.approx(penalty, rel=1e-4, abs=1e-7)


def test_a_finished_run_is_found_and_not_computed_again(run, monkeypatch):
    monkeypatch.setattr(runs, "_compute", lambda *_: pytest.fail("computed again"))
    shuffled = dict(reversed(TINY.items()))
    assert runs.ensure("saliency", [shuffled], run.folder.parent) == [run]


@pytest.fixture
def started(monkeypatch):
    """The workers that are started."""
    workers, popen = [], pool._Process._Popen

    def note(process):
        workers.append(process)
        return popen(process)

    monkeypatch.setattr(pool._Process, "_Popen", staticmethod(note))
    return workers


def test_side_by_side_and_in_a_used_process_the_numbers_are_the_same(run, tmp_path, started):
    others = runs.grid(TINY | {"measure_every": 16}, activation=["relu", "tanh"], seed=[2, 1])
    computed = runs.ensure("saliency", [*others, TINY], tmp_path, processes=2)
    assert len(started) == 2
    for name in ("training", "scores", "penalties", "final"):
        pd.testing.assert_frame_equal(computed[-1].table(name), run.table(name), check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(it.folder.name for it in computed)


def sign(run):
    """Let `run.json` have the checksums of tables that a test has changed."""
    sums = {file.stem: runs.sha256(file) for file in run.folder.glob("*.parquet")}
    (run.folder / "run.json").write_text(json.dumps(run.info | {"tables": sums}))


def test_a_run_is_verified_by_its_first_measurement(run, tmp_path):
    place = runs.Run(tmp_path / run.folder.name)
    shutil.copytree(run.folder, place.folder)
    assert runs.verify(place) == 0
    scores = pd.read_parquet(place.folder / "scores.parquet")
    scores.loc[7, "taylor1"] += 0.5
    scores.to_parquet(place.folder / "scores.parquet")
    sign(place)
    assert runs.verify(place) > 10 * runs.VERIFY_TOLERANCE


def test_files_of_a_run_are_read_once_until_they_change(run, tmp_path, monkeypatch):
    place = runs.Run(tmp_path / run.folder.name)
    shutil.copytree(run.folder, place.folder)
    read = []
    monkeypatch.setattr(pd, "read_parquet", lambda file, of=pd.read_parquet: read.append(file) or of(file))
    first = place.table("final")
    first["accuracy"] = -1.0  # a caller's own copy
    assert (place.table("final")["accuracy"] >= 0).all()
    assert len(read) == 1
    place.info["seed"] = 5
    assert "seed" not in place.info
    frame = pd.read_parquet(place.folder / "final.parquet").assign(accuracy=0.25)
    frame.to_parquet(place.folder / "final.parquet")
    os.utime(place.folder / "final.parquet", ns=(1, 1))
    sign(place)
    assert place.table("final")["accuracy"].tolist() == [0.25]


def flip(file):
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


DAMAGES = {
    "a flipped bit": ("final.parquet", flip),
    "a truncated table": ("final.parquet", lambda file: os.truncate(file, file.stat().st_size // 2)),
    "a missing table": ("final.parquet", lambda file: file.unlink()),
    "a truncated run.json": ("run.json", lambda file: os.truncate(file, file.stat().st_size // 2)),
    "a missing run.json": ("run.json", lambda file: file.unlink()),
    "a run.json of something else": ("run.json", lambda file: file.write_text('["x"]')),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_and_counts_as_not_done_and_is_computed_again(run, tmp_path, damage):
    name, break_file = DAMAGES[damage]
    place, good = tmp_path / run.folder.name, tmp_path / "0123456789ab"
    shutil.copytree(run.folder, place)
    shutil.copytree(run.folder, good)
    assert runs.runs_in(tmp_path) == [runs.Run(good), runs.Run(place)]
    break_file(place / name)
    with pytest.warns(UserWarning, match=re.escape(str(place / name))):
        assert runs.runs_in(tmp_path) == [runs.Run(good)]
    with pytest.raises(Invalid, match=re.escape(str(place / name))):
        runs.Run(place).table("scores")
    with pytest.warns(UserWarning, match="The run counts as not done"):
        assert runs.stored(runs.key("saliency", TINY), tmp_path) is None
    assert str(place / name) in html.unescape(build_status.status(tmp_path))
    runs.execute("saliency", TINY, tmp_path)
    assert runs.stored(runs.key("saliency", TINY), tmp_path) == runs.Run(place)
    pd.testing.assert_frame_equal(runs.Run(place).table("scores"), run.table("scores"), check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((good.name, place.name))


def test_a_table_is_checked_once_per_process(run, tmp_path, monkeypatch):
    place = runs.Run(tmp_path / run.folder.name)
    shutil.copytree(run.folder, place.folder)
    checked = []
    monkeypatch.setattr(runs, "sha256", lambda file, of=runs.sha256: checked.append(file) or of(file))
    for _ in range(3):
        place.table("final")
        assert runs.stored(runs.key("saliency", TINY), tmp_path) == place
    assert sorted(checked) == sorted(place.folder.glob("*.parquet"))


def test_the_status_page_escapes_what_it_shows(run, tmp_path):
    place = tmp_path / run.folder.name
    shutil.copytree(run.folder, place)
    info = run.info | {"machine": "<script>alert(1)</script>", "experiment": "a|b"}
    info["settings"] = TINY | {"network": "[x](javascript:alert(1)):<b>"}
    (place / "run.json").write_text(json.dumps(info))
    text = build_status.status(tmp_path)
    assert "<script>" not in text
    assert "<b>" not in text
    assert "](" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own, which workers find as well."""

    def write(source):
        (tmp_path / "modules").mkdir()
        text = f"from deadunits.models import small_cnn\n\ndef net(shape, classes, activation):\n{source}"
        (tmp_path / "modules/own_net.py").write_text(text)
        return TINY | {"network": "own_net:net", "measure_every": 17}

    monkeypatch.syspath_prepend(tmp_path / "modules")
    path = [str(tmp_path / "modules"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    yield write
    sys.modules.pop("own_net", None)


def test_a_job_leaves_no_trace_in_its_worker(tmp_path, monkeypatch, own):
    """The images are gone, and the random states of torch, NumPy and Python are as before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    loaded, alive, errors, load = [], [], [], datasets.load

    def note(*args, **kwargs):
        images = load(*args, **kwargs)
        loaded.append(weakref.ref(images.train.x))
        return images

    monkeypatch.setattr(datasets, "load", note)
    monkeypatch.setattr(pool, "_print_to", lambda _: None)  # this process's output stays where it is
    wrong = own("    return small_cnn(shape, classes)\n") | {"layers": ["conv9"]}
    for settings in (TINY, wrong, TINY | {"dataset": "gone"}):
        errors.append(pool._call(os.devnull, runs.execute, ("saliency", settings, tmp_path / "results")))
        alive.append([reference() is not None for reference in loaded])
    assert alive == [[False], [False, False], [False, False]]
    assert errors[0] == ""
    assert errors[1].startswith("deadunits.Invalid: the network has no linear or convolutional layer 'conv9'")
    assert errors[2].startswith("deadunits.Invalid: dataset = 'gone' must be one of digits, mnist")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert all(np.array_equal(*pair) for pair in zip(np.random.get_state(), states[1], strict=True))
    assert random.getstate() == states[2]
    assert [path.name for path in (tmp_path / "results").iterdir()] == [runs.key("saliency", TINY)]


def test_a_failing_run_is_named_and_one_that_kills_its_worker_fails_alone(
    tmp_path, monkeypatch, started, own
):
    monkeypatch.setattr(runs, "rehearse", lambda *_: None)
    settings = own(
        "    import os, torch\n    if torch.initial_seed() == 1:\n        raise ValueError('unlucky')\n"
        "    if torch.initial_seed() == 2:\n        os.kill(os.getpid(), 9)\n"
        "    return small_cnn(shape, classes)\n"
    )
    wanted, folder = runs.grid(settings, seed=[1, 0, 2, 3]), tmp_path / "results"
    with pytest.raises(RuntimeError, match=r"2 of 4 runs failed; the first: ValueError: unlucky"):
        runs.ensure("saliency", wanted, folder, processes=1)
    assert len(started) == 2
    assert {path.name for path in folder.iterdir()} == {runs.key("saliency", wanted[i]) for i in (1, 3)}


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("small_cnn(shape, classes)", {"layers": ["conv9"]}, "no linear or convolutional layer 'conv9'"),
        ("small_cnn((1, 8, 8), classes)", {}, "images of 8 x 8 are too small: 16 x 16 at least"),
        ("small_cnn((3, 28, 28), classes)", {}, "expected input"),
        ("42", {}, "must return an nn.Module, got int"),
        ("small_cnn(shape, classes)", {"network": "own_net:nothing"}, "has no attribute 'nothing'"),
    ],
)
def test_what_is_wrong_with_a_network_of_ones_own_is_said_in_its_rehearsal(own, source, change, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        rehearsal.rehearse("saliency", [own(f"    return {source}\n") | change], "", 1)


def test_nothing_is_computed_after_a_rehearsal_that_failed(tmp_path, own, monkeypatch):
    monkeypatch.setattr(runs, "_compute", lambda *_: pytest.fail("computed"))
    settings = own("    return small_cnn(shape, classes)\n") | {"layers": ["conv9"]}
    with pytest.raises(Invalid, match=r"^the network has no linear or convolutional layer 'conv9'"):
        runs.ensure("saliency", [settings], tmp_path / "results")
    assert not list((tmp_path / "results").iterdir())


def test_a_run_of_ones_own_says_what_it_needs_and_is_computed_again_when_the_network_changed(
    tmp_path, own, capsys, monkeypatch
):
    monkeypatch.setattr(runs, "_compute", _compute_here)
    settings, folder = own("    return small_cnn(shape, classes, (3, 4, 5))\n"), tmp_path / "results"
    (first,) = runs.ensure("saliency", [settings], folder)
    estimate = r"1 runs of saliency, about \d+ seconds of one core each, \d+ MB of memory and 1 MB on disk\n"
    assert re.fullmatch(estimate, capsys.readouterr().out)
    assert [first] == runs.ensure("saliency", [settings], folder)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(runs, "rehearse", lambda *_: None)
    file = tmp_path / "modules/own_net.py"
    file.write_text(file.read_text().replace("(3, 4, 5)", "(6, 4, 5)"))
    sys.modules.pop("own_net")
    (second,) = runs.ensure("saliency", [settings], folder)
    units = [run.table("weights")["units"][0] for run in (first, second)]
    assert units == [3, 6]
    assert first.info["own"]["network"] != second.info["own"]["network"]
    with pytest.raises(Invalid, match="changed while the run waited"):
        runs.execute("saliency", settings, folder, name=first.folder.name)


def test_changed_pictures_are_another_run(tmp_path):
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "1.png").write_bytes(b"no image yet")
    settings = TINY | {"dataset": str(tmp_path)}
    keys = [runs.key("saliency", settings)]
    (tmp_path / "train/a/1.png").rename(tmp_path / "train/a/2.png")
    keys.append(runs.key("saliency", settings))
    os.utime(tmp_path / "test/b/1.png", (1, 1))
    keys.append(runs.key("saliency", settings))
    assert len(set(keys)) == 3
    assert keys[-1] == runs.key("saliency", settings)


def test_images_larger_than_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(datasets, "pixels", lambda *_: 10**12)
    with pytest.raises(Invalid, match=r"2 runs at once need about 8000.0 GB of memory, .* are free"):
        rehearsal.check_images_fit({"dataset": "./pictures", "image_size": 0}, 2)


def test_an_interrupt_keeps_what_is_finished_and_ends_the_workers(tmp_path, started, monkeypatch):
    def show(self, ended, ahead=0):
        if ended and ahead:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(pool.Bar, "show", show)
    with pytest.raises(KeyboardInterrupt):
        runs.ensure("saliency", [TINY, LONG, LONG | {"seed": 1}], tmp_path, processes=2)
    assert [worker.is_alive() for worker in started] == [False, False]
    assert [path.name for path in tmp_path.iterdir()] == [runs.key("saliency", TINY)]


@pytest.mark.parametrize("what", ["a table", "run.json"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, what):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text = Path.write_text
    with monkeypatch.context() as patch:
        if what == "a table":
            patch.setattr(pd.DataFrame, "to_parquet", full)
        else:
            of = {"run.json": full}
            patch.setattr(Path, "write_text", lambda file, *args: of.get(file.name, write_text)(file, *args))
        with pytest.raises(OSError, match="No space"):
            runs.execute("saliency", TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert runs.stored(runs.key("saliency", TINY), tmp_path) is None
    assert runs.execute("saliency", TINY, tmp_path) == runs.stored(runs.key("saliency", TINY), tmp_path)


def test_what_killed_processes_have_left_is_removed(tmp_path):
    gone, host = 2**22 + 1, platform.node()  # above the largest process id of Linux
    for name in (f".0123456789ab.{gone}@{host}", f".0123456789ab-old.{gone}@{host}", f".0123456789ab.{gone}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "final.parquet").touch()
    (tmp_path / f".rehearsal.{gone}@{host}").touch()
    kept = [f".0123456789ab.{os.getpid()}@{host}", f".0123456789ab.{gone}@elsewhere", ".ab.not a draft"]
    for name in kept:
        (tmp_path / name).mkdir()
    runs.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_bad_input_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_compute", lambda *_: pytest.fail("computed"))
    with pytest.raises(Invalid, match=r"unknown parameter 'epoch' \(did you mean epochs\?\)"):
        runs.ensure("saliency", [TINY | {"epoch": 3}], tmp_path)
    monkeypatch.setattr("deadbook.datasets._reachable", lambda host: False)
    with pytest.raises(Invalid, match="no MNIST in"):
        runs.ensure("saliency", [TINY | {"dataset": "mnist"}], tmp_path, data_root=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="cannot write to"):
        runs.ensure("saliency", [TINY], tmp_path / "file" / "results")


def test_grid():
    assert runs.grid({"a": 1}, b=[2, 3], c=[4]) == [{"a": 1, "b": 2, "c": 4}, {"a": 1, "b": 3, "c": 4}]


def test_a_folder_of_images_is_decoded_before_the_runs_start(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(datasets, "check", lambda *_, **__: calls.append("check"))
    monkeypatch.setattr(datasets, "load", lambda *_, **__: calls.append("load"))
    monkeypatch.setattr(datasets, "train_size", lambda *_, **__: 1000)
    monkeypatch.setattr(runs, "_compute", lambda *_: calls.append("compute"))
    monkeypatch.setattr(rehearsal, "check_images_fit", lambda *_: calls.append("fit"))
    monkeypatch.setattr(rehearsal, "needed", lambda _: False)
    runs.ensure("saliency", runs.grid(TINY | {"dataset": "./pictures"}, seed=[0, 1]), tmp_path)
    assert calls == ["check", "check", "fit", "load", "compute"]


def test_a_table_keeps_every_bit_and_its_types(tmp_path):
    frame = pd.DataFrame(
        {
            "step": np.arange(4, dtype=np.int32),
            "set": ["probe", "other"] * 2,
            "mrp": np.array([0.1, np.nan, -0.0, np.inf], np.float32),
            "epoch": [0.1, 0.2, 1e-300, 3.0],
        }
    )
    for one in (frame, frame[["mrp"]], frame[["step", "set"]], frame.iloc[:0]):
        runs.write(one, tmp_path / "t.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), one, check_exact=True)
