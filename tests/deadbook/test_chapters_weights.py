"""Chapters 1 and 2 with settings that none of their cells expects: no cell fails, no sentence is wrong."""

from __future__ import annotations

import re

import pytest

import chapters

SALIENCY, PRUNING, BACKGROUND = "02-1-saliency", "02-2-weight-pruning", "01-background"
OWN = {"network": "sweep_nets:quick", "layers": ["1"]}
QUICK = {"draws": 1, "measure_every": 40}  # one measurement in an epoch of the digits
ONCE = {"measure_every": 40, "fractions": [0.5]}  # few frames of the slider


def execute(chapter, folder, **own):
    page = chapters.execute(chapter, folder, **chapters.SMALL | own)
    words = re.sub(r"became NaN", "", page.text)
    assert not re.search(r"\b(nan|NaN|None(?! of))\b", re.sub(r"```python.*?```", "", words, flags=re.DOTALL))
    return page


def test_saliency_without_signals_small_fractions_or_a_second_network(chapter_runs):
    page = execute(SALIENCY, chapter_runs, **QUICK, activations=["relu"], fractions=[0.8])
    assert "this run has no such one" in page.text  # error signals come at every fifth measurement
    assert "This run has no fraction below 0.5." in page.text
    assert "This run has one network only." in page.text
    assert "There is no later measurement." in page.text
    assert "(tanh)" not in page.text
    assert "Magnitude has the lowest mean of all in" in page.text
    assert "share_tanh" not in page.glued


def test_saliency_of_tanh_alone_names_no_other_network(chapter_runs):
    page = execute(SALIENCY, chapter_runs, **QUICK, activations=["tanh"], fractions=[0.3], layers=["fc2"])
    assert "the weights of `fc2` are scored" in page.text
    assert "Take the tanh network and the 192 weights" in page.text  # 30% of 64 x 10
    assert "(ReLU)" not in page.text
    assert "This run has no fraction from 0.5 on." in page.text
    assert "each cell one of its weights" not in page.text  # a linear layer has no filters
    assert "share_relu" not in page.glued


def test_saliency_of_several_layers_counts_each(chapter_runs):
    page = execute(
        SALIENCY, chapter_runs, **QUICK, activations=["relu"], fractions=[1.0, 0.02], layers=["conv1", "fc2"]
    )
    assert "Take the ReLU network and the 16 weights" in page.text  # 4 of 200 and 12 of 640
    assert "with 100% of the weights removed" in page.text


def test_saliency_of_an_own_network(chapter_runs):
    own = {"activations": ["own"], "fractions": [0.02]}
    page = execute(SALIENCY, chapter_runs, **QUICK, **OWN, **own)
    assert "the network `sweep_nets:quick`" in page.text
    assert "(your network)" in page.text
    assert "(ReLU)" not in page.text
    assert "widths doubled" not in page.text  # only the network of the book has widths


def test_saliency_says_that_training_diverged(chapter_runs):
    page = execute(SALIENCY, chapter_runs, **QUICK, activations=["relu"], fractions=[0.8], lr=10)
    assert "The training diverged: the loss became NaN (ReLU, seed 0)" in page.text.replace("*", "")
    assert "of the weights have a negative exact score" not in page.text
    assert "share_relu" not in page.glued


def test_few_and_many_lowest_weights_are_not_mixed_up(chapter_runs):
    page = execute(SALIENCY, chapter_runs, draws=1, measure_every=8, activations=["tanh"], epochs=2)
    table = re.findall(r"tanh\s+2\s+(?:other images|images scored on)\s+(\d+)%", page.text)
    said = re.search(r"lowers the loss in (\d+)% of the measurements, on other images in (\d+)%", page.text)
    assert [said[2], said[1]] == table  # of the 2 weights, not of the 10
    assert f"{page.glued['below_probe']:.0f}" == said[1]
    assert "this run has no such one" not in page.text
    assert "The lowest mean is" in page.text


def test_pruning_without_a_schedule_has_the_twin_alone(chapter_runs):
    page = execute(PRUNING, chapter_runs, **ONCE, schedule=[])
    assert "The schedule is empty" in page.text
    assert "Pruned by layer" not in page.text
    assert "above the twin's" not in page.text
    assert "accuracy_layer" not in page.glued
    assert page.glued["accuracy_twin"] > 0


@pytest.mark.parametrize("layer", ["conv1", "fc1"])
def test_pruning_of_one_layer(chapter_runs, layer):
    page = execute(PRUNING, chapter_runs, **ONCE, schedule=[[1, 0.9]], layers=[layer])
    units = {"conv1": 8, "fc1": 64}[layer]
    assert f"of the {units} units of `{layer}` end" in page.text
    assert "the layers lose different shares" not in page.text
    assert ("None of the layers is linear." in page.text) == (layer == "conv1")
    assert 50 < page.glued["zero_share"] <= 100  # of the whole network, whatever was pruned
    assert "At 50% of the weights, magnitude leaves" in page.text


def test_pruning_of_an_own_network(chapter_runs):
    page = execute(PRUNING, chapter_runs, **ONCE, **OWN, activation="own", schedule=[[1, 0.3]])
    assert "the network `sweep_nets:quick`" in page.text
    assert "None of the layers is a convolution." in page.text
    assert "two convolutional layers" not in page.text


def test_pruning_says_that_training_diverged(chapter_runs):
    page = execute(PRUNING, chapter_runs, **ONCE, lr=10, schedule=[[1, 0.9]], layers=["fc1"])
    assert "The training diverged" in page.text
    assert "9.7" not in page.text  # all images would count as the first class
    assert not {"accuracy_layer", "accuracy_twin"} & page.glued.keys()


@pytest.mark.parametrize(
    "own",
    [
        {"sizes": [3.0]},
        {"activation": "tanh", "sizes": [0.5, 1.0]},
        {"network": "sweep_nets:quick", "activation": "own", "sizes": [0.1, 1.0]},
    ],
)
def test_background_with_other_sizes_and_networks(chapter_runs, own):
    page = execute(BACKGROUND, chapter_runs, **own, trials=2, measure_every=40)
    at = min(own["sizes"], key=lambda size: max(size / 0.1, 0.1 / size))
    assert f"prediction of a step of {at:g} along the gradient" in page.text
    assert ("ReLU and max-pooling have kinks" in page.text) == ("activation" not in own)
    assert "of steps that lower" in page.text or "lowers the minibatch's own loss" in page.text


def test_background_says_that_training_diverged(chapter_runs):
    page = execute(BACKGROUND, chapter_runs, lr=10, sizes=[0.1], trials=2, measure_every=40)
    assert "The training diverged" in page.text
