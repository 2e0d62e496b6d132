"""The criteria are those that were committed before the first run of a fresh seed."""

from __future__ import annotations

import dataclasses
import subprocess
from types import SimpleNamespace

import pytest
import yaml

from deadbook import claims
from deadbook.build import ledger
from deadbook.claims.catalogue import FILE, FIXED
from deadbook.runs import PUBLISHED, runs_in

DECIDE = ("criterion", "direction", "thresholds", "scored_on", "pooled", "thesis", "numbers")


def test_no_criterion_has_changed_since_the_commit_that_the_ledger_names():
    name = f"{FIXED['commit']}:./{FILE.name}"
    shown = subprocess.run(["git", "show", name], cwd=FILE.parent, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("a checkout without that commit")
    before = {claim["id"]: claim for claim in yaml.safe_load(shown.stdout)["claims"]}
    now = {claim["id"]: claim for claim in yaml.safe_load(FILE.read_text("utf8"))["claims"]}
    assert before.keys() == now.keys()
    for name, claim in now.items():
        assert [claim.get(field) for field in DECIDE] == [before[name].get(field) for field in DECIDE], name


def test_fresh_runs_came_after_the_criteria():
    fresh = [run for run in runs_in(PUBLISHED) if run.info["settings"]["seed"] in claims.CONFIRMATION]
    assert all(run.info["started"].replace("T", " ") > FIXED["date"] for run in fresh)


def test_the_ledger_shows_which_verdicts_moved(tmp_path, monkeypatch):
    assert "No claim has been judged on seeds 5 to 9" in ledger.confirmation([], tmp_path)

    def judged(name, _):
        def verdict(*holds):
            evidence = [claims.Evidence({"x": 1.0}, held, held) for held in holds]
            return claims.judge(claims.CLAIMS[name], evidence, {}, ["mnist"])

        fell = name == "C2.1"
        return dataclasses.replace(verdict(not fell), exploration=verdict(True))

    monkeypatch.setattr(claims, "verdict", judged)
    info = {"settings": {"seed": 5}, "started": "2026-11-28T20:00:00+00:00"}
    (tmp_path / "assets").mkdir()
    text = ledger.confirmation([SimpleNamespace(info=info)], tmp_path)
    assert f"{len(claims.CLAIMS)} claims are judged on both. Across the line moved: C2.1." in text
    assert "started on 2026-11-28 20:00." in text
    assert (tmp_path / "assets/confirmation.svg").read_bytes().startswith(b"<?xml")
