"""The `run.json` of older runs gets checksums and a commit, and loses what nothing writes any more."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from deadbook import runs
from deadbook.build import provenance


@pytest.fixture
def repository(tmp_path):
    """A repository with two committed runs of the old form, the second one with a history."""

    def git(*words):
        name = ["-c", "user.name=t", "-c", "user.email=t@t"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *name, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    commits = {}
    for number, key in enumerate(("0123456789ab", "ba9876543210")):
        folder = tmp_path / "book/results" / key
        folder.mkdir(parents=True)
        (folder / "b.parquet").write_bytes(b"table b")
        (folder / "a.parquet").write_bytes(b"table a")
        info = {"experiment": "x", "settings": {"seed": number}, "code": {"data": "1"}, "seconds": 1.5}
        if number:
            info["replayed"] = {"code": {}, "difference": 0.0, "on": "2026-11-27", "beside": "on, another"}
        (folder / "run.json").write_text(json.dumps(info, indent=1) + "\n")
        git("add", ".")
        git("commit", "-q", "-m", key)
        commits[key] = git("rev-parse", "HEAD")
    return tmp_path / "book/results", commits


def test_old_runs_get_checksums_and_their_commit_and_lose_what_is_obsolete(repository):
    results, commits = repository
    assert provenance.update(results) == 2
    for number, (key, commit) in enumerate(commits.items()):
        text = (results / key / "run.json").read_text()
        info = json.loads(text)
        assert text == json.dumps(info, indent=1) + "\n"
        assert list(info) == ["experiment", "settings", "seconds", "added_in", "tables"]
        assert info["settings"] == {"seed": number}
        assert info["added_in"] == commit
        sums = {name: runs.sha256(results / key / f"{name}.parquet") for name in "ab"}
        assert info["tables"] == sums
    with (results / "provenance.csv").open(newline="") as table:
        (row,) = csv.DictReader(table)
    assert row == {
        "run": "ba9876543210",
        "compared_on": "2026-11-27",
        "difference": "0.0",
        "compared_with": "on, another",
    }
    assert provenance.update(results) == 0  # nothing is done twice


def test_the_committed_runs_are_whole_and_name_their_commit():
    folders = sorted(Path("book/results").glob("*/"))
    published = runs.runs_in(Path("book/results"))  # a damaged one would warn, and fail
    assert [run.folder for run in published] == folders
    for run in published:
        assert run.info.keys() >= {"tables"}
        assert not {"code", "replayed"} & run.info.keys()
        assert run.info.get("added_in") or run.info["commit"]
        assert set(run.info["tables"]) == {file.stem for file in run.folder.glob("*.parquet")}
