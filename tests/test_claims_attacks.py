"""The criteria of chapter 3 on made-up tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from deadunits import attack_criteria, claims, trials
from deadunits.claims import CLAIMS
from deadunits.experiments.attacks import TWIN
from toys import BOTH, DIRECTION, NEITHER, FakeRun, outcome

TEN = {"interval": 10, "repeats": 10, "multiplier": 100, "control": False}
SIZES = {"conv1": 8, "conv2": 16}
BEFORE = 2.0  # the final MRP of every unit of a twin


def run(
    final: dict[int, float] | None = None,
    *,
    seed: int = 0,
    on: str = "probe",
    loss: float = 1.0,
    diverged: int = 0,
    columns: dict[str, dict[int, float]] | None = None,
    **settings: Any,
) -> FakeRun:
    """A run of three epochs whose unit has, in the last one, these values; all others have the twin's."""
    settings = {"activation": "relu", "batch_norm": True} | dict(TWIN) | settings | {"seed": seed}
    rows = []
    for layer, size in SIZES.items():
        units = pd.DataFrame({"unit": range(size), "mrp": BEFORE, "norm_in": 3.0})
        units = units.assign(norm_out=5.0, gradient=0.5, layer=layer)
        if layer == settings["layer"]:
            for column, values in ({"mrp": final or {}} | (columns or {})).items():
                for unit, value in values.items():
                    units.loc[units["unit"] == unit, column] = value
        for step, epoch in ((100, 1.0), (200, 2.0), (250, 2.5), (300, 3.0)):
            late = epoch > 2
            shown = units if late else units.assign(mrp=77.0, norm_in=77.0, norm_out=77.0, gradient=77.0)
            shift = 0.5 if step == 250 else -0.5 if step == 300 else 0  # the mean over the epoch counts
            rows.append(shown.assign(step=step, epoch=epoch, set=on, mrp=shown["mrp"] * (1 + shift)))
    units = pd.concat(rows)
    other = units.assign(set="other" if on == "probe" else "probe", mrp=55.0)
    table = pd.concat([units, other]).assign(activation=settings["activation"], seed=seed)
    final_row = pd.DataFrame({"train_loss": [loss], "diverged": [diverged]})
    info = {"experiment": "attacks", "settings": settings}
    return FakeRun({"units": table.sample(frac=1, random_state=0), "final": final_row}, info)


def attack(unit: int, mrp: float, layer: str = "conv1", start: int = 50, **more: Any) -> FakeRun:
    return run({unit: mrp}, **(TEN | {"layer": layer, "unit": unit, "start": start} | more))


def three(ratios: dict[int, float], controls: dict[int, float] | None = None, **more: Any) -> list[FakeRun]:
    """A twin, the attacks on units 0, 4 and 2, and their controls."""
    controls = controls or dict.fromkeys(ratios, 1.0)
    columns = more.pop("columns", {})
    losses = more.pop("losses", {})
    attacks = [
        attack(u, BEFORE * r, columns=columns.get(u), loss=losses.get(u, 1.0), **more)
        for u, r in ratios.items()
    ]
    return [
        run(**more),
        *attacks,
        *(attack(unit, BEFORE * ratio, control=True, **more) for unit, ratio in controls.items()),
    ]


@pytest.mark.parametrize("on", ["probe", "other"])
@pytest.mark.parametrize(
    ("ratios", "controls", "expected"),
    [
        ((0.4, 1.2, 0.9), (1, 1, 1), BOTH),
        ((0.4, 0.3, 0.9), (1, 1, 1), BOTH),
        ((0.4, 0.3, 0.2), (1, 1, 1), DIRECTION),  # all fell
        ((0.6, 0.7, 1.2), (1, 1, 1), DIRECTION),  # none fell
        ((0.4, 0.7, 1.2), (0.7, 1, 1), DIRECTION),  # the control fell as well
        ((0.4, 1.1, 1.2), (0.5, 1, 1), NEITHER),
        ((0.6, 1.1, 1.2), (1, 1, 1), NEITHER),
    ],
)
def test_some_units_fall(ratios, controls, expected, on):
    units = attack_criteria.UNITS
    case = three(dict(zip(units, ratios, strict=True)), dict(zip(units, controls, strict=True)), on=on)
    evidence = attack_criteria.some_units_fall(case, on)
    assert outcome(evidence) == expected
    for unit, ratio in zip(units, ratios, strict=True):
        assert evidence.values[f"unit {unit}, over the twin's"] == pytest.approx(ratio)


@pytest.mark.parametrize(
    "judge",
    [attack_criteria.some_units_fall, attack_criteria.silent_loss, attack_criteria.marks_of_the_fallen],
)
def test_runs_that_are_missing_or_diverged_leave_nothing_to_judge(judge):
    case = three({0: 0.4, 4: 0.9, 2: 0.9})
    assert judge(case, "probe") is not None
    assert judge([], "probe") is None
    assert judge(case[1:], "probe") is None  # no twin
    assert judge([case[0], *case[2:]], "probe") is None  # one attack less
    case[1].tables["final"]["diverged"] = 60
    assert judge(case, "probe") is None


@pytest.mark.parametrize(
    ("losses", "expected"), [((1.0, 1.04, 0.96), BOTH), ((1.0, 1.1, 1.0), DIRECTION), ((0.8, 1, 1), NEITHER)]
)
def test_silent_loss(losses, expected):
    case = three({0: 1.0, 4: 1.0, 2: 1.0}, losses=dict(zip((0, 4, 2), losses, strict=True)))
    assert outcome(attack_criteria.silent_loss(case, "probe")) == expected


@pytest.mark.parametrize(
    ("norm_in", "norm_out", "gradient", "expected"),
    [(4, 4, 0.4, BOTH), (4, 6, 0.4, DIRECTION), (4, 6, 0.6, NEITHER), (2, 4, 0.4, DIRECTION)],
)
def test_marks_of_the_fallen(norm_in, norm_out, gradient, expected):
    fallen = {"norm_in": {0: norm_in}, "norm_out": {0: norm_out}, "gradient": {0: gradient}}
    others = {"norm_in": {4: 1}, "norm_out": {4: 9}, "gradient": {4: 9}}  # of a unit that did not fall
    case = three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: fallen, 4: others})
    assert outcome(attack_criteria.marks_of_the_fallen(case, "probe")) == expected
    assert attack_criteria.marks_of_the_fallen(three({0: 0.6, 4: 0.9, 2: 0.9}), "probe") is None


def started(rows: dict[tuple[int, str], tuple[float, ...]]) -> list[FakeRun]:
    """Attacks on unit 0 at the four times: ratios by seed and layer."""
    twins = [run(seed=seed) for seed in {seed for seed, _ in rows}]
    return twins + [
        attack(0, BEFORE * ratio, layer, start, seed=seed)
        for (seed, layer), ratios in rows.items()
        for start, ratio in zip(attack_criteria.STARTS, ratios, strict=True)
    ]


def everywhere(ratios: tuple[float, ...], seeds: int = 5) -> list[FakeRun]:
    return started({(seed, layer): ratios for seed in range(seeds) for layer in SIZES})


def test_the_start_matters():
    unordered = attack_criteria.the_start_matters(everywhere((0.5, 0.9, 0.2, 0.8)), "probe")
    assert outcome(unordered) == BOTH
    assert unordered.values["p"] < 0.01
    rising = attack_criteria.the_start_matters(everywhere((0.2, 0.4, 0.6, 0.8)), "probe")
    assert outcome(rising) == DIRECTION  # it matters, and in an order
    constant = attack_criteria.the_start_matters(everywhere((0.5, 0.5, 0.5, 0.5)), "probe")
    assert outcome(constant) == NEITHER
    assert constant.values["p"] == 1
    assert attack_criteria.the_start_matters([run()], "probe") is None
    assert attack_criteria.the_start_matters(everywhere((0.5, 0.9, 0.2, 0.8))[:-4], "probe") is not None
    assert attack_criteria.the_start_matters([run(), attack(0, 1.0, start=500)], "probe") is None


def test_the_permutation_test_is_one():
    """Over random ratios p is uniform, near enough; a block's own level does not matter."""
    chance = np.random.default_rng(1)
    found = []
    for _ in range(20):
        rows = {(s, layer): tuple(chance.uniform(0.1, 1, 4) * 10**s) for s in range(3) for layer in SIZES}
        found.append(attack_criteria.the_start_matters(started(rows), "probe").values["p"])
    assert 0.25 < np.mean(found) < 0.75
    dead = attack_criteria.the_start_matters(everywhere((0.0, 0.9, 0.9, 0.9)), "probe")
    assert np.isfinite(dead.values["p"])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.9, 0.7, 0.5, 0.3), (0.9, 0.8, 0.7, 0.8), BOTH),  # -1, -0.6
        ((0.9, 0.7, 0.5, 0.3), (0.8, 0.9, 0.7, 0.8), DIRECTION),
        ((0.9, 0.7, 0.5, 0.3), (0.7, 0.8, 0.9, 0.8), NEITHER),
    ],
)
def test_harder_is_deadlier(first, second, expected):
    def hit(layer, ratio, multiplier):
        return attack(0, BEFORE * ratio, layer, interval=100, multiplier=multiplier)

    case = [run()]
    for layer, ratios in (("conv1", first), ("conv2", second)):
        case += [hit(layer, ratio, m) for ratio, m in zip(ratios, (10, 30, 100, 300), strict=True)]
    evidence = attack_criteria.harder_is_deadlier(case, "probe")
    assert outcome(evidence) == expected
    assert attack_criteria.harder_is_deadlier(case[:5], "probe") is None


@pytest.mark.parametrize(
    ("rise", "fall", "die", "expected"),
    [(9, 6, 1, BOTH), (9, 7, 0, NEITHER), (8, 7, 1, DIRECTION), (0, 10, 6, NEITHER), (2, 10, 4, DIRECTION)],
)
def test_stronger_or_dead(rise, fall, die, expected):
    ratios = [1.5] * rise + [0.5] * fall + [0.0] * die
    plain = {"batch_norm": False, "start": 2000}
    case = [run(batch_norm=False)]
    case += [attack(unit, BEFORE * ratio, "conv2", **plain) for unit, ratio in enumerate(ratios)]
    evidence = attack_criteria.stronger_or_dead(case, "probe")
    assert evidence.values == {"rose": rise, "fell": fall + die, "died": die}
    assert outcome(evidence) == expected
    assert attack_criteria.stronger_or_dead(case[:-1], "probe") is None


@pytest.mark.parametrize(
    ("norms", "expected"), [((9, 9), BOTH), ((9, 2), BOTH), ((2, 2), NEITHER), ((2, 9), BOTH)]
)
def test_large_and_useless(norms, expected):
    case = []
    for seed, norm in enumerate(norms):
        case += three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: {"norm_in": {0: norm}}}, seed=seed)
    evidence = attack_criteria.large_and_useless(case, "probe")
    assert evidence.values["units that fell"] == 2
    assert outcome(evidence) == expected
    assert attack_criteria.large_and_useless(three({0: 0.6, 4: 0.9, 2: 0.9}), "probe") is None


def test_a_unit_of_three_large_ones_is_not_in_the_top_quarter_of_eight():
    large = {0: 5, 1: 9, 3: 9}
    case = three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: {"norm_in": large}})
    assert attack_criteria.large_and_useless(case, "probe").values["share in the top quarter"] == 0
    case = three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: {"norm_in": {0: 5, 1: 9}}})
    assert attack_criteria.large_and_useless(case, "probe").values["share in the top quarter"] == 1


def test_a_pooled_claim_is_judged_once_and_counts_its_seeds():
    setting = CLAIMS["C3.5"].setting
    fixed = {name: allowed[0] for name, allowed in setting.items()}

    def judged(seeds):
        case = everywhere((0.5, 0.9, 0.2, 0.8), seeds)
        for one in case:
            one.info["settings"] |= {name: fixed[name] for name in fixed.keys() - one.info["settings"].keys()}
        return claims.verdict("C3.5", case)

    assert str(judged(5)) == "reproduced (5 seeds)"
    assert str(judged(2)) == "reproduced (provisional, 2 seeds)"
    assert judged(5).measured()[-1] == "All seeds together: the criterion holds"
    assert len(judged(5).evidence) == 1


def test_networks_that_the_claim_does_not_speak_of_are_left_out():
    plain = [run(batch_norm=False), attack(0, 1.0, batch_norm=False)]
    for one in plain:
        one.info["settings"] |= {"dataset": "cifar10"}
    assert claims.verdict("C3.2", plain).word == "not judged"


def test_curves_stand_beside_their_own_twin():
    case = [run(seed=0), run({0: 9.0}, seed=1, layer="conv1"), attack(0, 1.0, seed=0), attack(0, 1.0, seed=1)]
    rows = trials.curves(case[2:], case)
    assert set(rows["kind"]) == {"twin", "attack"}
    ratios = trials.ratios(rows).set_index("seed")["ratio"]
    assert ratios[0] == pytest.approx(1 / BEFORE)
    assert ratios[1] == pytest.approx(1 / 9)
    assert set(trials.curves(case[2:], case, on="other")["mrp"]) == {55.0}
