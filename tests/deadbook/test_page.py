"""What a chapter shows besides figures."""

from __future__ import annotations

import math

import pandas as pd

from deadbook.chapters import page


def test_a_sentence_whose_number_the_run_does_not_have_is_left_out():
    shown = page.prose(
        "A {a:.1f}.", "B {b:.0f}.", "C {c}.", "", "D {d}.", "", "E.", a=1.26, b=math.nan, d=None
    )
    assert shown.data == "A 1.3.\n\nE."


def test_what_is_said_if_no_sentence_is_left():
    assert page.prose("A {a}.", "B {b:.0f}.", otherwise="Nothing.", b=math.inf).data == "Nothing."
    assert page.prose("A {a}.") is None


def test_glued_numbers_have_six_significant_digits_and_unknown_ones_are_not_there(monkeypatch):
    record = {}

    def show(data, raw, metadata):
        record[metadata["scrapbook"]["name"]] = data["application/papermill.record/text/plain"]

    monkeypatch.setattr(page, "display", show)
    page.glue(share=0.9646909782764652, count=12345678, word="x", nothing=math.nan, none=None)
    assert record == {"share": "0.964691", "count": "12345678", "word": "'x'"}


def test_what_is_on_the_edge_of_rounding_falls_on_one_side_on_every_processor():
    near = [0.975 * (1 + noise) for noise in (-1e-12, 0, 1e-12)]
    assert len({f"{value:.0%}" for value in near}) == 2
    assert len({page.prose("{x:.0%}", x=value).data for value in near}) == 1
    assert len({page.table(pd.DataFrame({"x": [value]}), x=".0%").data for value in near}) == 1
