"""The criteria of chapter 3's first list on made-up tables, and how trials stand beside their twins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cases import LEVELS, Cases, of, run, trial
from deadbook import claims
from deadbook.analysis import trials
from deadbook.analysis.trials import TWIN
from deadbook.build import book
from deadbook.claims import CLAIMS
from deadbook.claims.attacks import CONV2, EARLY, FLATTENED, NETWORKS, SLOW, STARTS, TIMED, UNITS
from toys import FakeRun, decide

CASES = Cases()
case = CASES.add
NORMED, LAYERS = "batch norm", ("conv1", "conv2")


@case("C3.1")
def reached(level: str) -> list[FakeRun]:
    off = of(level, 0.03, 0.06, 0.061)
    accuracies = {NORMED: 0.67 + off, "tanh": 0.64 - off, "plain ReLU": 0.61}
    cases = [trial(name, final={"accuracy": value}) for name, value in accuracies.items()]
    attacked = [trial(name, CONV2, final={"accuracy": 0.1}) for name in NETWORKS]  # reach what they like
    return attacked + (cases if level != "lacking" else [])


def early(
    ratios: Sequence[float],
    controls: Sequence[float] = (1, 1, 1),
    losses: Sequence[float] = (0.1, 0.1, 0.1),
    seed: int = 0,
    **columns: Any,
) -> list[FakeRun]:
    """Figure 3.1: a twin, the attacks on three units and their controls; more columns are of the first."""
    cases = [trial(NORMED, seed=seed)]
    for unit, ratio, control, loss in zip(UNITS, ratios, controls, losses, strict=True):
        at, more = EARLY | {"unit": unit}, columns if unit == UNITS[0] else {}
        cases.append(trial(NORMED, at, mrp=ratio, final={"train_loss": loss}, seed=seed, **more))
        cases.append(trial(NORMED, at | {"control": True}, mrp=control, seed=seed))
    return cases


@case("C3.2")
def some_fall(level: str) -> list[FakeRun]:
    cases = early(of(level, (0.4, 1.2, 0.9), (0.4, 0.3, 0.2), (0.6, 1.1, 1.2)))
    return cases[1:] if level == "lacking" else cases


@pytest.mark.parametrize(
    ("ratios", "controls"), [((0.6, 0.7, 1.2), (1, 1, 1)), ((0.4, 0.7, 1.2), (0.7, 1, 1))]
)
def test_a_unit_that_falls_with_its_control_did_not_fall(ratios, controls):
    evidence = decide("C3.2", early(ratios, controls), "probe")
    assert (evidence.values["units that fell"], evidence.holds) == (0, False)
    assert evidence.values["unit 0, over the twin's"] == pytest.approx(ratios[0])


@case("C3.3")
def loss_is_silent(level: str) -> list[FakeRun]:
    cases = early((1, 1, 1), losses=(0.1, of(level, 0.1049, 0.1149, 0.08), 0.1))
    return cases[1:] if level == "lacking" else cases


@case("C3.4")
def marks(level: str) -> list[FakeRun]:
    down = {"norm_out": of(level, 0.5, 2, 2), "gradient": of(level, 0.5, 0.5, 2)}
    return early((0.6 if level == "lacking" else 0.4, 0.9, 0.9), norm_in=2, **down)


@case("C3.11")
def large(level: str) -> list[FakeRun]:
    """One of two units that fell is as large, or one of three."""
    norms = of(level, (2, 0.5), (2, 0.5, 0.5), (0.5, 0.5))
    ratio = 0.6 if level == "lacking" else 0.4
    seeds = [early((ratio, 0.9, 0.9), seed=seed, norm_in=norm) for seed, norm in enumerate(norms)]
    return list(itertools.chain(*seeds))


@pytest.mark.parametrize(("larger", "share"), [((1, 3), 0), ((1,), 1)])
def test_the_third_of_eight_units_is_not_in_the_top_quarter(larger, share):
    cases = early((0.4, 0.9, 0.9), norm_in=5)
    units = cases[1].tables["units"]
    units.loc[units["unit"].isin(larger) & (units["layer"] == "conv1"), "norm_in"] = 9.0
    assert decide("C3.11", cases, "probe").values["share in the top quarter"] == share


def started(ratios: dict[tuple[int, str], Sequence[float]]) -> list[FakeRun]:
    """Attacks on unit 0 at the four times: ratios by seed and layer."""
    cases = [trial(NORMED, seed=seed) for seed in {seed for seed, _ in ratios}]
    for (seed, layer), values in ratios.items():
        for start, ratio in zip(STARTS, values, strict=True):
            at = {"layer": layer, "unit": 0, "start": start, "multiplier": 100}
            cases.append(trial(NORMED, at, mrp=ratio, seed=seed))
    return cases


def everywhere(ratios: Sequence[float], seeds: int = 3) -> list[FakeRun]:
    return started({(seed, layer): ratios for seed in range(seeds) for layer in LAYERS})


@case("C3.5")
def timed(level: str) -> list[FakeRun]:
    """It matters; it matters, and in an order; it does not."""
    ratios, rise = of(level, (0.5, 0.9, 0.2, 0.8), (0.2, 0.4, 0.6, 0.8), (0.4,) * 4), level == "neither"
    places = itertools.product(range(3), LAYERS)
    cases = started({(s, layer): [ratio + rise * s / 10 for ratio in ratios] for s, layer in places})
    return cases[:3] if level == "lacking" else cases


def test_the_permutation_test_is_one():
    """Over random ratios p is uniform, near enough; a block's own level does not matter."""
    chance = np.random.default_rng(1)
    found = []
    for _ in range(8):
        ratios = {
            (s, layer): chance.uniform(0.1, 1, 4) * 10.0**s
            for s, layer in itertools.product(range(3), LAYERS)
        }
        found.append(decide("C3.5", started(ratios), "probe").values["p"])
    assert 0.25 < np.mean(found) < 0.75
    assert np.isfinite(decide("C3.5", everywhere((0.0, 0.9, 0.9, 0.9)), "probe").values["p"])


def test_seeds_whose_twin_is_missing_or_diverged_are_left_out_of_a_pool():
    ratios = {(seed, layer): (0.5, 0.9, 0.2, 0.8) for seed in range(3) for layer in LAYERS}
    odd = {(3, layer): (0.9, 0.2, 0.8, 0.1) for layer in LAYERS}
    wanted, cases = decide("C3.5", started(ratios), "probe"), started(ratios | odd)
    assert decide("C3.5", cases, "probe") != wanted
    (twin,) = (it for it in cases if it.info["settings"]["seed"] == 3 and trials.kind(it) == "twin")
    assert decide("C3.5", [it for it in cases if it is not twin], "probe") == wanted
    twin.tables["final"]["diverged"] = 9
    assert decide("C3.5", cases, "probe") == wanted


@case("C3.6")
def harder(level: str) -> list[FakeRun]:
    second = of(level, (0.9, 0.8, 0.7, 0.8), (0.8, 0.9, 0.7, 0.8), (0.7, 0.8, 0.9, 0.8))  # Spearman -0.6
    cases = [trial(NORMED)]
    for layer, ratios in zip(LAYERS, ((0.9, 0.7, 0.5, 0.3), second), strict=True):
        for multiplier, ratio in zip((10, 30, 100, 300), ratios, strict=True):
            cases.append(trial(NORMED, SLOW | {"layer": layer, "multiplier": multiplier}, mrp=ratio))
    return cases[:5] if level == "lacking" else cases


def kept(units: Sequence[int], share: float) -> pd.DataFrame:
    """Counts of activations, of which such a share is in the outermost bins when they were last kept."""
    parts = []
    for unit, (step, flat) in itertools.product(units, ((100, 1.0), (300, share))):
        counts = [250 * flat, 750 * flat, 500 * (1 - flat), 500 * (1 - flat)]
        rows = pd.DataFrame({"bin": [0, 39, 1, 20], "count": counts, "what": "activation"})
        parts.append(rows.assign(unit=unit, step=step, layer="conv1"))
    return pd.concat(parts)


@case("C3.7")
def flattened(level: str) -> list[FakeRun]:
    ratios = of(level, (0.9, 0.2, 0.5, 0.99), (0.9, 0.2, 0.5, 1.01), (0.9, 0.2, 1.5, 1.2))
    cases = [trial("tanh")]
    cases[0].tables["values"] = kept(range(4), 0.2)
    for unit, ratio in enumerate(ratios):
        cases.append(trial("tanh", FLATTENED | {"unit": unit}, mrp=ratio))
        cases[-1].tables["values"] = kept([unit], 0.3)
        cases.append(trial("tanh", FLATTENED | {"unit": unit, "control": True}, mrp=3))
    return cases[:-2] if level == "lacking" else cases


def test_a_unit_that_is_not_pushed_to_the_ends_and_values_that_were_not_kept():
    cases = flattened("holds")
    cases[1].tables["values"] = kept([0], 0.1)
    evidence = decide("C3.7", cases, "probe")
    assert (evidence.holds, evidence.direction_holds) == (False, True)
    assert evidence.values["share of activations beyond 0.95, twin"] == pytest.approx(0.2)
    for unwatched in (kept([7], 0.5), None):
        cases[1].tables |= {"values": unwatched}
        if unwatched is None:
            del cases[1].tables["values"]
        assert decide("C3.7", cases, "probe") is None


@case("C3.8")
def tanh_timed(level: str) -> list[FakeRun]:
    """Soon after the attack from step 50, and in the end."""
    soon, *finals = of(level, (1.1, 0.9, 0.9), (0.9, 0.9, 0.9), (0.9, 1.1, 0.9))
    how = {"steps": (140, 150, 1140, 1141, 9000), "sizes": {"fc1": 17}, "on": ("probe", "other")}
    cases = [trial("tanh", **how)]
    for start, final in zip(TIMED["start"], (0.1, *finals), strict=True):  # the effect of the first fades
        at = TIMED | {"layer": "fc1", "unit": 16, "start": start}
        cases.append(trial("tanh", at, mrp=(99, soon, soon, -99, final), **how))
    return cases[:-1] if level == "lacking" else cases


def test_other_images_are_measured_less_often_perhaps_not_soon_after_an_attack():
    cases = tanh_timed("holds")
    assert decide("C3.8", cases, "other") is not None
    for it in cases:
        units = it.tables["units"]
        it.tables["units"] = units[~units["step"].between(141, 1140) | (units["set"] == "probe")]
    assert decide("C3.8", cases, "probe") is not None
    assert decide("C3.8", cases, "other") is None


@case("C3.9")
def whole_layer(level: str) -> list[FakeRun]:
    rise, fall, die = of(level, (9, 6, 1), (8, 7, 1), (9, 7, 0))
    ratios = [1.5] * rise + [0.5] * fall + [0.0] * die
    cases = [trial(at=CONV2 | {"unit": unit}, mrp=ratio) for unit, ratio in enumerate(ratios)]
    return [trial(), *(cases[1:] if level == "lacking" else cases)]


def test_a_run_that_diverged_is_not_counted_and_one_that_is_missing_is_missed():
    cases = whole_layer("holds")
    cases[1].tables["final"]["diverged"] = 2003
    cases[1].tables["units"] = cases[1].tables["units"].query("step < 200")
    assert decide("C3.9", cases, "probe").values == {"rose": 8, "fell": 7, "died": 1}
    assert decide("C3.9", cases[1:], "probe") is None  # without the twin


SAME, NOT_FIRST, UNLIKE = [1, 2, 3, 4, 5], [2, 1, 3, 4, 5], [1, 5, 4, 3, 2]  # Spearman 1, 0.9, 0 with 1 to 5


def measured(orders: Sequence[dict[str, Sequence[float]]], layer: str = "conv1") -> FakeRun:
    """A run with these values of the units at each measurement, or 1 to 5; another order up to step 500."""
    parts, before = [], {"mrs": SAME[::-1]}
    for step, order in enumerate([before, before, *orders], 499):
        columns = dict.fromkeys(("mrp", "mrs", "norm_in", "gradient"), SAME) | order
        parts.append(pd.DataFrame(columns).astype(float).assign(step=step, layer=layer, unit=range(5)))
    units = pd.concat(parts).assign(set="probe").sample(frac=1, random_state=0)
    tables = {"units": units, "final": pd.DataFrame({"diverged": [0]})}
    return run("attacks", tables, **TWIN, batch_norm=True)


@case("C3.10")
def smallest(level: str) -> list[FakeRun]:
    orders = of(level, [{}] * 9 + [{"mrs": NOT_FIRST}], [{"mrs": NOT_FIRST}] * 9, [{"mrs": UNLIKE}] * 9)
    return [measured([] if level == "lacking" else orders)]


@case("C3.13")
def predicted(level: str) -> list[FakeRun]:
    orders = of(level, (SAME, NOT_FIRST, UNLIKE), (NOT_FIRST, SAME, UNLIKE), (UNLIKE, SAME, NOT_FIRST))
    order = dict(zip(("mrs", "norm_in", "gradient"), orders, strict=True))
    return [measured([{"mrp": [1] * 5} if level == "lacking" else order])]


@pytest.mark.parametrize(("mrs", "share"), [([3, 1, 2, 4, 5], 1), ([1, 1, 2, 4, 5], 1), ([2, 3, 1, 4, 5], 0)])
def test_any_of_several_dead_units_is_the_smallest_and_the_first_of_equal_estimates_counts(mrs, share):
    evidence = decide("C3.10", [measured([{"mrp": [0, 0, 1, 2, 3], "mrs": mrs}])], "probe")
    assert evidence.values["share with the same smallest unit"] == share


def test_the_correlations_are_those_of_each_measurement():
    chance, names = np.random.default_rng(0), ("mrp", "mrs", "norm_in", "gradient")
    orders = [{name: chance.integers(0, 4, 5).tolist() for name in names} for _ in range(40)]
    tables = map(pd.DataFrame, orders)
    wanted = [table.corr("spearman")["mrp"] for table in tables if table["mrp"].nunique() > 1]
    cases = [measured([*orders[:20], {"mrp": [1] * 5}]), measured(orders[20:], "conv2")]
    values = decide("C3.13", cases, "probe").values
    for name, column in (("MRS", "mrs"), ("norm of the weights", "norm_in"), ("output gradient", "gradient")):
        mean = np.nanmean([correlations[column] for correlations in wanted])
        assert values[f"mean rank correlation, {name}"] == pytest.approx(mean)


def lasting(dead: tuple[int, int], frozen: tuple[int, int] = (0, 0), **settings: Any) -> FakeRun:
    """So many units dead (frozen) at half-time, and of them so many still; more at all other times."""
    parts = []
    for step, which in ((100, None), (400, None), (600, 0), (800, None), (1100, 1)):
        units = pd.DataFrame({"unit": range(60), "mrp": 1.0, "gradient": 1.0, "step": step, "layer": "fc1"})
        for column, counts in (("mrp", dead), ("gradient", frozen)):
            units.loc[units["unit"] < (30 if which is None else counts[which]), column] = 0.0
            units.loc[units["unit"] == 59, column] = 0.06 * units[column].mean()  # is not below 5%
            units.loc[(units["unit"] == 50) & (which == 1), column] = 0.0  # others may follow
        parts.append(units)
    tables = {"units": pd.concat(parts).assign(set="probe"), "final": pd.DataFrame({"diverged": [0]})}
    return run("attacks", tables, **{**TWIN, "batch_norm": True} | settings)


@case("C3.12")
def stays(level: str) -> list[FakeRun]:
    return [lasting((0, 0)) if level == "lacking" else lasting((10, of(level, 9, 8, 6)), (20, 18))]


def test_what_stays_is_counted_over_the_runs_of_a_seed():
    cases = [lasting((10, 10), (2, 2)), lasting((2, 0), repeats=10), lasting((9, 0), repeats=10)]
    cases[2].tables["final"]["diverged"] = 1200
    evidence = decide("C3.12", cases, "probe")
    assert evidence.values["share that stays dead"] == pytest.approx(10 / 12)
    assert evidence.values["share that stays frozen"] == 1
    assert evidence.values["dead at half-time"] == 12
    assert evidence.also["distinct units dead at half-time"] == 10
    cases[0].tables["units"] = cases[0].tables["units"].query("step == 100")  # measured once
    assert decide("C3.12", cases[:1], "probe") is None


FALLING, MIXED, RISING = [5, 4, 3, 2, 1], [4, 3, 5, 1, 2], [1, 3, 2, 4, 5]  # Spearman -1, -0.7, 0.9


@case("C3.14")
def opposed(level: str) -> list[FakeRun]:
    tanh = of(level, [MIXED], [FALLING, RISING], [RISING])  # means of -0.7, -0.05, 0.9

    def attacked(network: str, gradient: Sequence[float], **more: Any) -> FakeRun:
        at, steps = {"layer": "conv1", "unit": 3, "start": 50, "multiplier": 100}, (1, 2, 3, 4, 5)
        return trial(network, at | more, steps, gradient=gradient, norm_in=[1, 2, 3, 4, 5])

    cases = [attacked(NORMED, FALLING), *(attacked("tanh", gradient) for gradient in tanh)]
    unread = [attacked("plain ReLU", RISING), attacked(NORMED, RISING, control=True)]
    unread.append(attacked(NORMED, [2] * 5))  # without a correlation
    return unread + (cases if level != "lacking" else [])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("claim_id", CASES)
def test_four_outcomes(claim_id, level):
    CASES.check(claim_id, level, "probe")


def test_each_claim_of_the_first_list_has_a_case():
    assert CASES.keys() == {f"C3.{i}" for i in range(1, 15)}


@pytest.mark.parametrize("claim_id", ["C3.1", "C3.3"])
def test_what_is_judged_by_test_images_or_the_loss_is_not_judged_on_others(claim_id):
    assert decide(claim_id, CASES[claim_id]("holds"), "other") is None


def test_a_network_that_only_some_seeds_have_is_averaged_over_those():
    kinds = ([(NORMED, 0.67)], [(NORMED, 0.65), ("tanh", 0.5)])
    seeds = [[trial(name, final={"accuracy": value}) for name, value in kind] for kind in kinds]
    evidence = [decide("C3.1", cases, "probe") for cases in seeds]
    said = claims.judge(CLAIMS["C3.1"], evidence, {}, ["cifar10"]).measured()
    assert said[:2] == ["ReLU with batch norm, accuracy in %: 66 (65 to 67)", "tanh, accuracy in %: 50"]


def in_setting(cases: Sequence[FakeRun], claim_id: str) -> list[FakeRun]:
    """The runs, with all else as the claim has it."""
    fixed = {name: allowed[0] for name, allowed in CLAIMS[claim_id].setting["attacks"].items()}
    for it in cases:
        it.info["settings"] = fixed | it.info["settings"]
    return list(cases)


def test_a_pooled_claim_is_judged_once_and_counts_its_seeds():
    judged = [claims.verdict("C3.5", in_setting(everywhere((0.5, 0.9, 0.2, 0.8), n), "C3.5")) for n in (5, 2)]
    assert list(map(str, judged)) == ["reproduced (5 seeds)", "reproduced (provisional, 2 seeds)"]
    assert judged[0].measured()[-1] == "All seeds together: the criterion holds"
    assert len(judged[0].evidence) == 1


def test_a_claim_is_judged_in_its_own_setting_only():
    cases = in_setting(early((0.4, 1.2, 0.9)), "C3.2")
    assert str(claims.verdict("C3.2", cases)) == "reproduced (provisional, 1 seed)"
    for it in cases:
        it.info["settings"]["lr"] = 0.1
    assert list(claims.verdict("C3.2", cases).differs) == ["lr"]
    assert claims.verdict("C3.2", in_setting(whole_layer("holds"), "C3.2")).outcome == "not judged"


def test_the_accuracies_of_five_seeds_and_attacks_that_came_after_the_claims():
    runs = [
        trial(NORMED, seed=seed, final={"accuracy": accuracy})
        for seed, accuracy in enumerate((0.67, 0.66, 0.65, 0.66, 0.62))
    ]
    runs = in_setting(runs, "C3.1")
    assert str(claims.verdict("C3.1", runs)) == "reproduced (5 seeds)"
    assert str(claims.verdict("C3.1", runs[1:])) == "partly (provisional, 4 seeds)"
    late = in_setting([trial(NORMED, seed=9, final={"accuracy": 0.1})], "C3.1")
    late[0].info["settings"]["watch"] = []
    assert claims.verdict("C3.1", [*runs, *late]) == claims.verdict("C3.1", runs)


def test_a_unit_that_is_dead_in_the_twin_as_well_has_no_ratio():
    cases = early((0.0, 0.9, 0.9), (0.0, 1, 1))
    units = cases[0].tables["units"]
    units.loc[(units["unit"] == 0) & (units["layer"] == "conv1"), "mrp"] = 0.0
    assert decide("C3.2", cases, "probe") is None
    assert decide("C3.11", cases, "probe") is None


# Trials beside their twins


def attack(mrp: float = 0.5, seed: int = 0, **more: Any) -> FakeRun:
    return trial(NORMED, EARLY | {"unit": 0}, seed=seed, mrp=mrp, **more)


def test_curves_stand_beside_their_own_twin():
    cases = [trial(NORMED), trial(NORMED, seed=1, mrp=9.0), attack(), attack(seed=1)]
    rows = trials.curves(cases[2:], cases)
    assert set(rows["kind"]) == {"twin", "attack"}
    ratios = trials.ratios(rows).set_index("seed")["ratio"]
    assert ratios.to_dict() == {0: pytest.approx(0.5), 1: pytest.approx(0.5 / 9)}


def test_what_diverged_before_it_was_measured_is_left_out():
    lost = attack(final={"diverged": 40})
    del lost.tables["units"]
    cases = [trial(NORMED), attack()]
    pd.testing.assert_frame_equal(trials.curves([cases[1], lost], cases), trials.curves(cases[1:], cases))
    del cases[0].tables["units"]
    assert trials.curves([lost], cases).empty
    assert trials.divergence([lost, *cases]) == {"diverged": 1, "of": 3, "diverged_at": 40}
    never = trials.curves(cases[1:], cases, "values")
    assert never.empty
    assert {"kind", "layer", "unit", "seed", "what", "bin", "count"} <= set(never)


@pytest.mark.parametrize("missing", ["attack", "twin"])
def test_a_ratio_wants_both_until_the_end(missing):
    cases = [trial(NORMED), attack()]
    rows = trials.curves(cases[1:], cases)
    assert len(trials.ratios(rows)) == 1
    assert trials.ratios(rows[(rows["kind"] != missing) | (rows["epoch"] < 7)]).empty
    assert trials.ratios(rows.assign(lasted=rows["kind"] != missing)).empty


def test_milder_attacks_are_those_of_the_layer_and_in_no_plan_of_the_claims():
    chosen = book.complete("03-4-relu", "thesis")
    (again, mild), whole = trials.milder(chosen).values(), trials.whole_layer(chosen)
    assert [it | {"watch": chosen["timed"]} for it in again] == whole["twins"][: chosen["milder_seeds"]]
    assert len(mild) == chosen["units"] * len(chosen["milder"]) * chosen["milder_seeds"]
    assert all(it["watch"] == [] and it["multiplier"] in chosen["milder"] for it in mild)
    same = [it | {"watch": [[it["layer"], it["unit"]]], "multiplier": chosen["multiplier"]} for it in mild]
    assert all(it in whole["attacks"] for it in same)
    assert not any(it["watch"] == [] for role in whole.values() for it in role)


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
    assert found["back"].to_dict() == {1: False, 2: False, 3: True, 4: True}
    assert found["mute"].to_dict() == {1: True, 2: False, 3: True, 4: False}
    assert found["end"].to_dict() == {1: 0, 2: 0, 3: 2, 4: 3}
    assert found["seed"][4] == 1
    assert trials.silenced(rows[rows["unit"] == 5]).empty
