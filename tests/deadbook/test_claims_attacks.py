"""The criteria of chapter 3 on made-up tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from deadbook import claims
from deadbook.analysis import trials
from deadbook.analysis.trials import TWIN
from deadbook.build import book
from deadbook.claims import CLAIMS, attacks
from toys import BOTH, DIRECTION, NEITHER, FakeRun, decide, outcome

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
    units = attacks.UNITS
    case = three(dict(zip(units, ratios, strict=True)), dict(zip(units, controls, strict=True)), on=on)
    evidence = decide("C3.2", case, on)
    assert outcome(evidence) == expected
    for unit, ratio in zip(units, ratios, strict=True):
        assert evidence.values[f"unit {unit}, over the twin's"] == pytest.approx(ratio)


@pytest.mark.parametrize("claim_id", ["C3.2", "C3.3", "C3.4"])
def test_runs_that_are_missing_or_diverged_leave_nothing_to_judge(claim_id):
    case = three({0: 0.4, 4: 0.9, 2: 0.9})
    assert decide(claim_id, case, "probe") is not None
    assert decide(claim_id, [], "probe") is None
    assert decide(claim_id, case[1:], "probe") is None  # no twin
    assert decide(claim_id, [case[0], *case[2:]], "probe") is None  # one attack less
    case[1].tables["final"]["diverged"] = 60
    assert decide(claim_id, case, "probe") is None


@pytest.mark.parametrize(
    ("losses", "expected"), [((1.0, 1.04, 0.96), BOTH), ((1.0, 1.1, 1.0), DIRECTION), ((0.8, 1, 1), NEITHER)]
)
def test_silent_loss(losses, expected):
    case = three({0: 1.0, 4: 1.0, 2: 1.0}, losses=dict(zip((0, 4, 2), losses, strict=True)))
    assert outcome(decide("C3.3", case, "probe")) == expected


@pytest.mark.parametrize(
    ("norm_in", "norm_out", "gradient", "expected"),
    [(4, 4, 0.4, BOTH), (4, 6, 0.4, DIRECTION), (4, 6, 0.6, NEITHER), (2, 4, 0.4, DIRECTION)],
)
def test_marks_of_the_fallen(norm_in, norm_out, gradient, expected):
    fallen = {"norm_in": {0: norm_in}, "norm_out": {0: norm_out}, "gradient": {0: gradient}}
    others = {"norm_in": {4: 1}, "norm_out": {4: 9}, "gradient": {4: 9}}  # of a unit that did not fall
    case = three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: fallen, 4: others})
    assert outcome(decide("C3.4", case, "probe")) == expected
    assert decide("C3.4", three({0: 0.6, 4: 0.9, 2: 0.9}), "probe") is None


def started(rows: dict[tuple[int, str], tuple[float, ...]]) -> list[FakeRun]:
    """Attacks on unit 0 at the four times: ratios by seed and layer."""
    twins = [run(seed=seed) for seed in {seed for seed, _ in rows}]
    return twins + [
        attack(0, BEFORE * ratio, layer, start, seed=seed)
        for (seed, layer), ratios in rows.items()
        for start, ratio in zip(attacks.STARTS, ratios, strict=True)
    ]


def everywhere(ratios: tuple[float, ...], seeds: int = 5) -> list[FakeRun]:
    return started({(seed, layer): ratios for seed in range(seeds) for layer in SIZES})


def test_the_start_matters():
    unordered = decide("C3.5", everywhere((0.5, 0.9, 0.2, 0.8)), "probe")
    assert outcome(unordered) == BOTH
    assert unordered.values["p"] < 0.01
    rising = decide("C3.5", everywhere((0.2, 0.4, 0.6, 0.8)), "probe")
    assert outcome(rising) == DIRECTION  # it matters, and in an order
    constant = decide("C3.5", everywhere((0.5, 0.5, 0.5, 0.5)), "probe")
    assert outcome(constant) == NEITHER
    assert constant.values["p"] == 1
    assert decide("C3.5", [run()], "probe") is None
    assert decide("C3.5", everywhere((0.5, 0.9, 0.2, 0.8))[:-4], "probe") is not None
    assert decide("C3.5", [run(), attack(0, 1.0, start=500)], "probe") is None


def test_the_permutation_test_is_one():
    """Over random ratios p is uniform, near enough; a block's own level does not matter."""
    chance = np.random.default_rng(1)
    found = []
    for _ in range(8):
        rows = {(s, layer): tuple(chance.uniform(0.1, 1, 4) * 10**s) for s in range(3) for layer in SIZES}
        found.append(decide("C3.5", started(rows), "probe").values["p"])
    assert 0.25 < np.mean(found) < 0.75
    dead = decide("C3.5", everywhere((0.0, 0.9, 0.9, 0.9)), "probe")
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
    evidence = decide("C3.6", case, "probe")
    assert outcome(evidence) == expected
    assert decide("C3.6", case[:5], "probe") is None


@pytest.mark.parametrize(
    ("rise", "fall", "die", "expected"),
    [(9, 6, 1, BOTH), (9, 7, 0, NEITHER), (8, 7, 1, DIRECTION), (0, 10, 6, NEITHER), (2, 10, 4, DIRECTION)],
)
def test_stronger_or_dead(rise, fall, die, expected):
    ratios = [1.5] * rise + [0.5] * fall + [0.0] * die
    plain = {"batch_norm": False, "start": 2000}
    case = [run(batch_norm=False)]
    case += [attack(unit, BEFORE * ratio, "conv2", **plain) for unit, ratio in enumerate(ratios)]
    evidence = decide("C3.9", case, "probe")
    assert evidence.values == {"rose": rise, "fell": fall + die, "died": die}
    assert outcome(evidence) == expected
    assert decide("C3.9", case[:-1], "probe") is None


@pytest.mark.parametrize(
    ("norms", "expected"), [((9, 9), BOTH), ((9, 2), BOTH), ((2, 2), NEITHER), ((2, 9), BOTH)]
)
def test_large_and_useless(norms, expected):
    case = []
    for seed, norm in enumerate(norms):
        case += three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: {"norm_in": {0: norm}}}, seed=seed)
    evidence = decide("C3.11", case, "probe")
    assert evidence.values["units that fell"] == 2
    assert outcome(evidence) == expected
    assert decide("C3.11", three({0: 0.6, 4: 0.9, 2: 0.9}), "probe") is None


def test_a_unit_of_three_large_ones_is_not_in_the_top_quarter_of_eight():
    large = {0: 5, 1: 9, 3: 9}
    case = three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: {"norm_in": large}})
    assert decide("C3.11", case, "probe").values["share in the top quarter"] == 0
    case = three({0: 0.4, 4: 0.9, 2: 0.9}, columns={0: {"norm_in": {0: 5, 1: 9}}})
    assert decide("C3.11", case, "probe").values["share in the top quarter"] == 1


def test_a_pooled_claim_is_judged_once_and_counts_its_seeds():
    setting = CLAIMS["C3.5"].setting["attacks"]
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
    assert claims.verdict("C3.2", plain).outcome == "not judged"


def test_curves_stand_beside_their_own_twin():
    case = [run(seed=0), run({0: 9.0}, seed=1, layer="conv1"), attack(0, 1.0, seed=0), attack(0, 1.0, seed=1)]
    rows = trials.curves(case[2:], case)
    assert set(rows["kind"]) == {"twin", "attack"}
    ratios = trials.ratios(rows).set_index("seed")["ratio"]
    assert ratios[0] == pytest.approx(1 / BEFORE)
    assert ratios[1] == pytest.approx(1 / 9)
    assert set(trials.curves(case[2:], case, on="other")["mrp"]) == {55.0}


def reached(accuracy: float, activation: str, batch_norm: bool, diverged: int = 0, **more: Any) -> FakeRun:
    twin = run(activation=activation, batch_norm=batch_norm, diverged=diverged, **more)
    twin.tables["final"]["accuracy"] = accuracy
    return twin


@pytest.mark.parametrize(
    ("normed", "tanh", "relu", "expected"),
    [
        (0.67, 0.64, 0.61, BOTH),
        (0.70, 0.61, 0.58, BOTH),
        (0.67, 0.6099, 0.61, DIRECTION),
        (0.73, 0.58, 0.61, DIRECTION),
        (0.67, 0.64, 0.6701, NEITHER),
        (0.67, 0.64, None, BOTH),
        (None, 0.57, 0.61, NEITHER),
    ],
)
def test_accuracies(normed, tanh, relu, expected):
    kinds = [("relu", True), ("tanh", False), ("relu", False)]
    chosen = [(one, kind) for one, kind in zip((normed, tanh, relu), kinds, strict=True) if one is not None]
    case = [reached(accuracy, *kind) for accuracy, kind in chosen]
    case += [reached(0.1, *kind, **TEN) for _, kind in chosen]  # attacks may reach what they like
    evidence = decide("C3.1", case, "probe")
    assert outcome(evidence) == expected
    assert len(evidence.values) == len(chosen)
    assert decide("C3.1", case, "other") is None  # test images are test images


def test_accuracies_of_no_network_leave_nothing_to_judge():
    assert decide("C3.1", [], "probe") is None
    assert decide("C3.1", [reached(0.1, "tanh", False, diverged=9)], "probe") is None
    assert decide("C3.1", [reached(0.67, "relu", True, **TEN)], "probe") is None


def test_a_network_that_only_some_seeds_have_is_averaged_over_those():
    seeds = [[reached(0.67, "relu", True)], [reached(0.65, "relu", True), reached(0.5, "tanh", False)]]
    evidence = [decide("C3.1", case, "probe") for case in seeds]
    said = claims.judge(CLAIMS["C3.1"], evidence, {}, ["cifar10"]).measured()
    assert said[:2] == ["ReLU with batch norm, accuracy in %: 66 (65 to 67)", "tanh, accuracy in %: 50"]


TANH = {"activation": "tanh", "batch_norm": False}
FLATTEN = {"start": 2000, "multiplier": 1000} | TANH


def activations(shares: dict[int, float], layer: str = "conv1") -> pd.DataFrame:
    """Counts of activations of which, when they were last kept, such shares are in the outermost bins."""
    rows = []
    for unit, share in shares.items():
        for step, now in ((100, 1.0), (300, share)):  # at first all are
            bins = {0: 250 * now, 39: 750 * now, 1: 500 * (1 - now), 20: 500 * (1 - now)}
            one = pd.DataFrame({"bin": list(bins), "count": list(bins.values())})
            rows.append(one.assign(step=step, layer=layer, unit=unit, what="activation"))
            rows.append(pd.DataFrame({"bin": [0], "count": 9, "step": step, "what": "output"}))
            rows[-1] = rows[-1].assign(layer=layer, unit=unit)
    return pd.concat(rows).sample(frac=1, random_state=0)


def flattened(ratios: tuple[float, ...], flat: tuple[float, ...], on: str = "probe") -> list[FakeRun]:
    twin = run(on=on, **TANH)
    twin.tables["values"] = activations(dict.fromkeys(range(4), 0.2))
    case = [twin, run(on=on)]
    for unit, (ratio, share) in enumerate(zip(ratios, flat, strict=True)):
        case.append(attack(unit, BEFORE * ratio, on=on, **FLATTEN))
        case[-1].tables["values"] = activations({unit: share})
        case.append(attack(unit, BEFORE * 3, on=on, **FLATTEN | {"control": True}))
        case.append(attack(unit, BEFORE * 3, on=on, **FLATTEN | {"start": 50}))
    return case


@pytest.mark.parametrize("on", ["probe", "other"])
@pytest.mark.parametrize(
    ("ratios", "flat", "expected"),
    [
        ((0.9, 0.2, 0.5, 0.99), (0.4, 0.3, 0.9, 0.21), BOTH),
        ((0.9, 0.2, 0.5, 1.01), (0.4, 0.3, 0.9, 0.5), DIRECTION),
        ((0.9, 0.2, 0.5, 0.9), (0.4, 0.3, 0.9, 0.1), DIRECTION),  # one is not pushed to the ends
        ((0.9, 0.2, 1.5, 1.2), (0.4, 0.3, 0.9, 0.5), NEITHER),
    ],
)
def test_pushed_to_the_ends(ratios, flat, expected, on):
    evidence = decide("C3.7", flattened(ratios, flat, on), on)
    assert outcome(evidence) == expected
    assert evidence.values["share of activations beyond 0.95, twin"] == pytest.approx(0.2)
    for unit, ratio in enumerate(ratios):
        assert evidence.values[f"unit {unit}, over the twin's"] == pytest.approx(ratio)


def test_pushed_to_the_ends_needs_all_four_their_twin_and_their_values():
    def case():
        return flattened((0.5,) * 4, (0.5,) * 4)

    def judged(runs):
        return decide("C3.7", runs, "probe")

    assert judged(case()) is not None
    for missing in (0, 2):  # the twin, an attack
        assert judged([one for i, one in enumerate(case()) if i != missing]) is None
        diverged, unkept, unwatched = case(), case(), case()
        diverged[missing].tables["final"]["diverged"] = 2010
        del unkept[missing].tables["values"]
        unwatched[missing].tables["values"] = activations({7: 0.5})
        for runs in (diverged, unkept, unwatched):
            assert judged(runs) is None


def timed(soon: float, middle: float, late: float, first: int = 150, **more: Any) -> list[FakeRun]:
    """Attacks on unit 16 of fc1: from step 50 so much of the twin's MRP soon after, and in the end."""

    def one(start: int, ratio: float, repeats: int = 10) -> FakeRun:
        rows = []
        for step, factor in ((140, 99.0), (first, ratio), (1140, ratio), (1141, -99.0), (9000, 1.0)):
            final = ratio if start > 50 else 0.1  # the effect of the first fades
            units = pd.DataFrame(
                {"unit": [15, 16], "mrp": [7.0, BEFORE * (final if step == 9000 else factor)]}
            )
            rows.append(units.assign(step=step, epoch=step / 300, layer="fc1"))
        units = pd.concat(rows)
        tables = {"units": pd.concat([units.assign(set=on) for on in ("probe", "other")]).assign(seed=0)}
        settings = TANH | TEN | {"layer": "fc1", "unit": 16, "start": start, "multiplier": 1000, "seed": 0}
        info = {"experiment": "attacks", "settings": settings | {"repeats": repeats} | more}
        return FakeRun(tables | {"final": pd.DataFrame({"diverged": [0]})}, info)

    return [one(start=60, ratio=1.0, repeats=0), one(50, soon), one(2500, middle), one(5000, late)]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((1.1, 0.9, 0.9), BOTH),
        ((0.9, 0.9, 0.9), DIRECTION),
        ((1.1, 1.1, 0.9), DIRECTION),
        ((1.1, 0.9, 1.1), DIRECTION),
        ((0.9, 1.1, 0.9), NEITHER),
        ((1.1, 1.1, 1.1), NEITHER),
    ],
)
def test_timing_with_tanh(ratios, expected):
    for on in ("probe", "other"):
        evidence = decide("C3.8", timed(*ratios), on)
        assert outcome(evidence) == expected
        assert evidence.values["from 50, over the twin's in the 1,000 steps after"] == pytest.approx(
            ratios[0]
        )


def test_timing_with_tanh_needs_all_three_and_a_measurement_soon_after():
    for missing in range(4):
        case = timed(1.1, 0.9, 0.9)
        case[missing].tables["final"]["diverged"] = 3
        assert decide("C3.8", case, "probe") is None
        del case[missing]
        assert decide("C3.8", case, "probe") is None
    case = timed(1.1, 0.9, 0.9)
    for one in case:
        rows = one.tables["units"]
        one.tables["units"] = rows[~rows["step"].between(141, 1140) | (rows["set"] == "probe")]
    assert decide("C3.8", case, "probe") is not None
    assert decide("C3.8", case, "other") is None


SAME, NOT_FIRST, UNLIKE = [1, 2, 3, 4, 5], [2, 1, 3, 4, 5], [1, 5, 4, 3, 2]  # Spearman 1, 0.9, 0 with 1 to 5


def measured(
    orders: list[dict[str, list[float]]],
    layer: str = "conv1",
    first: int = 501,
    diverged: int = 0,
    **settings: Any,
) -> FakeRun:
    """A run with these values of the units at each measurement, or 1 to 5; others up to step 500."""
    rows = []
    for i, own in enumerate([{"mrs": [5, 4, 3, 2, 1], "mrp": SAME}] * 3 + orders):
        columns = dict.fromkeys(("mrp", "mrs", "norm_in", "gradient"), SAME) | own
        step = first + i - 3 if i >= 3 else first - 1 - i
        rows.append(pd.DataFrame(columns).astype(float).assign(step=step, layer=layer, unit=range(5)))
    units = pd.concat(rows)
    units = pd.concat([units.assign(set="probe"), units.assign(set="other")]).sample(frac=1, random_state=0)
    settings = {"activation": "relu", "batch_norm": True} | dict(TWIN) | settings | {"seed": 0}
    tables = {"units": units, "final": pd.DataFrame({"diverged": [diverged]})}
    return FakeRun(tables, {"experiment": "attacks", "settings": settings})


def by(**columns: list[list[float]]) -> list[dict[str, list[float]]]:
    """Measurements: of each column the values at one after the other."""
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([SAME] * 9 + [NOT_FIRST], BOTH),
        ([SAME] * 9 + [UNLIKE], BOTH),
        ([SAME] * 8 + [NOT_FIRST], DIRECTION),  # found in 8 of 9
        ([SAME] * 7 + [UNLIKE] * 3, DIRECTION),  # 0.7
        ([SAME] * 5 + [UNLIKE] * 5, NEITHER),
    ],
)
def test_smallest_found(orders, expected):
    half = len(orders) // 2
    case = [
        measured(by(mrs=orders[:half])),
        measured(by(mrs=orders[half:]), layer="fc1", **TEN),
        measured(by(mrs=[[5, 4, 3, 2, 1]] * 30), diverged=700, **TEN),
    ]
    for on in ("probe", "other"):
        assert outcome(decide("C3.10", case, on)) == expected


def test_any_unit_of_the_lowest_penalty_is_the_smallest():
    dead = {"mrp": [0, 0, 1, 2, 3]}
    for mrs, share in (
        ([1, 0, 2, 3, 4], 1),
        ([0, 1, 2, 3, 4], 1),
        ([0, 0, 2, 3, 4], 1),
        ([3, 4, 0, 1, 2], 0),
    ):
        evidence = decide("C3.10", [measured([dead | {"mrs": mrs}])], "probe")
        assert evidence.values["share with the same smallest unit"] == share


def test_the_correlations_are_those_of_each_measurement():
    chance = np.random.default_rng(0)
    orders = [
        {name: chance.integers(0, 4, 5).tolist() for name in ("mrp", "mrs", "norm_in", "gradient")}
        for _ in range(40)
    ]
    alike = [{"mrp": [1] * 5}]  # is left out
    frames = [pd.DataFrame(one) for one in orders]
    wanted = [one.corr("spearman")["mrp"] for one in frames if one["mrp"].nunique() > 1]
    case = [measured(orders[:20] + alike), measured(orders[20:], layer="conv2")]
    values = decide("C3.13", case, "probe").values
    for name, column in (("MRS", "mrs"), ("norm of the weights", "norm_in"), ("output gradient", "gradient")):
        mean = np.nanmean([one[column] for one in wanted])
        assert values[f"mean rank correlation, {name}"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("mrs", "norm", "gradient", "expected"),
    [
        (SAME, NOT_FIRST, UNLIKE, BOTH),
        (NOT_FIRST, SAME, UNLIKE, DIRECTION),
        (NOT_FIRST, UNLIKE, SAME, DIRECTION),
        (UNLIKE, SAME, NOT_FIRST, NEITHER),
        (SAME, SAME, SAME, NEITHER),
    ],
)
def test_best_predictor(mrs, norm, gradient, expected):
    case = [measured(by(mrs=[mrs], norm_in=[norm], gradient=[gradient]))]
    for on in ("probe", "other"):
        assert outcome(decide("C3.13", case, on)) == expected


@pytest.mark.parametrize("claim_id", ["C3.10", "C3.13"])
def test_no_measurement_after_step_500_leaves_nothing_to_judge(claim_id):
    for case in ([], [measured([{}], diverged=900)], [measured([])], [measured([{"mrp": [1] * 5}])]):
        assert decide(claim_id, case, "probe") is None


def lasting(dead: tuple[int, int], frozen: tuple[int, int], diverged: int = 0, **more: Any) -> FakeRun:
    """So many units dead (frozen) at half-time, and of them so many still; more at all other times."""
    rows = []
    for step, which in ((100, None), (400, None), (600, 0), (800, None), (1100, 1)):
        units = pd.DataFrame({"unit": range(60), "mrp": 1.0, "gradient": 1.0, "step": step, "layer": "fc1"})
        for column, counts in (("mrp", dead), ("gradient", frozen)):
            many = 30 if which is None else counts[which]
            units.loc[units["unit"] < many, column] = 0.0
            units.loc[units["unit"] == 59, column] = 0.06 * units[column].mean()  # is not below 5%
            if which == 1:  # others may follow
                units.loc[units["unit"] == 50, column] = 0.0
        rows.append(units)
    units = pd.concat(rows)
    other = units[units["step"] != 100]
    tables = {"units": pd.concat([units.assign(set="probe"), other.assign(set="other")])}
    tables["final"] = pd.DataFrame({"diverged": [diverged]})
    settings = {"activation": "relu", "batch_norm": True} | dict(TWIN) | more | {"seed": 0}
    return FakeRun(tables, {"experiment": "attacks", "settings": settings})


@pytest.mark.parametrize(
    ("dead", "frozen", "expected"),
    [
        ((10, 9), (20, 18), BOTH),
        ((10, 9), (0, 0), BOTH),  # none was frozen
        ((0, 0), (10, 10), BOTH),
        ((10, 8), (20, 18), DIRECTION),
        ((10, 9), (20, 14), DIRECTION),
        ((10, 10), (20, 13), NEITHER),
        ((10, 6), (0, 0), NEITHER),
    ],
)
def test_stays_so(dead, frozen, expected):
    for on in ("probe", "other"):
        case = [lasting(dead, frozen), lasting((9, 0), (9, 0), diverged=1200, **TEN)]
        evidence = decide("C3.12", case, on)
        assert outcome(evidence) == expected
        assert (evidence.values["dead at half-time"], evidence.values["frozen at half-time"]) == (
            dead[0],
            frozen[0],
        )


def test_what_stays_is_counted_over_the_runs_of_a_seed():
    case = [lasting((10, 10), (2, 2)), lasting((2, 0), (0, 0), **TEN | {"control": True})]
    evidence = decide("C3.12", case, "probe")
    assert evidence.values["share that stays dead"] == pytest.approx(10 / 12)
    assert evidence.values["share that stays frozen"] == 1
    assert decide("C3.12", [lasting((0, 0), (0, 0))], "probe") is None
    assert decide("C3.12", [], "probe") is None
    once = lasting((5, 5), (5, 5))
    once.tables["units"] = once.tables["units"].query("step == 100")
    assert decide("C3.12", [once], "probe") is None
    assert decide("C3.12", [once], "other") is None


GROWING = [1, 2, 3, 4, 5]  # the weights of the attacked unit, over time
FALLING, MIXED, RISING = [5, 4, 3, 2, 1], [4, 3, 5, 1, 2], [1, 3, 2, 4, 5]  # Spearman -1, -0.7, 0.9


def over_time(gradient: list[float], diverged: int = 0, **settings: Any) -> FakeRun:
    """The attacked unit's gradient over time; that of the others is another."""
    rows = []
    for step, now in enumerate(gradient):
        for unit, layer in ((3, "conv1"), (4, "conv1"), (3, "fc1")):
            own = now if (unit, layer) == (3, "conv1") else step
            rows.append(
                {"gradient": own, "norm_in": GROWING[step], "step": step, "unit": unit, "layer": layer}
            )
    units = pd.DataFrame(rows)
    units = pd.concat([units.assign(set="probe"), units.assign(set="other")])
    settings = (
        {"activation": "relu", "batch_norm": True}
        | TEN
        | {"layer": "conv1", "unit": 3, "start": 50, "multiplier": 100}
        | settings
    )
    tables = {"units": units, "final": pd.DataFrame({"diverged": [diverged]})}
    return FakeRun(tables, {"experiment": "attacks", "settings": settings | {"seed": 0}})


@pytest.mark.parametrize(
    ("normed", "tanh", "expected"),
    [
        ([FALLING, MIXED], [FALLING], BOTH),
        ([FALLING], [], BOTH),
        ([], [MIXED], BOTH),
        ([FALLING], [FALLING, RISING], DIRECTION),  # a mean of -0.05
        ([FALLING, RISING], [FALLING], DIRECTION),
        ([FALLING], [RISING], NEITHER),
        ([RISING], [], NEITHER),
    ],
)
def test_gradient_against_weights(normed, tanh, expected):
    case = [over_time(one) for one in normed] + [over_time(one, **TANH) for one in tanh]
    unread = [
        over_time(RISING, batch_norm=False),
        over_time(RISING, control=True),
        over_time(RISING, repeats=0),
        over_time(RISING, diverged=4),
        over_time([2] * 5),  # without a correlation
    ]
    for on in ("probe", "other"):
        assert outcome(decide("C3.14", case + unread, on)) == expected
    assert decide("C3.14", unread, "probe") is None


def test_a_run_that_diverged_is_not_counted_and_one_that_is_missing_is_missed():
    plain = {"batch_norm": False, "start": 2000}
    ratios = [1.5] * 9 + [0.5] * 6 + [0.0]
    case = [run(batch_norm=False)]
    case += [attack(unit, BEFORE * ratio, "conv2", **plain) for unit, ratio in enumerate(ratios)]
    case[1].tables["final"]["diverged"] = 2003
    case[1].tables["units"] = case[1].tables["units"].query("step < 200")
    evidence = decide("C3.9", case, "probe")
    assert evidence.values == {"rose": 8, "fell": 7, "died": 1}
    assert outcome(evidence) == BOTH
    assert decide("C3.9", case[1:], "probe") is None  # without the twin


def test_seeds_whose_twin_is_missing_or_diverged_are_left_out_of_a_pool():
    rows = {(seed, layer): (0.5, 0.9, 0.2, 0.8) for seed in range(3) for layer in SIZES}
    odd = {(3, layer): (0.9, 0.2, 0.8, 0.1) for layer in SIZES}
    wanted = decide("C3.5", started(rows), "probe")
    case = started(rows | odd)
    assert decide("C3.5", case, "probe") != wanted
    (twin,) = (one for one in case if one.info["settings"]["seed"] == 3 and trials.kind(one) == "twin")
    assert decide("C3.5", [one for one in case if one is not twin], "probe") == wanted
    twin.tables["final"]["diverged"] = 9
    assert decide("C3.5", case, "probe") == wanted
    untold = [one for one in case if trials.kind(one) != "twin"]
    assert decide("C3.5", untold, "probe") is None
    multiplied = [attack(0, 1.0, layer, interval=100, multiplier=m) for layer in SIZES for m in (10, 30)]
    assert decide("C3.6", multiplied, "probe") is None


def test_a_unit_that_is_dead_in_the_twin_as_well_has_no_ratio():
    case = three({0: 0.0, 4: 0.9, 2: 0.9}, {0: 0.0, 4: 1.0, 2: 1.0})
    for one in case:
        rows = one.tables["units"]
        rows.loc[(rows["unit"] == 0) & (rows["layer"] == "conv1"), "mrp"] = 0.0
    assert decide("C3.2", case, "probe") is None
    assert decide("C3.11", case, "probe") is None


@pytest.mark.parametrize("claim_id", [f"C3.{i}" for i in range(1, 15)])
def test_chapter_3_is_judged_in_the_claims_own_setting_only(claim_id):
    setting = CLAIMS[claim_id].setting["attacks"]
    own = {name: allowed[0] for name, allowed in setting.items()}
    one = run(**own)
    one.tables["final"]["accuracy"] = 0.67
    verdict = claims.verdict(claim_id, [one])
    assert verdict.outcome != "not judged"
    for name, value in (("dataset", "digits"), ("lr", 0.1), ("epochs", 3), ("layers", ["fc1"])):
        one.info["settings"] = run(**own | {name: value}).info["settings"]
        assert list(claims.verdict(claim_id, [one]).differs) == [name]
    one.info["settings"] = run(**own | {"activation": "own"}).info["settings"]
    assert claims.verdict(claim_id, [one]).outcome == "not judged"


def test_the_accuracies_of_five_seeds():
    runs = []
    for seed, accuracy in enumerate((0.67, 0.66, 0.65, 0.66, 0.62)):
        own = {name: allowed[0] for name, allowed in CLAIMS["C3.1"].setting["attacks"].items()}
        runs.append(reached(accuracy, "relu", True))
        runs[-1].info["settings"] = (
            own | dict(TWIN) | {"activation": "relu", "batch_norm": True, "seed": seed}
        )
    assert str(claims.verdict("C3.1", runs)) == "reproduced (5 seeds)"
    assert str(claims.verdict("C3.1", runs[1:])) == "partly (provisional, 4 seeds)"
    assert str(claims.verdict("C3.1", runs[:3])) == "reproduced (provisional, 3 seeds)"


def test_attacks_that_came_after_the_claims_decide_none():
    case = [reached(67.0 / 100, "relu", True, seed=seed, dataset="cifar10") for seed in range(5)]
    late = run(seed=9, dataset="cifar10", watch=[])
    late.tables["final"]["accuracy"] = 0.1
    assert claims.verdict("C3.1", [*case, late]) == claims.verdict("C3.1", case)


def test_milder_attacks_are_those_of_the_layer_and_in_no_plan_of_the_claims():
    chosen = book.complete("03-4-relu", "thesis")
    (again, mild), own = trials.milder(chosen).values(), trials.whole_layer(chosen)
    assert [one | {"watch": chosen["timed"]} for one in again] == own["twins"][: chosen["milder_seeds"]]
    assert len(mild) == chosen["units"] * len(chosen["milder"]) * chosen["milder_seeds"]
    assert all(one["watch"] == [] and one["multiplier"] in chosen["milder"] for one in mild)
    same = [
        one | {"watch": [[one["layer"], one["unit"]]], "multiplier": chosen["multiplier"]} for one in mild
    ]
    assert all(one in own["attacks"] for one in same)
    assert not any(one["watch"] == [] for some in own.values() for one in some)


def steps(mrp: list[float], gradient: list[float], **more: Any) -> pd.DataFrame:
    """An attacked unit's curves."""
    about = {"kind": "attack", "seed": 0, "layer": "conv2", "unit": 0, "start": 1, "multiplier": 10} | more
    return pd.DataFrame({"step": range(len(mrp)), "mrp": mrp, "weight_gradient": gradient}).assign(**about)


def test_silenced_units_and_what_came_after():
    rows = pd.concat(
        [
            steps([1, 0, 0], [9, 9, 0], unit=1),  # mute
            steps([1, 0, 0], [9, 9, 1], unit=2),  # other images move it
            steps([1, 0, 2], [9, 0, 0], unit=3),  # its inputs moved
            steps([0, 1, 0, 3], [0, 0, 1, 0], unit=4, seed=1),
            steps([1, 2, 3], [0, 0, 0], unit=5),  # never silent
            steps([1, 1, 0], [0, 0, 0], unit=6),  # too late to tell
            steps([0, 0, 0], [0, 0, 0], unit=7, kind="twin"),
        ]
    ).sample(frac=1, random_state=0)
    found = trials.silenced(rows).set_index("unit")
    assert found[["back", "mute"]].T.to_dict("list") == {
        1: [False, True],
        2: [False, False],
        3: [True, True],
        4: [True, False],
    }
    assert found["end"].to_dict() == {1: 0, 2: 0, 3: 2, 4: 3}
    assert found["seed"][4] == 1
    assert trials.silenced(rows[rows["unit"] == 5]).empty


def test_what_diverged_before_it_was_measured_is_left_out():
    early = attack(1, 1.0, diverged=40)
    del early.tables["units"]
    case = [run(), attack(0, 1.0)]
    pd.testing.assert_frame_equal(trials.curves([case[1], early], case), trials.curves(case[1:], case))
    del case[0].tables["units"]
    assert trials.curves([early], case).empty
    assert trials.divergence([early, *case]) == {"diverged": 1, "of": 3, "diverged_at": 40}


def test_what_was_never_kept_is_an_empty_table():
    case = [run(), attack(0, 1.0)]
    rows = trials.curves(case[1:], case, "values")
    assert rows.empty
    assert {"kind", "layer", "unit", "seed", "what", "bin", "count"} <= set(rows)


@pytest.mark.parametrize("missing", ["attack", "twin"])
def test_a_ratio_wants_both_until_the_end(missing):
    case = [run(), attack(0, 1.0)]
    rows = trials.curves(case[1:], case)
    rows = rows[(rows["kind"] != missing) | (rows["epoch"] < 2)]
    assert trials.ratios(rows).empty
    rows = trials.curves(case[1:], case)
    assert len(trials.ratios(rows)) == 1
    assert trials.ratios(rows.assign(lasted=rows["kind"] != missing)).empty
