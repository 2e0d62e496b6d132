"""Chapters 4.1 and 4.2 executed with settings that none of their cells expects."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest

from chapters import execute
from deadbook import settings
from deadbook.chapters import page, plans, unit_numbers
from deadbook.claims.evidence import Evidence
from toys import FakeRun

UNITS, PRUNING = "04-1-units", "04-2-unit-pruning"
TINY = {"dataset": "digits", "epochs": 1, "probe_size": 20, "seeds": 1, "batch_size": 256, "measure_every": 3}
OWN = {"network": "toys:two_layers", "layers": ["1"]}
SCORED = TINY | {"draws": 2, "fractions": [0.5]}
PRUNED = TINY | {"rounds": 1, "batches": [1], "fractions": [0, 0.5]}


def without_verdicts(text: str) -> str:
    return re.sub(r"C4\.\d+ .*?(?=\n)", "", text)


def check(text: str) -> None:
    assert not re.search(r"\b(nan|inf|None)\b", without_verdicts(text))


def test_one_layer_one_network_and_all_of_its_units_are_replaced(chapter_runs):
    shown = execute(
        UNITS, chapter_runs, **SCORED | {"fractions": [1.0]}, layers=["fc1"], activations=["tanh"]
    )
    check(shown.text)
    assert "*Only fc1 was scored" in shown.text
    assert "*Not run: there is one network only (tanh).*" in shown.text
    assert "no layer between the first and the last" in shown.text
    assert not re.search(r"(conv1|conv2|fc1) with ReLU", without_verdicts(shown.text))
    assert "a random choice of 64 of the 64 units" in shown.text
    assert "choose the same units in" not in shown.text  # there is nothing to choose
    assert "rank_worst" not in shown.glued  # of one network and layer none is the worst


@pytest.mark.parametrize("fractions", [[0.02], [0.3]])
def test_a_fraction_that_is_no_half(fractions, chapter_runs):
    shown = execute(
        UNITS,
        chapter_runs,
        **SCORED | {"fractions": fractions},
        layers=["fc1", "conv1"],
        activations=["relu"],
    )
    check(shown.text)
    assert f"*At {fractions[0]:g} of the units" in shown.text
    assert f"a random choice of {int(64 * fractions[0])} of the 64 units" in shown.text
    assert {"rank_first", "rank_worst", "rank_worst_where"} <= set(shown.glued)


def test_units_of_ones_own_network(chapter_runs):
    shown = execute(UNITS, chapter_runs, **SCORED, **OWN, activations=["own"], wider=[4, 4, 4])
    check(shown.text)
    assert "In layer 1 of your network" in shown.text
    assert "Not run: no second network" in shown.text  # widths are small_cnn's


def test_scores_of_a_training_that_diverged_are_not_shown(chapter_runs):
    shown = execute(UNITS, chapter_runs, **SCORED, lr=10.0, layers=["fc1"], activations=["tanh"])
    check(shown.text)
    assert "1 of 1 runs diverged" in shown.text
    reached = shown.text.partition("reports?")[2].partition("Losses in nats")[0]
    assert not re.search(r"\d", reached)


def test_a_second_width_is_run_with_each_seed_and_shown_beside(chapter_runs):
    widths = {"widths": [2, 2, 4], "wider": [2, 2, 6]}
    shown = execute(UNITS, chapter_runs, **SCORED, **widths, layers=["fc1"], activations=["relu"])
    check(shown.text)
    assert "4 units" in shown.text
    assert "6: criterion met" in shown.text
    assert "This is exploration, not a verdict" in shown.text


def test_nothing_is_pruned(chapter_runs):
    shown = execute(PRUNING, chapter_runs, **PRUNED, schedule=[], weight_schedule=[])
    check(shown.text)
    assert shown.text.count("*No pruning is scheduled") >= 2
    assert "20,522 of 20,522" in shown.text
    assert "The jumps at" not in shown.text
    assert "a fifth" not in shown.text


def test_units_of_ones_own_network_are_pruned(chapter_runs):
    own = OWN | {"all_layers": ["3", "1"], "activation": "own", "scorer": "taylor_squared"}
    shown = execute(PRUNING, chapter_runs, **PRUNED, **own, schedule=[[1, 0.5]], weight_schedule=[[1, 0.5]])
    check(shown.text)
    assert "3 of 6 in layer 1" in shown.text
    assert "There is no convolution" in shown.text
    assert "4,019" not in without_verdicts(shown.text)


def test_one_layer_over_the_network_and_a_training_that_diverged(chapter_runs):
    layers = {"layers": ["fc1"], "all_layers": ["conv1", "fc1"]}
    schedules = {"schedule": [[1, 0.5]], "weight_schedule": [[1, 0.5]]}
    shown = execute(PRUNING, chapter_runs, **PRUNED, **layers, by="network", lr=10.0, **schedules)
    check(shown.text)
    assert "runs diverged" in shown.text
    assert "test accuracy of" not in shown.text
    assert "small_accuracy" not in shown.glued


def test_plans_have_no_run_twice():
    chosen = settings.UnitsChapter().model_dump() | {"seeds": 2}
    wide = chosen | {"wider": [8, 16, 32], "wider_seeds": 2}
    assert len(plans.units(wide)["units"]) == 8
    assert len(plans.units(wide | {"wider_seeds": 1})["units"]) == 6
    assert len(plans.units(chosen | {"wider": chosen["widths"]})["units"]) == 4
    assert len(plans.units(wide | {"network": "toys:two_layers"})["units"]) == 4
    pruning = settings.UnitPruningChapter().model_dump()
    wanted = plans.unit_pruning(pruning | {"schedule": [], "weight_schedule": []})
    assert [len(settings) for settings in wanted.values()] == [0, 1, 1, 1, 1]


def test_tables_have_dashes_for_what_is_not_known():
    frame = pd.DataFrame({"a": [1.0, math.nan], "b": [math.inf, 2.0]})
    assert re.findall(r"<td>(.*?)</td>", page.table(frame, a=".1f", b=".0f").data) == ["1.0", "–", "–", "2"]
    assert page.spread(pd.Series([math.nan])) == "–"
    assert page.spread(pd.Series([1.0, math.nan, 3.0])) == "2 (1 to 3)"
    assert page.spread([-0.001], "{:.2f}") == "0.00"


def test_the_worst_is_named_beside_the_best():
    index = pd.MultiIndex.from_tuples([("relu", "conv1"), ("tanh", "conv1"), ("tanh", "fc1")])
    found = unit_numbers.extremes(pd.Series([0.97, 0.69, math.nan], index=index))
    assert found == {
        "best": 0.97,
        "best_where": "conv1 with ReLU",
        "worst": 0.69,
        "worst_where": "conv1 with tanh",
    }
    assert "worst" not in unit_numbers.extremes(pd.Series([0.97], index=index[:1]))


def test_mrs_may_predict_better_and_prune_worse():
    places = pd.MultiIndex.from_tuples([("relu", "conv1"), ("relu", "fc1")], names=["activation", "layer"])
    table = pd.DataFrame({"mrs": [0.9, 0.5], "norm_l1": [0.8, 0.6], "norm_l2": [0.7, 0.4]}, index=places)
    costs = pd.DataFrame({"mrp": 1.0, "mrs": [3.0, 2.0], "norm_l1": [2.0, 3.0], "norm_l2": 4.0}, index=places)
    found = unit_numbers.predicting_and_pruning(table, costs)
    assert (found["predicts"], found["known"], found["dearer"]) == (1, 2, "conv1 with ReLU")
    assert found["no_dearer"] is None
    assert unit_numbers.predicting_and_pruning(table, costs.assign(mrs=1.0))["no_dearer"] == ""


def test_ratios_below_the_fraction_at_which_relu_costs_something_are_told_apart():
    values = [{"tanh over ReLU at 0.2": 90.0, "tanh over ReLU at 0.4": 5.0, "tanh over ReLU at 0.8": 1.0}]
    evidence = [Evidence(by_fraction, True, True) for by_fraction in values]
    assert unit_numbers.tanh_over_relu(evidence) == {"below": 1, "of": 1, "later": 5.0}


def test_which_width_fits_better_follows_from_the_outcomes():
    rows = [("C4.3", "a", [True] * 5, [True] * 4 + [False]), ("C4.6", "b", [True] * 5, [False] * 5)]
    outcomes = pd.DataFrame(rows, columns=["claim", "what", "narrow_met", "wide_met"])
    found = unit_numbers.width_answer(outcomes, 64, 256)
    assert (found["narrow_number"], found["wide_number"], found["fits"]) == (2, 1, 64)
    assert (found["narrow_only"], found["wide_only"], found["undecided"]) == ("C4.6 (b)", None, None)
    assert unit_numbers.width_answer(outcomes.iloc[:1], 64, 256)["undecided"] == ""


@pytest.mark.parametrize(
    ("loss", "diverged"), [(2.0, False), (25.0, True), (math.nan, True), (math.inf, True)]
)
def test_what_diverged_means(loss, diverged):
    training = pd.DataFrame({"minibatch": [2.3, loss], "train_probe": [2.3, 2.3]})
    run = FakeRun({"final": pd.DataFrame({"train_loss": [1.0], "accuracy": [0.1]}), "training": training})
    assert unit_numbers.diverged(run) is diverged
    assert unit_numbers.table([run], "final")["accuracy"].isna().all() == diverged
    assert unit_numbers.divergence([run]) == ({"diverged": 1, "runs": 1, "limit": 20} if diverged else {})
