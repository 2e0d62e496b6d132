"""All results of the book: what each chapter wants, what is missing, and the tables for readers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deadbook import runs
from deadbook.analysis import trials
from deadbook.build import book, tables
from deadbook.chapters import plans
from deadbook.sweeps import sweep


@pytest.mark.parametrize("chapter", plans.PLANS)
def test_a_plan_is_what_its_chapter_shows(chapter):
    wanted = plans.PLANS[chapter](book.chosen(chapter, book.PUBLISHED))
    shown = set(book.runs_shown(Path(f"book/chapters/{chapter}.ipynb")))
    assert {runs.key(experiment, run) for experiment in wanted for run in wanted[experiment]} == shown


def test_more_seeds_are_missing_and_those_that_are_there_are_not():
    plan = sweep.all_chapters(7)
    missing = plan.missing()
    assert {job.settings["seed"] for job in missing} >= {5, 6}
    assert not any(job.settings["seed"] == 0 for job in missing)
    assert len({job.key for job in plan.jobs}) == len(plan.jobs)
    with pytest.raises(runs.Invalid, match="seeds = 0 must be"):
        sweep.all_chapters(0)


def test_what_is_missing_is_computed_and_what_measures_time_comes_last(monkeypatch, tmp_path):
    """A book of three runs, none of them published."""
    wanted = {"costs": [{"seed": 0}], "weight_pruning": [{"seed": 0}, {"seed": 1}, {"seed": 0}]}
    monkeypatch.setattr(plans, "PLANS", {"02-2-weight-pruning": lambda _: wanted})
    monkeypatch.setattr(plans, "questions", lambda _: {})
    done = []

    def launch(plan, **how):
        done.extend((job.experiment, job.settings["seed"], plan.processes) for job in plan.jobs)

    monkeypatch.setattr(sweep, "launch", launch)
    monkeypatch.setattr(sweep.grids, "check", lambda plan: None)
    assert not sweep.launch_chapters(sweep.all_chapters())  # nothing was computed
    assert done == [("weight_pruning", 0, 0), ("weight_pruning", 1, 0), ("costs", 0, 1)]


@pytest.mark.parametrize("chapter", tables.TABLES)
def test_a_table_for_readers_is_made_from_the_committed_runs_and_documented(chapter, tmp_path):
    """Compared for the first seed: all of chapter 4.1 take a minute."""
    names = dict.fromkeys(book.runs_shown(Path(f"book/chapters/{chapter}.ipynb")))
    shown = [runs.Run(Path("book/results") / name) for name in names]
    first = [run for run in shown if run.info["settings"]["seed"] == 0]
    kept = pd.read_parquet(f"{book.TABLES}/{chapter}.parquet")
    made = tables.make(chapter, first)
    assert kept[kept["seed"] == 0].reset_index(drop=True).equals(made.astype(kept.dtypes))
    if chapter == "01-background":
        assert kept.equals(pd.read_parquet(tables.save(chapter, shown, tmp_path)))
    assert list(kept) == list(tables.TABLES[chapter].columns)
    assert all(f"| `{name}` |" in tables.describe() for name in kept)
    assert set(kept["seed"]) == {run.info["settings"]["seed"] for run in shown}
    what = [name for name in kept if name not in ("penalty", "mrp", "mrs", *tables.LOSSES)]
    assert not kept.duplicated(what).any() or chapter.startswith("03")


def test_committed_runs_are_wanted_as_they_are_and_others_with_what_is_recorded_since():
    chosen = book.complete("03-2-batch-norm", "thesis") | {"seeds": 7}
    wanted = trials.some_units(chosen)
    for run in (run for role in wanted.values() for run in role):
        fresh = run["seed"] >= 5
        assert trials.committed("attacks", run) is not fresh
        assert (run.get("pixels"), "around" in run) == (("official", True) if fresh else (None, False))
    twins = wanted["twins"]
    windows = [[0, 1150], [1450, 1790], [2450, 2790], [4950, 5290]]
    assert [run["around"] for run in twins[5:]] == [windows] * 2
    assert [run.get("snapshots") for run in twins] == [None] * 5 + [True, None]
    assert wanted["starts"][6]["around"] == [[450, 790]]
    units = plans.units(book.complete("04-1-units", "thesis") | {"seeds": 7, "wider_seeds": 7})["units"]
    assert [run["seed"] for run in units if run.get("snapshots")] == [5, 5]
    assert all(run["widths"] == [8, 16, 64] for run in units if run.get("snapshots"))
