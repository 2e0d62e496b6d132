"""Live widgets are busy, honest and never late; and show what the library computes."""

from __future__ import annotations

import threading

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch

from deadbook import datasets, settings
from deadbook.build import book
from deadbook.experiments import background, common, explorer
from deadbook.widgets import live
from deadunits import data, derivatives, models, scorers, training
from waiting import until


@pytest.fixture
def slow():
    """A live widget whose work waits until it is let go, and the values that it has drawn."""
    drawn, go = [], threading.Semaphore(0)

    def draw(x):
        drawn.append(x)
        go.acquire(timeout=120)
        if x < 0:
            raise ValueError(f"{x} <is> negative")
        return ipywidgets.Label(str(x))

    slider = ipywidgets.IntSlider(0, -9, 9)
    whole = live.Live({"x": slider}, draw)
    assert whole._message.value == live.HINT  # nothing is computed before anything is moved
    slider.value = 1
    return whole, slider, drawn, go


def shown(whole):
    return [label.value for label in whole._result.children]


def test_a_live_widget_is_busy_until_its_result_is_there(slow):
    whole, _, _, go = slow
    assert "computing" in whole._message.value
    assert shown(whole) == []
    go.release()
    until(lambda: shown(whole) == ["1"])
    assert whole._message.value == ""


def test_a_slider_that_is_dragged_queues_up_no_old_work(slow):
    whole, slider, drawn, go = slow
    until(lambda: drawn == [1])
    for x in (2, 3, 4, 5):
        slider.value = x
    go.release()
    until(lambda: drawn == [1, 5])
    assert shown(whole) == []  # the result for 1 came too late to be shown
    assert "computing" in whole._message.value
    go.release()
    until(lambda: shown(whole) == ["5"])
    assert drawn == [1, 5]


def test_an_error_is_shown_and_the_next_move_works(slow):
    whole, slider, _, go = slow
    go.release()
    until(lambda: shown(whole) == ["1"])
    slider.value = -3
    go.release()
    until(lambda: "alert" in whole._message.value)
    assert "ValueError: -3 &lt;is&gt; negative" in whole._message.value
    assert shown(whole) == []
    slider.value = 2
    go.release()
    until(lambda: shown(whole) == ["2"])
    assert whole._message.value == ""


CHOSEN = {"dataset": "digits", "image_size": 0, "network": "small_cnn", "activation": "relu", "epochs": 2}
CHOSEN |= {"lr": 0.1, "batch_size": 64, "measure_every": 10, "probe_size": 50, "sizes": [0.01, 0.1, 1.0]}
CHOSEN |= {"layers": ["conv1", "fc1"]}


def trained(steps):
    """The images, and the network of `CHOSEN` after that many steps."""
    images = datasets.load("digits", probe_size=50)
    net = models.small_cnn(images.shape, images.classes, activation="relu", seed=0)
    for step in training.sgd(net, images.train, epochs=2, lr=0.1, batch_size=64, seed=0):
        if step.number == steps:
            return images, net.eval()
    raise AssertionError


def moved(widget, **values):
    """What the widget says and shows after its controls were set so."""
    for name, value in values.items():
        widget._controls[name].value = value
    until(lambda: widget._message.value == "" or "alert" in widget._message.value)
    assert widget._message.value == ""
    words, shown = widget._result.children[0].children
    return words.value.removeprefix("<p>").removesuffix("</p>"), shown


def test_the_network_goes_on_and_back_as_one_training_does():
    network = live.Network(CHOSEN)
    for steps in (7, 20, 3):
        ours, theirs = network.after(steps), trained(steps)[1]
        assert not ours.training
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    network.after(3)[0].weight.data.zero_()  # a copy
    assert network.after(3)[0].weight.abs().sum() > 0


def test_the_live_explorer_measures_agreement_on_that_layer_after_that_step():
    whole = live.saliency_explorer(CHOSEN)
    words, shown = moved(whole, layer="fc1", scorer="magnitude", step=11)
    images, net = trained(11)
    exact = scorers.loss_change(net, images.probe, ["fc1.weight"])["fc1.weight"].flatten()
    ranks = [pd.Series(scores).rank() for scores in (exact, net.fc1.weight.detach().abs().flatten())]
    agreement = np.corrcoef(ranks)[0, 1]
    assert words == f"agreement {agreement:.2f}"
    assert [type(picture) for picture in shown.children] == [ipywidgets.Image] * 2


def test_the_live_expansion_is_that_of_the_chapter():
    words, _ = moved(live.expansion_slider(CHOSEN), step=21, size=0.05)
    images, net = trained(21)
    net, probe = net.double(), data.Batch(images.train_probe.x.double(), images.train_probe.y)
    gradient = derivatives.gradient(net, probe, [name for name, _ in net.named_parameters()])
    (row,) = background.expansion(net, probe, {name: -tensor for name, tensor in gradient.items()}, [0.05])
    exact, first, second = (row[name] for name in ("exact", "first", "second"))
    assert words == f"0.05: exact {exact:+.3f}, first order {first:+.3f}, second {second:+.3f}"


def test_the_live_pruning_slider_prunes_as_the_chapter_does():
    whole = live.pruning_slider(CHOSEN)
    moved(whole, step=11, scorer="magnitude")
    words, shown = moved(whole, fraction=0.9)
    images, net = trained(11)
    scores = explorer.scored(net, images, CHOSEN["layers"], "weights", "magnitude", 0)
    row = explorer.without_weights(net, images, scores, 0.9)
    assert words == f"0.9: accuracy {100 * row['accuracy']:.1f}%, loss {row['loss']:.2f}"
    assert f"fraction {words}" in shown.children[1].value


def test_the_live_unit_slider_removes_units_for_good():
    words, _ = moved(live.unit_pruning_slider(CHOSEN), step=11, scorer="norm_l1", fraction=0.5)
    images, net = trained(11)
    assert words.startswith("0.5: ")
    bare = words.partition("(bare ")[2].rstrip("%)")
    kept = torch.ones(8, dtype=torch.bool)
    norms = net.conv1.weight.detach().abs().sum((1, 2, 3))
    kept[norms.argsort()[:4]] = False
    hidden = net.fc1.weight.detach().abs().sum(1).argsort()[:32]
    with torch.no_grad():
        for layer, gone in ((net.conv1, ~kept), (net.fc1, hidden)):
            layer.weight[gone], layer.bias[gone] = 0.0, 0.0
    assert f"{100 * common.accuracy(net, images.test):.1f}" == bare


@pytest.mark.parametrize(
    "make", [live.saliency_explorer, live.expansion_slider, live.pruning_slider, live.unit_pruning_slider]
)
def test_a_page_has_no_live_widget_and_an_error_is_shown(make, monkeypatch):
    whole = make(CHOSEN | {"network": "nowhere:net", "activation": "own"})
    whole._controls["step"].value = 1
    until(lambda: "alert" in whole._message.value)
    assert "nowhere" in whole._message.value
    monkeypatch.setenv(live.PAGE, "1")
    assert make(CHOSEN) is None


@pytest.mark.parametrize(
    ("chapter", "layer", "last"),
    [("03-2-batch-norm", "conv1", 7), ("03-3-tanh", "conv1", 7), ("03-4-relu", "conv2", 15)],
)
def test_any_attack_can_be_seen_live_and_none_on_a_page(monkeypatch, tmp_path, chapter, layer, last):
    own = {"epochs": 1, "measure_every": 5, "start": 5, "starts": [5], "slow_interval": 2}
    known = settings.chapter(chapter).model_fields
    own = {name: value for name, value in own.items() if name in known} | {"results": str(tmp_path)}
    chosen = book.complete(chapter, "quick", own)
    whole = live.attack_theatre(chosen, str(tmp_path))
    whole._controls["unit"].value = 1
    until(lambda: whole._message.value == "")
    controls, _ = whole._result.children[0].children
    labels = [label for label, _ in controls.children[1].options]
    assert [label.partition(":")[0] for label in labels] == ["20"]  # each fourth measurement
    whole._controls["unit"].value = 99
    until(lambda: "alert" in whole._message.value)
    assert f"{layer} has units 0 to {last}, not 99" in whole._message.value
    monkeypatch.setenv(live.PAGE, "1")
    assert live.attack_theatre(chosen) is None
