"""Verdict rules, and each criterion on made-up tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
from deadunits import claims
from deadunits.claims import CLAIMS, Evidence, judge


@dataclass
class FakeRun:
    tables: dict[str, pd.DataFrame]
    info: dict[str, Any] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        return self.tables[name]


def shares(early: float, middle: float, late: float) -> FakeRun:
    """100 weights of which a share is negative: up to a quarter, a half and the end of 4,000 steps."""
    rows = []
    for step in range(50, 4001, 50):
        share = early if step <= 1000 else middle if step <= 2000 else late
        scores = [-1.0] * round(100 * share) + [1.0] * round(100 * (1 - share))
        rows.append(pd.DataFrame({"step": step, "loss_change": scores, "loss_change_other": scores[::-1]}))
    return FakeRun({"scores": pd.concat(rows)})


@pytest.mark.parametrize(
    ("run", "holds", "directs"),
    [
        (shares(0.35, 0.35, 0.35), True, True),
        (shares(0.25, 0.25, 0.25), True, True),
        (shares(0.40, 0.40, 0.28), False, True),  # falls by more than 0.10
        (shares(0.50, 0.50, 0.50), False, True),
        (shares(0.10, 0.10, 0.10), False, False),
    ],
)
def test_c21(run, holds, directs):
    for on in ("probe", "other"):
        evidence = claims.negative_share(run, on)
        assert (evidence.holds, evidence.directs) == (holds, directs)


def test_c21_needs_measurements_after_step_500():
    rows = pd.DataFrame({"step": [50, 500], "loss_change": [-1.0, 1.0]})
    assert claims.negative_share(FakeRun({"scores": rows}), "probe") is None


def penalties(values: list[float], **changed: Any) -> FakeRun:
    columns = {"scorer": "loss_change", "fraction": 0.01, "set": "probe"} | changed
    return FakeRun({"penalties": pd.DataFrame({"penalty": values}).assign(**columns)})


@pytest.mark.parametrize(
    ("values", "holds", "directs"),
    [
        ([-1.0] * 9 + [1.0], True, True),
        ([-1.0] * 8 + [1.0] * 2, False, True),
        ([-1.0] * 9 + [20.0], True, False),
        ([1.0] * 10, False, False),
        ([0.0] * 10, False, False),
    ],
)
def test_c22(values, holds, directs):
    evidence = claims.two_lowest(penalties(values), "probe")
    assert (evidence.holds, evidence.directs) == (holds, directs)
    for other in ({"fraction": 0.05}, {"scorer": "random"}, {"set": "other"}):
        assert claims.two_lowest(penalties(values, **other), "probe") is None


def of(*pairs: tuple[bool, bool]) -> list[Evidence]:
    return [Evidence({"x": 1.0}, *pair) for pair in pairs]


YES, HALF, NO = (True, True), (False, True), (False, False)


@pytest.mark.parametrize(
    ("evidence", "word", "note"),
    [
        (of(YES, YES, YES, YES, NO), "reproduced", "5 seeds"),
        (of(YES, YES, YES, HALF, HALF), "partly", "5 seeds"),
        (of(YES, YES, YES, NO, NO), "not reproduced", "5 seeds"),
        (of(YES, YES, YES), "reproduced", "provisional, 3 seeds"),
        (of(YES, YES, HALF), "partly", "provisional, 3 seeds"),
        (of(YES, HALF, NO), "not reproduced", "provisional, 3 seeds"),
        ([None] * 5, "not testable", "5 seeds"),
    ],
)
def test_verdict_rules(evidence, word, note):
    verdict = judge(CLAIMS["C2.1"], evidence, own_setting=True, datasets=["mnist"])
    assert (verdict.word, verdict.note) == (word, note)


def real(run: FakeRun, **settings: Any) -> FakeRun:
    own = CLAIMS["C2.2"].setting | {"activation": "tanh", "seed": 0} | settings
    run.info = {"settings": own}
    return run


def test_only_the_claims_own_setting_is_judged():
    run = penalties([-1.0] * 10)
    run.tables["penalties"] = pd.concat(
        [run.tables["penalties"], penalties([1.0], set="other").tables["penalties"]]
    )
    judged = claims.verdict("C2.2", [real(run), real(penalties([1.0]), activation="relu")])
    assert str(judged) == "reproduced (provisional, 1 seed)"
    assert judged.other.word == "not reproduced"
    assert "the verdict there would be: not reproduced" in judged._repr_html_()
    elsewhere = claims.verdict("C2.2", [real(run, dataset="digits")])
    assert str(elsewhere) == "not judged (digits, 1 seed)"
    assert "the criterion speaks of dataset mnist" in elsewhere._repr_html_()


def test_what_the_block_says():
    html = judge(CLAIMS["C2.1"], of(YES, NO), True, ["mnist"])._repr_html_()
    assert 'class="verdict verdict-not-reproduced"' in html
    assert "The criterion holds in 1 of 2 seeds" in html
    assert "0x" not in html


def test_a_partly_reproduced_claim_names_its_direction():
    html = judge(CLAIMS["C2.2"], of(HALF), True, ["mnist"])._repr_html_()
    assert "the direction holds: mean penalty below 0" in html
