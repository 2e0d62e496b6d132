"""Verdict rules, and the criteria of chapter 2's first list on made-up tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cases import LEVELS, Cases, of, run
from deadbook import claims
from deadbook.analysis.measures import SIGNED
from deadbook.claims import CLAIMS, catalogue, judge
from deadbook.claims.catalogue import Claim
from deadbook.claims.evidence import Evidence
from deadbook.claims.weights import ABSOLUTE, APPROXIMATIONS
from deadunits import Invalid
from toys import FakeRun, decide, outcome

CASES = Cases()
case = CASES.add


def shares(early: float, middle: float, late: float) -> FakeRun:
    """100 weights of which a share is negative: up to a quarter, a half and the end of 4,000 steps."""
    parts = []
    for step in range(50, 4001, 50):
        share = early if step <= 1000 else middle if step <= 2000 else late
        scores = [-1.0] * round(100 * share) + [1.0] * round(100 * (1 - share))
        parts.append(pd.DataFrame({"step": step, "loss_change": scores, "set": "probe"}))
    return run("saliency", {"scores": pd.concat(parts)})


@case("C2.1")
def negative(level: str) -> list[FakeRun]:
    if level == "lacking":  # measurements after step 500
        rows = pd.DataFrame({"step": [50, 500], "loss_change": [-1.0, 1.0], "set": "probe"})
        return [run("saliency", {"scores": rows})]
    return [shares(*of(level, (0.25, 0.25, 0.25), (0.40, 0.40, 0.28), (0.10, 0.10, 0.10)))]


def penalties(values: Sequence[float], **changed: Any) -> pd.DataFrame:
    columns = {"scorer": "loss_change", "fraction": 0.01, "set": "probe", "scored_on": "probe", "draw": 0}
    frame = pd.DataFrame({"penalty": values, "step": range(100, 100 * len(values) + 1, 100)})
    return frame.assign(**(columns | changed))


def saliency(*parts: pd.DataFrame, activation: str = "relu") -> FakeRun:
    """One run of several scorers, with its training in five epochs."""
    rows = pd.concat(parts)
    training = pd.DataFrame({"step": rows["step"].unique()})
    training["epoch"] = training["step"] / training["step"].max() * 5
    tables = {"penalties": rows, "training": training}
    return run("saliency", tables, epochs=5, activation=activation)


@case("C2.2")
def two(level: str) -> list[FakeRun]:
    values = of(level, [-1.0] * 9 + [1.0], [-1.0] * 8 + [1.0] * 2, [0.0] * 10)
    unread = ({"fraction": 0.05}, {"scorer": "random"}, {"set": "other"}, {"scored_on": "other"})
    parts = [penalties([-9.0] * 10, **other) for other in unread]
    return [saliency(*parts, *([] if level == "lacking" else [penalties(values)]))]


def test_a_high_penalty_now_and_then_may_fail_the_direction_alone():
    cases = [saliency(penalties([-1.0] * 9 + [20.0]))]
    assert outcome(decide("C2.2", cases, "probe")) == (True, False)


@case("C2.3")
def ten(level: str) -> list[FakeRun]:
    """Ten measurements in five epochs: the first 500 steps are five of them, the last epoch is two."""
    early, late = of(level, (-1.0, 1.0), (1.0, 2.0), (1.0, 0.0))
    fraction = 0.01 if level == "lacking" else 0.05
    return [saliency(penalties([early] * 5 + [0.0] * 3 + [late] * 2, fraction=fraction))]


@case("C2.4")
def beside_random(level: str) -> list[FakeRun]:
    """Once of two, once of forty, never; what comes before the last epoch does not count."""
    late, number = of(level, ([0.0, 3.0], 10), ([0.0] * 39 + [2.0], 200), ([1.0, 1.0], 10))
    chosen = penalties([9.0] * (number - len(late)) + late, fraction=0.05)
    draws = [
        penalties([at] * number, fraction=0.05, scorer="random", draw=i) for i, at in ((0, 1.0), (1, -9.0))
    ]
    return [saliency(*draws, *([] if level == "lacking" else [chosen]))]


@case("C2.5")
def stand_ins(level: str) -> list[FakeRun]:
    """The loss change scorer's own penalty grows too: what counts is what is beyond it."""
    growing = of(level, APPROXIMATIONS, APPROXIMATIONS[:2], APPROXIMATIONS[1:])
    parts = [] if level == "lacking" else [penalties(range(10), fraction=0.05)]
    for scorer in APPROXIMATIONS:
        more = 1.0 if scorer in growing else -1.0
        values = [i + more * (i > 7) for i in range(10)]
        parts.append(penalties(values, fraction=0.05, scorer=scorer))
    return [saliency(*parts)]


@case("C2.6")
def ranking(level: str) -> list[FakeRun]:
    """Scores in which the named one is the exact order, and the others nearly the reverse of it."""
    exact, parts = [0.0, 1.0, 2.0, 3.0], []
    best = of(level, ("taylor1", "taylor1"), ("taylor2", "taylor1"), ("taylor2", "hessian"))
    for step, name in zip((50, 9050), best, strict=True):
        scores = {it: exact if it == name else [3.0, 1.5, 1.0, 0.0] for it in ("taylor1", "hessian")}
        if name == "taylor2":  # the sum of the two
            scores = {"taylor1": [0.0, 3.0, 0.0, 3.0], "hessian": [0.0, -2.0, 2.0, 0.0]}
        parts.append(pd.DataFrame({"step": step, "loss_change": exact} | scores))
    on = "train_probe" if level == "lacking" else "probe"
    return [run("saliency", {"scores": pd.concat(parts).assign(set=on)})]


def most(activation: str, spread: float = 0.1, **levels: float) -> FakeRun:
    """Penalties at 0.8 around a level a scorer: by default signed 3, absolute 2, magnitude 1."""
    levels = dict.fromkeys(SIGNED, 3.0) | dict.fromkeys(ABSOLUTE, 2.0) | {"magnitude": 1.0} | levels
    parts = []
    for scorer, level in levels.items():
        off = spread if scorer == "magnitude" else 0.1 * level
        parts.append(penalties([level - off, level, level + off], fraction=0.8, scorer=scorer))
    return saliency(*parts, activation=activation)


@case("C2.7")
def absolute(level: str) -> list[FakeRun]:
    relu = of(level, {}, {"hessian_abs": 4.0}, {"hessian_abs": 4.0, "taylor1_abs": 4.0})
    return [most("relu", **relu), *([] if level == "lacking" else [most("tanh")])]


@case("C2.8")
def magnitude(level: str) -> list[FakeRun]:
    """Lowest and steadiest; lowest but for a signed score, which does not count for the direction; not."""
    relu = of(level, {}, {"taylor2": 0.5}, {"taylor2_abs": 0.5})
    return [most("relu", **relu), *([] if level == "lacking" else [most("tanh")])]


def test_the_lowest_need_not_be_the_steadiest():
    evidence = decide("C2.8", [most("relu", 0.9), most("tanh", 0.9)], "probe")
    assert (evidence.holds, evidence.direction_holds) == (False, True)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("passes", "double"), [((7.0, 7.1, 10.1), (6.0, 4.0, 4.0)), ((3.0, 3.0, 11.0), (6.0, 6.1, 6.1))]
)
def test_c29(level, passes, double):
    """So many passes, and so many times as slow with four times the weights."""
    passes, double = of(level, *passes), of(level, *double)
    costs = [(s, w, 100 * w**2, t, passes) for s in APPROXIMATIONS[1:] for w, t in ((1, 1.0), (2, double))]
    costs = pd.DataFrame(costs, columns=["scorer", "widths", "weights", "seconds", "passes"])
    cases = [run("costs", {"costs": costs[costs["widths"] == 1] if level == "lacking" else costs})]
    assert CASES.compare("C2.9", cases, "probe") == LEVELS[level]


def scheduled(jumps: Sequence[float], final: float) -> list[FakeRun]:
    """A pruned run and its twin, whose loss changes by 0.2 at most between two measurements."""
    pruned = pd.DataFrame({"fraction": [0.2, 0.5, 0.8, 0.9], "before": 1.0, "set": "probe"})
    pruned["after"] = pruned["before"] + jumps
    training = pd.DataFrame({"step": range(0, 500, 50), "probe": [0.0, 0.2] * 5})
    ours, twin = (
        {"final": pd.DataFrame({"train_loss": [at]}), "training": training} for at in (1 + final, 1)
    )
    return [run("weight_pruning", twin), run("weight_pruning", ours | {"pruned": pruned}, by="layer")]


@pytest.mark.parametrize(
    ("jumps", "final", "expected"),
    [
        ([0.0, 0.09, 0.3, 0.4], 0.05, "holds"),
        ([0.0, 0.11, 0.3, 0.4], 0.05, "direction"),
        ([0.0, 0.09, 0.19, 0.4], 0.05, "direction"),  # the twin does that by itself
        ([0.0, 0.09, 0.3, 0.4], 0.07, "direction"),
        ([0.0, 0.09, 0.3, 0.4], 0.11, "neither"),
        ([0.5, 0.09, 0.3, 0.4], 0.0, "neither"),
    ],
)
def test_c210(jumps, final, expected):
    cases = scheduled(jumps, final - 1e-9)
    assert CASES.compare("C2.10", cases, "probe") == LEVELS[expected]
    assert decide("C2.10", cases[:1], "probe") is None
    assert decide("C2.10", cases[1:], "probe") is None


@case("C2.11")
def empty(level: str) -> list[FakeRun]:
    shape = pd.DataFrame([{"layer": "conv1", "units": 8, "channels": 1, "height": 2, "width": 2}])
    values = pd.DataFrame({"layer": "conv1", "weight": range(32), "value": 1.0})
    values.loc[values["weight"] < 4 * of(level, 2, 1, 0), "value"] = 0.0
    values.loc[31, "value"] = 0.0  # a single zero is no empty filter
    by = "network" if level == "lacking" else "layer"
    return [run("weight_pruning", {"weights": shape, "values": values}, by)]


@pytest.mark.parametrize(
    ("parameters", "chosen", "lost", "expected"),
    [
        (50, 0.897, 0.003, "holds"),
        (51, 0.9, 0.0, "direction"),
        (50, 0.9, 0.004, "neither"),
        (50, 0.896, 0.0, "neither"),  # not chosen, so 90 parameters are left
        (71, 0.9, 0.0, "neither"),
    ],
)
def test_c212(parameters, chosen, lost, expected):
    """So many of 100 parameters left where the accuracy on probe is `chosen`; the masked network has 0.9."""
    columns = ["fnz", "parameters", "probe_accuracy", "test_accuracy"]
    rows = [(0.0, 90, 0.9, 0.9), (0.1, parameters, chosen, 0.9 - lost), (0.2, 10, 0.5, 0.5)]
    tables = {
        "removal": pd.DataFrame(rows, columns=columns).assign(carried=True),
        "final": pd.DataFrame({"probe_accuracy": [0.9], "test_accuracy": [0.9]}),
        "values": pd.DataFrame({"value": range(95)}),
        "weights": pd.DataFrame({"units": [5]}),
    }
    twin = run("weight_pruning", {"final": pd.DataFrame({"test_accuracy": [0.95]})})
    cases = [twin, run("weight_pruning", tables, by="layer")]
    assert CASES.compare("C2.12", cases, "probe") == LEVELS[expected]
    assert decide("C2.12", cases[:1], "probe") is None


@case("C2.13")
def on_three_sets(level: str) -> list[FakeRun]:
    """Two places change hands; another best scorer; another order."""
    levels = {name: float(i) for i, name in enumerate(("magnitude", *SIGNED, *ABSOLUTE))}
    other = of(
        level, {"loss_change_abs": 6.5}, {"magnitude": 1.5}, {"loss_change_abs": -1.0, "hessian_abs": -2.0}
    )
    parts = [penalties([99.0] * 3, fraction=0.8, scorer="magnitude", set="other")]  # judged elsewhere
    for on in ("probe", "other", "train_probe")[: 2 if level == "lacking" else 3]:
        for scorer, at in (levels | (other if on == "other" else {})).items():
            parts.append(penalties([at] * 3, fraction=0.8, scorer=scorer, set=on, scored_on=on))
    return [saliency(*parts)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("claim_id", CASES)
def test_four_outcomes(claim_id, level):
    CASES.check(claim_id, level, "probe")


@pytest.mark.parametrize("claim_id", ["C2.6", "C2.11", "C2.13"])
def test_what_is_not_measured_on_other_images_is_not_judged_there(claim_id):
    assert decide(claim_id, CASES[claim_id]("holds"), "other") is None


def found(*pairs: tuple[bool, bool]) -> list[Evidence]:
    return [Evidence({"x": 1.0}, *pair) for pair in pairs]


YES, HALF, NO = (True, True), (False, True), (False, False)


@pytest.mark.parametrize(
    ("evidence", "word", "note"),
    [
        (found(YES, YES, YES, YES, NO), "reproduced", "5 seeds"),
        (found(YES, YES, YES, HALF, HALF), "partly", "5 seeds"),
        (found(YES, YES, YES, NO, NO), "not reproduced", "5 seeds"),
        (found(YES, YES, YES), "reproduced", "provisional, 3 seeds"),
        (found(YES, YES, HALF), "partly", "provisional, 3 seeds"),
        (found(YES, HALF, NO), "not reproduced", "provisional, 3 seeds"),
        ([None] * 5, "not testable", "5 seeds"),
        (
            [*found(YES, YES, YES), None, None],
            "reproduced",
            "provisional, 3 seeds",
        ),  # two could not be judged
    ],
)
def test_verdict_rules(evidence, word, note):
    verdict = judge(CLAIMS["C2.1"], evidence, differs={}, datasets=["mnist"])
    assert (verdict.outcome, verdict.note) == (word, note)


def real(made: FakeRun, **settings: Any) -> FakeRun:
    """The run in the setting of C2.2."""
    fixed = {name: allowed[0] for name, allowed in CLAIMS["C2.2"].setting["saliency"].items()}
    made.info["settings"] = fixed | {"seed": 0} | settings
    return made


def test_only_the_claims_own_setting_is_judged():
    made = saliency(penalties([-1.0] * 10), penalties([1.0], set="other"))
    judged = claims.verdict("C2.2", [real(made), real(saliency(penalties([1.0])), activation="relu")])
    assert str(judged) == "reproduced (provisional, 1 seed)"
    assert judged.other.outcome == "not reproduced"
    assert "The verdict there would be: not reproduced" in judged._repr_html_()
    elsewhere = claims.verdict("C2.2", [real(made, dataset="digits")])
    assert str(elsewhere) == "not judged (digits, 1 seed)"
    assert "the criterion speaks of dataset mnist<" in elsewhere._repr_html_()  # and of nothing that agrees


def test_what_the_block_says():
    """A heading with the claim, the verdict, the thesis's number and ours; the rest unfolds."""
    html = judge(CLAIMS["C2.1"], found(YES, NO), {}, ["mnist"])._repr_html_()
    assert 'class="verdict verdict-not-reproduced"' in html
    assert "The criterion holds in 1 of 2 seeds" in html
    assert "x: here 1 (1 to 1); provisional, 2 seeds</span></h3><details>" in html
    assert "<dt>Claim</dt><dd>About 35% of the weights" in html.partition("<details>")[2]
    evidence = [Evidence({"points below the twin": 0.4, "parameters": 4019.0}, True, True)] * 5
    several = judge(CLAIMS["C4.7"], evidence, {}, [])._repr_html_()
    assert ">thesis 0 / 4,019, here 0.4 / 4,019; 5 seeds<" in several
    assert "0x" not in html


def test_a_seed_with_a_measure_that_is_nan_is_not_judged():
    """As after a training that diverged; it would be "not reproduced" otherwise."""
    nan = float("nan")
    evidence = [Evidence({"x": value}, value > 0, value > 0) for value in (1.0, nan, 3.0)]
    verdict = judge(CLAIMS["C2.1"], evidence, {}, ["mnist"], few=(3, "relu"))
    assert str(verdict) == "reproduced (provisional, 2 seeds)"
    assert verdict.measured()[0] == "x: 2 (1 to 3)"
    verdict = judge(CLAIMS["C2.1"], [Evidence({"x": nan, "y": 1.0}, False, False)] * 5, {}, ["mnist"])
    assert str(verdict) == "not testable (5 seeds)"


def test_a_verdict_is_provisional_if_one_of_its_networks_has_few_seeds():
    evidence = [Evidence({"x": 1.0}, True, True)] * 5
    judged = [judge(CLAIMS["C2.1"], evidence, {}, ["cifar10"], few=few) for few in ((3, "tanh"), (5, "relu"))]
    assert [verdict.note for verdict in judged] == ["provisional, 5 seeds, 3 of tanh", "5 seeds"]


def test_the_network_with_the_fewest_seeds():
    kinds = [(0, "relu", True), (1, "relu", True), (0, "tanh", False), (0, "relu", False), (1, "relu", False)]
    runs = [run("attacks", {}, seed=seed, activation=name, batch_norm=norm) for seed, name, norm in kinds]
    assert claims.fewest([*runs, runs[2]]) == (1, "tanh")
    assert claims.fewest([]) == (0, "")


def test_a_partly_reproduced_claim_names_its_direction():
    html = judge(CLAIMS["C2.2"], found(HALF), {}, ["mnist"])._repr_html_()
    assert "the direction holds: mean penalty below 0" in html


def changed(tmp_path: Path, *changes: tuple[str, str]) -> dict[str, Claim]:
    """The claims of `claims.yaml` with changes, read anew."""
    text = catalogue.FILE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    return {claim.id: claim for claim in catalogue.read(file).claims}


def test_a_threshold_changes_the_sentence_and_the_verdict(tmp_path, monkeypatch):
    runs = [real(shares(0.35, 0.35, 0.35), activation="relu")]
    before = claims.verdict("C2.1", runs)
    stricter = changed(tmp_path, ("high: 0.45", "high: 0.3"), ("low_partly: 0.15", "low_partly: 0.4"))
    monkeypatch.setitem(CLAIMS, "C2.1", stricter["C2.1"])
    after = claims.verdict("C2.1", runs)
    assert (before.outcome, after.outcome) == ("reproduced", "not reproduced")
    assert "step 500 is 0.25 to 0.45, and" in before._repr_html_()
    assert "step 500 is 0.25 to 0.3, and" in after._repr_html_()
    assert after.claim.filled(after.claim.direction) == "mean share above 0.4"


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_threshold_is_shown_in_a_sentence(claim):
    for name, value in claim.thresholds.items():
        other = claim.thresholds | {name: [*value, 0] if isinstance(value, list) else value + 1}
        other = claim.model_copy(update={"thresholds": other})
        templates = claim.words, claim.criterion, claim.direction
        shown = any(claim.filled(words) != other.filled(words) for words in templates)
        assert shown or ("fell" in name and "by C3.2" in claim.criterion)  # where C3.2 shows it


def test_all_claims_mean_the_same_by_a_unit_that_fell():
    assert len({CLAIMS[name].thresholds["fell"] for name in ("C3.2", "C3.4", "C3.11")}) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("low: 0.25", "low: a quarter", r"C2\.1\.thresholds\.low\.float: Input should be a valid number"),
        ("low: 0.25, ", "", r"C2\.1: .*thresholds must be after, drift, high, low, low_partly"),
        ("low: 0.25", "lwo: 0.25", r"C2\.1: .*thresholds must be after, drift, high, low, low_partly"),
        ("is {low} to", "is {least} to", r"C2\.1: .*names in braces must be after, low, high, drift, low_p"),
        ("is {low} to", "is {low:%d} to", r"C2\.1: .*in 'the mean share"),
        ("    place: 2.1.2, Fig. 2.2a\n", "", r"C2\.2\.place: Field required"),
        ("    pooled: true", "    pooled: 1", r"C3\.5\.pooled: Input should be a valid boolean"),
        ("    pooled: true", "    poolde: true", r"C3\.5\.poolde: must be one of id, words, place, crit"),
        ("scored_on: train_probe", "scored_on: train", r"C4\.1\.scored_on: Input should be 'probe' or"),
        ("by: weights.two_lowest", "by: weights.jumps", r"C2\.2: .*thresholds must be gap"),
        ("by: weights.two_lowest", "by: weights.tow", r"C2\.2: .*decided_by must be weights"),
        ("by: weights.two_lowest", "by: os.system", r"C2\.2: .*decided_by must be weights"),
        ("- id: C2.4\n", "- id: C2.2\n", r"ids must differ.*\['C2\.2'\]"),
        ("{saliency: [", "{salience: [", r"`settings` have each experiment: \['salience'\]"),
        ("  - id: C2.1\n    words", "  - words", r"claim 1\.id: Field required"),
        ("  - id: C2.2\n", "  - C2.2\n  - id: C2.2\n", r"claim 2: Input should be a valid dictionary"),
        ("claims:\n", "claims: [\n", r"claims\.yaml: while parsing"),
    ],
)
def test_a_claim_that_is_wrong_is_named_with_what_must_be_there(tmp_path, old, new, message):
    with pytest.raises(Invalid, match=message):
        changed(tmp_path, (old, new))


def test_a_claim_is_judged_in_the_settings_of_its_chapters_in_the_thesis_profile():
    assert CLAIMS["C2.2"].setting["saliency"]["activation"] == ("tanh",)
    assert CLAIMS["C2.7"].setting["saliency"]["activation"] == ("relu", "tanh")
    assert CLAIMS["C2.10"].setting["weight_pruning"]["schedule"][1] == []  # the twin's
    assert CLAIMS["C3.1"].setting["attacks"]["epochs"] == (10, 30)
    assert CLAIMS["C3.2"].setting["attacks"]["batch_norm"] == (True,)
    assert CLAIMS["C4.1"].setting["units"]["widths"] == ([8, 16, 64],)
    assert list(CLAIMS["C4.12"].setting) == ["unit_pruning", "weight_pruning"]
