"""Verdict rules, and each criterion on made-up tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deadbook import claims
from deadbook.claims import CLAIMS, catalogue, judge
from deadbook.claims.catalogue import Claim
from deadbook.claims.evidence import Evidence
from deadunits import Invalid
from toys import BOTH, DIRECTION, NEITHER, FakeRun, decide, outcome

PRUNING = {"experiment": "weight_pruning"}


def shares(early: float, middle: float, late: float) -> FakeRun:
    """100 weights of which a share is negative: up to a quarter, a half and the end of 4,000 steps."""
    rows = []
    for step in range(50, 4001, 50):
        share = early if step <= 1000 else middle if step <= 2000 else late
        scores = [-1.0] * round(100 * share) + [1.0] * round(100 * (1 - share))
        rows += [pd.DataFrame({"step": step, "loss_change": scores, "set": on}) for on in ("probe", "other")]
    return FakeRun({"scores": pd.concat(rows)})


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (shares(0.35, 0.35, 0.35), BOTH),
        (shares(0.25, 0.25, 0.25), BOTH),
        (shares(0.40, 0.40, 0.28), DIRECTION),  # falls by more than 0.10
        (shares(0.50, 0.50, 0.50), DIRECTION),
        (shares(0.10, 0.10, 0.10), NEITHER),
    ],
)
def test_c21(run, expected):
    for on in ("probe", "other"):
        assert outcome(decide("C2.1", [run], on)) == expected


def test_c21_needs_measurements_after_step_500():
    rows = pd.DataFrame({"step": [50, 500], "loss_change": [-1.0, 1.0], "set": "probe"})
    assert decide("C2.1", [FakeRun({"scores": rows})], "probe") is None


def penalties(values: list[float], **changed: Any) -> FakeRun:
    columns = {"scorer": "loss_change", "fraction": 0.01, "set": "probe", "scored_on": "probe", "draw": 0}
    frame = pd.DataFrame({"penalty": values, "step": range(100, 100 * len(values) + 1, 100)})
    return FakeRun({"penalties": frame.assign(**(columns | changed))})


def joined(*parts: FakeRun, activation: str = "relu", epochs: int = 5) -> FakeRun:
    """One run of several scorers, with its training in as many epochs."""
    rows = pd.concat([part.tables["penalties"] for part in parts])
    training = pd.DataFrame({"step": rows["step"].unique()})
    training["epoch"] = training["step"] / training["step"].max() * epochs
    settings = {"epochs": epochs, "activation": activation}
    return FakeRun({"penalties": rows, "training": training}, {"settings": settings})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.0] * 9 + [1.0], BOTH),
        ([-1.0] * 8 + [1.0] * 2, DIRECTION),
        ([-1.0] * 9 + [20.0], (True, False)),
        ([1.0] * 10, NEITHER),
        ([0.0] * 10, NEITHER),
    ],
)
def test_c22(values, expected):
    assert outcome(decide("C2.2", [penalties(values)], "probe")) == expected
    for other in ({"fraction": 0.05}, {"scorer": "random"}, {"set": "other"}, {"scored_on": "other"}):
        assert decide("C2.2", [penalties(values, **other)], "probe") is None


# ten measurements in five epochs: the first 500 steps are five of them, the last epoch is two
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.0] * 5 + [0.0] * 3 + [1.0] * 2, BOTH),
        ([1.0] * 5 + [0.0] * 3 + [2.0] * 2, DIRECTION),
        ([-1.0] * 5 + [0.0] * 3 + [-0.5] * 2, DIRECTION),
        ([1.0] * 5 + [0.0] * 5, NEITHER),
    ],
)
def test_c23(values, expected):
    run = joined(penalties(values, fraction=0.05))
    assert outcome(decide("C2.3", [run], "probe")) == expected
    assert decide("C2.3", [run], "other") is None


@pytest.mark.parametrize(
    ("late", "expected"),
    [([0.0, 3.0], BOTH), ([3.0, 3.0], BOTH), ([0.0, 0.0], NEITHER), ([1.0, 1.0], NEITHER)],
)
def test_c24(late, expected):
    chosen = penalties([9.0] * 8 + late, fraction=0.05)  # what comes before the last epoch does not count
    draws = [
        penalties([level] * 10, fraction=0.05, scorer="random", draw=i) for i, level in ((0, 1.0), (1, -9.0))
    ]
    assert outcome(decide("C2.4", [joined(chosen, *draws)], "probe")) == expected


def test_c24_once_in_many_is_the_direction():
    chosen = penalties([0.0] * 199 + [2.0], fraction=0.05)  # 1 of the 40 of the last epoch
    draw = penalties([1.0] * 200, fraction=0.05, scorer="random")
    assert outcome(decide("C2.4", [joined(chosen, draw)], "probe")) == DIRECTION


@pytest.mark.parametrize(
    ("growing", "expected"),
    [
        (("taylor1", "taylor2", "hessian"), BOTH),
        (("taylor1", "taylor2"), DIRECTION),
        (("taylor2", "hessian"), NEITHER),
    ],
)
def test_c25(growing, expected):
    """The loss change scorer's own penalty grows too: what counts is what is beyond it."""
    own = [float(i) for i in range(10)]
    parts = [penalties(own, fraction=0.05)]
    for scorer in ("taylor1", "taylor2", "hessian"):
        beyond = [0.0] * 8 + [1.0 if scorer in growing else -1.0] * 2
        values = [a + b for a, b in zip(own, beyond, strict=True)]
        parts.append(penalties(values, fraction=0.05, scorer=scorer))
    assert outcome(decide("C2.5", [joined(*parts)], "probe")) == expected


def ranked(first: str, last: str) -> FakeRun:
    """Scores in which the named one is the exact order, and the others nearly the reverse of it."""
    exact, rows = [0.0, 1.0, 2.0, 3.0], []
    for step, best in ((50, first), (9050, last)):
        found = {name: exact if name == best else [3.0, 1.5, 1.0, 0.0] for name in ("taylor1", "hessian")}
        if best == "taylor2":  # the sum of the two
            found = {"taylor1": [0.0, 3.0, 0.0, 3.0], "hessian": [0.0, -2.0, 2.0, 0.0]}
        rows.append(pd.DataFrame({"step": step, "set": "probe", "loss_change": exact} | found))
    return FakeRun({"scores": pd.concat(rows)})


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("taylor1", "taylor1", BOTH),
        ("taylor1", "hessian", DIRECTION),
        ("taylor2", "taylor1", DIRECTION),
        ("taylor2", "hessian", NEITHER),
    ],
)
def test_c26(first, last, expected):
    assert outcome(decide("C2.6", [ranked(first, last)], "probe")) == expected
    assert decide("C2.6", [ranked(first, last)], "other") is None


SIGNED = ("taylor1", "taylor2", "hessian", "loss_change")


def most(activation: str, levels: dict[str, float], spread: dict[str, float] | None = None) -> FakeRun:
    """Penalties at 0.8 around a level a scorer: by default signed 3, absolute 2, magnitude 1."""
    every = dict.fromkeys(SIGNED, 3.0) | {f"{name}_abs": 2.0 for name in SIGNED} | {"magnitude": 1.0}
    parts = []
    for scorer, level in (every | levels).items():
        off = (spread or {}).get(scorer, 0.1 * level)
        parts.append(penalties([level - off, level, level + off], fraction=0.8, scorer=scorer))
    return joined(*parts, activation=activation)


@pytest.mark.parametrize(
    ("relu", "tanh", "expected"),
    [
        ({}, {}, BOTH),
        ({}, {"hessian_abs": 4.0}, DIRECTION),
        ({"hessian_abs": 4.0}, {}, DIRECTION),
        ({"hessian_abs": 4.0, "taylor1_abs": 4.0}, {}, NEITHER),
    ],
)
def test_c27(relu, tanh, expected):
    case = [most("relu", relu), most("tanh", tanh)]
    assert outcome(decide("C2.7", case, "probe")) == expected
    assert decide("C2.7", case[:1], "probe") is None


@pytest.mark.parametrize(
    ("relu", "tanh", "spread", "expected"),
    [
        ({}, {}, {}, BOTH),
        ({}, {"taylor2": 0.5}, {}, DIRECTION),
        ({}, {}, {"magnitude": 0.9}, DIRECTION),  # lowest, but not the steadiest
        ({"taylor2": 0.5}, {}, {}, DIRECTION),  # a signed one does not count for the direction
        ({"taylor2_abs": 0.5}, {}, {}, NEITHER),
    ],
)
def test_c28(relu, tanh, spread, expected):
    case = [most("relu", relu, spread), most("tanh", tanh, spread)]
    assert outcome(decide("C2.8", case, "probe")) == expected


def priced(passes: float, double: float) -> FakeRun:
    """Second-order scores of so many passes, `double` times as slow with four times the weights."""
    rows = [
        {"scorer": scorer, "widths": widths, "weights": 100 * widths**2, "seconds": seconds, "passes": passes}
        for scorer in ("taylor2", "hessian")
        for widths, seconds in ((1, 1.0), (2, double))
    ]
    return FakeRun({"costs": pd.DataFrame(rows)})


@pytest.mark.parametrize(
    ("passes", "double", "expected"),
    [(7.0, 6.0, BOTH), (7.1, 4.0, DIRECTION), (3.0, 6.1, DIRECTION), (10.1, 4.0, NEITHER)],
)
def test_c29(passes, double, expected):
    assert outcome(decide("C2.9", [priced(passes, double)], "probe")) == expected
    assert decide("C2.9", [priced(passes, double)], "other") is None


def scheduled(jumps: list[float], final: float, **more: pd.DataFrame) -> list[FakeRun]:
    """A pruned run and its twin, whose loss changes by 0.2 at most between two measurements."""
    pruned = pd.DataFrame({"fraction": [0.2, 0.5, 0.8, 0.9], "before": 1.0, "set": "probe"})
    pruned["after"] = pruned["before"] + jumps
    training = pd.DataFrame({"step": range(0, 500, 50), "probe": [0.0, 0.2] * 5})
    ends = [pd.DataFrame({"train_loss": [loss]}) for loss in (1.0 + final, 1.0)]
    return [
        FakeRun({"final": ends[1], "training": training}, PRUNING),
        FakeRun({"final": ends[0], "training": training, "pruned": pruned} | more, PRUNING, by="layer"),
    ]


@pytest.mark.parametrize(
    ("jumps", "final", "expected"),
    [
        ([0.0, 0.09, 0.3, 0.4], 0.05, BOTH),
        ([0.0, 0.11, 0.3, 0.4], 0.05, DIRECTION),
        ([0.0, 0.09, 0.19, 0.4], 0.05, DIRECTION),  # the twin does that by itself
        ([0.0, 0.09, 0.3, 0.4], 0.07, DIRECTION),
        ([0.0, 0.09, 0.3, 0.4], 0.11, NEITHER),
        ([0.5, 0.09, 0.3, 0.4], 0.0, NEITHER),
    ],
)
def test_c210(jumps, final, expected):
    case = scheduled(jumps, final - 1e-9)
    assert outcome(decide("C2.10", case, "probe")) == expected
    assert decide("C2.10", case[:1], "probe") is None
    assert decide("C2.10", case[1:], "probe") is None


@pytest.mark.parametrize(("empty", "expected"), [(3, BOTH), (2, BOTH), (1, DIRECTION), (0, NEITHER)])
def test_c211(empty, expected):
    shape = pd.DataFrame([{"layer": "conv1", "units": 8, "channels": 1, "height": 2, "width": 2}])
    values = pd.DataFrame({"layer": "conv1", "weight": range(32), "value": 1.0})
    values.loc[values["weight"] < 4 * empty, "value"] = 0.0
    values.loc[31, "value"] = 0.0  # a single zero is no empty filter
    run = FakeRun({"weights": shape, "values": values}, PRUNING, by="layer")
    assert outcome(decide("C2.11", [run], "probe")) == expected
    assert decide("C2.11", [run], "other") is None


def removed(parameters: int, chosen: float, lost: float) -> list[FakeRun]:
    """So many of 100 parameters left where the accuracy on probe is `chosen`; the masked network has 0.9."""
    rows = [
        {"fnz": 0.0, "parameters": 90, "probe_accuracy": 0.9, "test_accuracy": 0.9},
        {"fnz": 0.1, "parameters": parameters, "probe_accuracy": chosen, "test_accuracy": 0.9 - lost},
        {"fnz": 0.2, "parameters": 10, "probe_accuracy": 0.5, "test_accuracy": 0.5},
    ]
    tables = {
        "removal": pd.DataFrame(rows).assign(carried=True),
        "final": pd.DataFrame({"probe_accuracy": [0.9], "test_accuracy": [0.9]}),
        "values": pd.DataFrame({"value": range(95)}),
        "weights": pd.DataFrame({"units": [5]}),
    }
    twin = FakeRun({"final": pd.DataFrame({"test_accuracy": [0.95]})}, PRUNING)
    return [twin, FakeRun(tables, PRUNING, by="layer")]


@pytest.mark.parametrize(
    ("parameters", "chosen", "lost", "expected"),
    [
        (50, 0.897, 0.003, BOTH),
        (51, 0.9, 0.0, DIRECTION),
        (50, 0.9, 0.004, NEITHER),
        (50, 0.896, 0.0, NEITHER),  # not chosen, so 90 parameters are left
        (71, 0.9, 0.0, NEITHER),
    ],
)
def test_c212(parameters, chosen, lost, expected):
    evidence = decide("C2.12", removed(parameters, chosen, lost), "probe")
    assert outcome(evidence) == expected
    assert decide("C2.12", removed(50, 0.9, 0.0)[:1], "probe") is None


def on_three_sets(other: dict[str, float]) -> FakeRun:
    levels = {
        name: float(i) for i, name in enumerate(("magnitude", *SIGNED, *(f"{one}_abs" for one in SIGNED)))
    }
    parts = []
    for on in ("probe", "other", "train_probe"):
        for scorer, level in (levels | (other if on == "other" else {})).items():
            parts.append(penalties([level] * 3, fraction=0.8, scorer=scorer, set=on, scored_on=on))
    parts.append(penalties([99.0] * 3, fraction=0.8, scorer="magnitude", set="other"))  # judged elsewhere
    return joined(*parts)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, BOTH),
        ({"loss_change_abs": 6.5}, BOTH),  # two places change hands
        ({"magnitude": 1.5}, DIRECTION),  # another best scorer
        ({"loss_change_abs": -1.0, "hessian_abs": -2.0}, NEITHER),
    ],
)
def test_c213(other, expected):
    assert outcome(decide("C2.13", [on_three_sets(other)], "probe")) == expected
    assert decide("C2.13", [on_three_sets(other)], "other") is None


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
        ([*of(YES, YES, YES), None, None], "reproduced", "provisional, 3 seeds"),  # two could not be judged
    ],
)
def test_verdict_rules(evidence, word, note):
    verdict = judge(CLAIMS["C2.1"], evidence, differs={}, datasets=["mnist"])
    assert (verdict.outcome, verdict.note) == (word, note)


def real(run: FakeRun, **settings: Any) -> FakeRun:
    own = {name: allowed[0] for name, allowed in CLAIMS["C2.2"].setting["saliency"].items()}
    run.info = {"experiment": "saliency", "settings": own | {"seed": 0} | settings}
    return run


def test_only_the_claims_own_setting_is_judged():
    run = penalties([-1.0] * 10)
    run.tables["penalties"] = pd.concat(
        [run.tables["penalties"], penalties([1.0], set="other").tables["penalties"]]
    )
    judged = claims.verdict("C2.2", [real(run), real(penalties([1.0]), activation="relu")])
    assert str(judged) == "reproduced (provisional, 1 seed)"
    assert judged.other.outcome == "not reproduced"
    assert "The verdict there would be: not reproduced" in judged._repr_html_()
    elsewhere = claims.verdict("C2.2", [real(run, dataset="digits")])
    assert str(elsewhere) == "not judged (digits, 1 seed)"
    assert "the criterion speaks of dataset mnist<" in elsewhere._repr_html_()  # and of nothing that agrees


def test_what_the_block_says():
    html = judge(CLAIMS["C2.1"], of(YES, NO), {}, ["mnist"])._repr_html_()
    assert 'class="verdict verdict-not-reproduced"' in html
    assert "The criterion holds in 1 of 2 seeds" in html
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
    class Of:
        def __init__(self, seed, activation, batch_norm=False):
            self.info = {"settings": {"seed": seed, "activation": activation, "batch_norm": batch_norm}}

    some = [
        Of(0, "relu", True),
        Of(1, "relu", True),
        Of(0, "tanh"),
        Of(0, "tanh"),
        Of(0, "relu"),
        Of(1, "relu"),
    ]
    assert claims.fewest(some) == (1, "tanh")
    assert claims.fewest([]) == (0, "")


def test_a_partly_reproduced_claim_names_its_direction():
    html = judge(CLAIMS["C2.2"], of(HALF), {}, ["mnist"])._repr_html_()
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
    run = real(shares(0.35, 0.35, 0.35), activation="relu")
    before = claims.verdict("C2.1", [run])
    stricter = changed(tmp_path, ("high: 0.45", "high: 0.3"), ("low_partly: 0.15", "low_partly: 0.4"))
    monkeypatch.setitem(CLAIMS, "C2.1", stricter["C2.1"])
    after = claims.verdict("C2.1", [run])
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
