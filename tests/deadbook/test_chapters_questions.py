"""Chapter 5 with some questions and settings of its own: those that are not run say so."""

from __future__ import annotations

import pytest

import chapters
from deadbook import claims
from deadbook.build import book
from deadbook.chapters import plans
from deadunits import Invalid

OWN = {"epochs": 5, "probe_size": 50, "measure_every": 39}


def test_a_question_is_answered_and_the_others_wait(chapter_runs):
    asked = ["O11"]
    page = chapters.execute(plans.OPEN, chapter_runs, own=OWN, questions=asked)
    assert page.text.count("Its runs are not there yet.") >= 4  # of O1, O2, O3 and O10
    assert "median, ReDo" in page.text
    assert {f"verdict_{name.lower()}" for name in claims.CLAIMS if name[0] == "O"} <= page.glued.keys()
    assert page.glued["verdict_o9"].startswith("not run yet")


def test_questions_and_seeds_are_checked():
    with pytest.raises(Invalid, match="names among O1"):
        book.chosen(plans.OPEN, "quick", {"questions": ["O12"]})
    with pytest.raises(Invalid, match="integers from 0"):
        book.chosen(plans.OPEN, "quick", {"seed_list": [5, 5]})
