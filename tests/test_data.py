from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from deadunits import Invalid, data


def test_digits_have_mnists_shape_and_are_standardised():
    images = data.load("digits", probe_size=200)
    assert images.shape == (1, 28, 28)
    assert len(images.train.y) == 1437 - 400
    assert len(images.test.y) == 360
    every = torch.cat([images.train.x, images.probe.x, images.other.x])
    assert every.mean().item() == pytest.approx(0, abs=1e-5)
    assert every.std().item() == pytest.approx(1, abs=1e-3)
    assert images.train.x.dtype == torch.float32
    assert images.train.y.dtype == torch.int64
    assert set(images.test.y.tolist()) == set(range(10))


def test_the_sets_are_disjoint_and_fixed():
    images, again = (data.load("digits", probe_size=100) for _ in range(2))
    rows = {
        name: {image.numpy().tobytes() for image in getattr(images, name).x}
        for name in ("train", "probe", "other", "train_probe", "test")
    }
    assert all(len(rows[name]) == 100 for name in ("probe", "other", "train_probe"))
    assert not rows["probe"] & (rows["other"] | rows["train"] | rows["test"])
    assert not rows["other"] & (rows["train"] | rows["test"])
    assert rows["train_probe"] <= rows["train"]
    assert torch.equal(images.probe.x, again.probe.x)


def test_unknown_set_and_too_large_a_probe():
    with pytest.raises(Invalid, match="unknown data set 'svhn'; there are: digits, mnist"):
        data.load("svhn")
    for size in (0, 480):
        with pytest.raises(Invalid, match=f"probe_size = {size} does not fit digits.* 1 to 479"):
            data.load("digits", probe_size=size)


def test_root_by_argument_or_variable(monkeypatch):
    monkeypatch.setenv("DEADUNITS_DATA", "/somewhere")
    assert data.data_root() == Path("/somewhere")
    assert data.data_root("~/x") == Path.home() / "x"
    monkeypatch.delenv("DEADUNITS_DATA")
    assert data.data_root() == Path.home() / ".cache/deadunits"


def test_no_files_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_reachable", lambda host: False)
    with pytest.raises(Invalid, match=r"train-images-idx3-ubyte.gz.* missing.*no network.*DEADUNITS_DATA"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b"short"), gzip.compress(bytes(60_008))[:-9]])
def test_a_broken_archive_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(data, "_reachable", lambda host: True)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(Invalid, match=r"broken archive .*train-labels-idx1-ubyte.gz: delete it"):
        data.load("mnist", tmp_path)


def test_a_host_that_does_not_answer():
    assert not data._reachable("nowhere.invalid", seconds=1)


def test_mnist_from_its_archives(mnist_root):
    images = data.load("mnist", mnist_root)
    assert images.shape == (1, 28, 28)
    assert (len(images.train.y), len(images.test.y)) == (58_000, 10_000)
    assert images.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert len(images.probe.y) == len(images.other.y) == len(images.train_probe.y) == 1000
