"""Chapters 3.1 to 3.5 with legal parameters that none of their cells expects; what they count and say."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest
import torch
from torch import nn

from chapters import SMALL, execute
from deadbook import figures, widgets
from deadbook.analysis import trials
from deadbook.build import tables
from deadunits.recorder import Recorder
from toys import FakeRun, make_batch, make_net

QUICK = SMALL | {"measure_every": 11, "start": 5, "interval": 1, "repeats": 2}
ONE = {"attacked": [["conv1", 0]], "timed": [["conv1", 0]], "starts": [5]}
ONE_BN = ONE | {"multipliers": [10], "slow_interval": 1}
ONE_LAYER = {"layer": "conv1", "units": 1, "timed": [["conv1", 0]], "milder": [3]}


def said(chapter, results, **own):
    """Text of the executed chapter, less the source code that it shows; nan is not in it."""
    page = execute(chapter, results, **own)
    text = re.sub(r"```python.*?```", "", page.text, flags=re.S)
    assert not re.search(r"\b(nan|inf)\b", text.replace("(became NaN or infinite)", ""), flags=re.I)
    return re.sub(r"\s+", " ", text), page


# 3.1: all is computed on the page.


@pytest.mark.parametrize(
    ("own", "dead_after", "recovered"),
    [
        ({"points": 10, "epochs": 1}, "*constant*, *at one end*, *unheard*", None),  # measured once
        ({"lr": 10.0, "epochs": 5}, "*at one end*, *unheard*", "*constant*"),
        ({"below": 0.9, "noise": 1.0, "epochs": 2}, "*constant*, *at one end*", "*unheard*"),
    ],
)
def test_dead_units_says_which_recovered(chapter_runs, own, dead_after, recovered):
    text, page = said("03-1-dead-units", chapter_runs, **own)
    assert f"Dead before and after: {dead_after}." in text
    assert ("Dead before the training and not after it" in text) == (recovered is not None)
    if recovered:
        assert f"not after it: {recovered}." in text
    assert "1. The **constant** unit is *dead and not frozen*" in text
    assert page.figures == 1


# 3.2


def test_batch_norm_with_one_unit_start_and_multiplier(chapter_runs):
    text, page = said("03-2-batch-norm", chapter_runs, **(QUICK | ONE_BN))
    assert "Attacked: conv1, unit 0; $N$ = 2 times" in text
    assert "Of 1 attacks (a unit and a seed each)" in text
    assert "second layer" not in text
    assert "three attacked units" not in text
    assert "A larger multiplier does not always" not in text  # there is one
    assert page.glued["lowest"] == page.glued["highest"]
    assert page.figures == 7


def test_batch_norm_with_negative_and_fractional_multipliers(chapter_runs):
    own = {"attacked": [["fc1", 3]], "timed": [["fc1", 3]], "starts": [5], "multipliers": [-10, 0.5]}
    own |= {"layers": ["fc1"], "repeats": 1, "slow_interval": 1, "batch_norm": False}
    text, _ = said("03-2-batch-norm", chapter_runs, **(QUICK | own))
    assert "This page was executed with this network: ReLU." in text
    assert "comes batch normalisation" not in text
    assert re.search(r"fc1 3 -10 1 [\d.]+ .* fc1 3 0\.5 1 ", text)
    assert re.search(r"the mean goes from [\d.]+ to [\d.]+ times the twin's MRP \(fc1, unit 3\)", text)


def test_batch_norm_says_that_all_diverged(chapter_runs):
    text, page = said("03-2-batch-norm", chapter_runs, **(QUICK | ONE_BN | {"lr": 10, "batch_norm": False}))
    assert re.search(r"In (\d+) of \1 runs the loss diverged", text)
    assert "Unattacked, it reaches" not in text  # a network of NaN has an accuracy of chance
    assert "accuracy" not in page.glued
    assert "nothing to compare" in text


@pytest.mark.parametrize(
    ("chapter", "own"),
    [("03-2-batch-norm", ONE_BN), ("03-3-tanh", ONE), ("03-4-relu", ONE_LAYER)],
)
def test_no_attack_is_said(chapter_runs, chapter, own):
    text, _ = said(chapter, chapter_runs, **(QUICK | own | {"repeats": 0, "measure_every": 44}))
    assert "Nothing is attacked, because `repeats` is 0" in text
    assert "There is no attack that lasted to the end of the training" in text
    assert "Unattacked, it reaches" in text


# 3.3


def test_tanh_with_relu_and_batch_norm(chapter_runs):
    own = {"activation": "relu", "batch_norm": True, "starts": [5, 9]}
    text, page = said("03-3-tanh", chapter_runs, **(QUICK | ONE | own))
    assert "This page was executed with this network: ReLU with batch norm." in text
    assert re.search(r"Of 1 attacks \(a unit and a seed each\) [01] end with a lower MRP", text)
    assert "first_layer" in page.glued
    assert "For conv1, unit 0 it goes" not in text  # one unit, one sentence
    milder = page.glued["early_first"] > page.glued["late_first"]
    assert ("So the earliest attack is milder than the latest." in text) == milder


def test_tanh_with_a_network_of_ones_own(chapter_runs):
    own = {"network": "sweep_nets:two_layers", "activation": "own", "layers": ["1"], "seeds": 2}
    own |= {"attacked": [["1", 2]], "timed": [["1", 2]], "starts": [5], "multiplier": 3}
    text, _ = said("03-3-tanh", chapter_runs, **(QUICK | own))
    assert "This page was executed with this network: your network." in text
    assert "All that follows rests on 2 seeds." in text
    assert "1, unit 2" in text


def test_tanh_says_that_the_attacks_diverged_and_the_twin_did_not(chapter_runs):
    own = ONE | {"multiplier": 1e12, "activation": "relu"}
    text, page = said("03-3-tanh", chapter_runs, **(QUICK | own))
    assert "In 2 of 3 runs the loss diverged" in text  # attack and control; `starts` has the same attack
    assert "Unattacked, it reaches" in text
    assert "fell" not in page.glued


# 3.4


def test_relu_with_one_unit_of_the_first_layer(chapter_runs):
    text, page = said("03-4-relu", chapter_runs, **(QUICK | ONE_LAYER))
    assert "Attacked: conv1, unit 0;" in text
    assert "Of 1 attacks (different units of conv1: 1; seeds: 1)" in text
    assert "It gave the same numbers" in text  # this machine, twice
    assert page.glued["nearly"] >= 0
    assert page.glued["rose_beyond_noise"] == page.glued["rose"]
    assert type(page.glued["each"]) is type(page.glued["mild_dead"]) is int  # other pages print them with :d
    assert "Weakest" not in text
    assert "second layer is attacked" not in text


def test_relu_whose_timed_units_are_in_another_layer_and_dead_in_the_twin_too(chapter_runs):
    own = ONE_LAYER | {"layer": "fc1", "units": 2, "multiplier": -30, "milder": [0.5]}
    text, page = said("03-4-relu", chapter_runs, **(QUICK | own))
    assert "None of the attacked units is one of `timed`" in text
    counts = {name: page.glued[name] for name in ("attacked", "rose", "fell", "died", "nearly")}
    assert counts["attacked"] == counts["rose"] + counts["fell"] <= 2
    assert min(counts.values()) >= 0
    if counts["attacked"] < 2:
        assert f"In {2 - counts['attacked']} more the twin's unit ends at 0 too" in text
    assert re.search(
        r"With \$m\$ = 0\.5, \d of \d attacks end higher than the twin; with \$m\$ = -30, ", text
    )


def test_relu_without_milder_attacks(chapter_runs):
    text, page = said("03-4-relu", chapter_runs, **(QUICK | ONE_LAYER | {"milder": [], "measure_every": 44}))
    assert "No milder attacks were made here: `milder` is empty." in text
    assert "The milder attacks rest on" not in text
    assert page.glued["each"] == 1


def test_relu_says_that_all_diverged(chapter_runs):
    text, page = said("03-4-relu", chapter_runs, **(QUICK | ONE_LAYER | {"lr": 10}))
    assert "runs the loss diverged" in text
    assert "accuracy is" not in text
    assert "accuracy_lowest" not in page.glued
    assert "nothing to count" in text


# 3.5


def test_detecting_in_one_network(chapter_runs):
    text, page = said("03-5-detecting", chapter_runs, chapters=["03-4-relu"], own=QUICK | ONE_LAYER)
    assert "For ReLU there are" not in text  # no network has fewer seeds than another
    assert re.search(r"least useful one in \d+% of the measurements at best \(\w+, ReLU\)", text)
    glued = page.glued
    assert glued["dead_before_distinct"] < glued["dead_before"]
    assert f"the runs without an attack {glued['dead_before_distinct']} units" in text
    assert "An attack lasts 1 steps, the training 44:" in text


def test_detecting_with_one_measurement(chapter_runs):
    own = QUICK | ONE | {"measure_every": 44}
    text, page = said("03-5-detecting", chapter_runs, chapters=["03-3-tanh"], own=own)
    assert "No unit was below the threshold at half-time." in text
    assert "opposed_lowest" not in page.glued
    assert "Attacks at different times" not in text


def test_detecting_says_that_all_diverged(chapter_runs):
    own = QUICK | ONE_LAYER | {"lr": 10}
    text, page = said("03-5-detecting", chapter_runs, chapters=["03-4-relu"], own=own)
    assert "No ranks could be compared." in text
    assert "runs the loss diverged" in text
    assert page.figures == 3  # they say that there is nothing to show


# What the chapters count.


def ran(loss=1.0, diverged=0, accuracy=0.5, **settings):
    settings = dict(trials.TWIN) | {"activation": "relu", "batch_norm": False, "seed": 0} | settings
    final = {"diverged": [diverged], "train_loss": [loss], "accuracy": [accuracy]}
    return FakeRun({"final": pd.DataFrame(final)}, {"settings": settings})


def test_accuracies_are_those_of_runs_that_did_not_diverge():
    assert trials.accuracies([ran(), ran(diverged=7, accuracy=0.0972)]).tolist() == [50.0]
    assert math.isnan(trials.accuracies([ran(diverged=7)]).mean())


def test_units_that_rise_beyond_the_noise():
    ratio = pd.Series([0.0, 0.005, 0.7, 0.95, 1.1, 1.4])
    found = trials.count_outcomes(ratio, pd.Series([0.9, 1.3]))
    assert found == {
        **{"attacked": 6, "rose": 2, "fell": 4, "died": 1, "nearly": 1},
        **{"rose_beyond_noise": 1, "above": 1, "below": 3},
    }
    assert "rose_beyond_noise" not in trials.count_outcomes(ratio, pd.Series(dtype=float))


def test_counts_by_multiplier_are_whole_and_in_the_order_of_its_size():
    ratio = pd.DataFrame({"multiplier": [-30, -30, 3, 3], "ratio": [0.0, 0.5, 1.5, 0.9]})
    first, last = trials.counts_by_multiplier(ratio).to_dict("records")
    assert (first["multiplier"], first["higher"], first["dead"], first["highest"]) == (3, 1, 0, 1.5)
    assert (last["multiplier"], last["lower"], last["dead"], last["median"]) == (-30, 2, 1, 0.5)
    assert type(first["higher"]) is int


def test_where_a_larger_multiplier_takes_less():
    rows = {"layer": "conv1", "unit": 0, "multiplier": [10, 100, 300], "mean": [1.1, 0.6, 0.7]}
    found = trials.largest_rise(pd.DataFrame(rows), "multiplier")
    assert found == {
        **{"rises": "conv1, unit 0", "rise_from": 0.6, "rise_to": 0.7},
        **{"rise_low": 100, "rise_high": 300},
    }
    falling = pd.DataFrame(rows | {"mean": [3.0, 2.0, 1.0]})
    assert trials.largest_rise(falling, "multiplier") == {}


def test_loss_changes_are_beside_the_twin_and_without_what_diverged():
    how = {"layer": "conv1", "repeats": 2, "multiplier": 5}
    some = [ran(1.1, **how), ran(0.0, diverged=3, **how)]
    changes = trials.loss_changes([*some, some[0]], [ran(1.0)])
    assert changes["change"].round(6).tolist() == [0.1]  # a run that two sections share counts once


def test_empty_tables_give_figures_and_widgets_that_say_so():
    nothing = trials.curves([], [])
    drawn = (
        figures.attacked_units(nothing),
        figures.by_attack(nothing, "start"),
        figures.effects({"start": trials.ratios(nothing)}),
        figures.beside_twins(trials.ratios(nothing)),
        figures.ridges(nothing, "relu", "output"),
    )
    for figure in drawn:
        assert [text.get_text() for text in figure.texts] == [figures.NOTHING]
    assert figures.NOTHING in widgets.attack_theatre(nothing, nothing, nothing, "relu").value


def test_attacked_units_are_drawn_over_the_twin_of_their_seed():
    columns = ["kind", "seed", "step", "mrp", "norm_in"]
    rows = [("attack", 0, 1, 2.0, 0.0), ("twin", 0, 1, 4.0, 1.0), ("attack", 1, 1, 3.0, 1.0)]
    rows += [("twin", 1, 1, 1.0, 0.0), ("attack", 0, 2, 9.0, 1.0), ("twin", 0, 2, 3.0, 4.0)]
    about = {"layer": "conv1", "unit": 0, "start": 1, "multiplier": 5.0}
    rows = pd.DataFrame(rows, columns=columns).assign(**about)
    drawn = figures.by_attack(rows, "start", ("mrp", "norm_in"))
    above, below = ([line.get_ydata().tolist() for line in ax.get_lines()[1:3]] for ax in drawn.axes)
    assert above == [[0.5, 3.0], [3.0, pytest.approx(math.nan, nan_ok=True)]]
    assert below[0] == [0.01, 0.25]  # nothing is left: drawn at the floor
    assert all(map(math.isnan, below[1]))  # over a twin without any there is no ratio


def test_units_as_the_prose_names_them():
    assert trials.listed([["conv1", 0], ["conv1", 4], ["fc1", 7]]) == "conv1, units 0, 4; fc1, unit 7"


def test_norms_are_documented_as_they_are_computed():
    with torch.random.fork_rng():
        net = make_net(nn.Linear(3, 2), nn.Linear(2, 2))
    _, found = Recorder(net, ["0"]).measure(make_batch(5, (3,), 2))
    assert found["0"]["norm_in"].tolist() == pytest.approx(net[0].weight.abs().sum(1).tolist())
    assert found["0"]["norm_out"].tolist() == pytest.approx(net[1].weight.abs().sum(0).tolist())
    for column in ("norm_in", "norm_out", "weight_gradient"):
        assert tables.TABLES["03-3-tanh"].columns[column].startswith("L1 norm")
