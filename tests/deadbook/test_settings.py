from __future__ import annotations

import json

import pytest

from deadbook import runs, settings
from deadbook.build import book
from deadunits import Invalid


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "imagenet"}, "dataset = 'imagenet' is to be one of digits, mnist"),
        ({"epochs": 0}, "epochs = 0 is to be a whole number from 1 to 1,000"),
        ({"epochs": 2.0}, "epochs = 2.0 is to be a whole number"),
        ({"epochs": True}, "epochs = True is to be a whole number"),
        ({"lr": "0.1"}, "lr = '0.1' is to be a number above 0"),
        ({"lr": float("nan")}, "lr = nan is to be a number above 0"),
        ({"fractions": [0.1, 1.5]}, "is to be a list of different numbers from 0 to 1"),
        ({"fractions": []}, "is to be a list of different numbers"),
        ({"fractions": [0.1, 0.1]}, "is to be a list of different numbers"),
        ({"activation": "gelu"}, "is to be one of relu, tanh"),
        ({"lrr": 1}, r"unknown parameter 'lrr' \(did you mean lr\?\); there are: dataset"),
        ({"dataset": "digits", "probe_size": 480}, "so 1 to 479"),
    ],
)
def test_what_is_wrong_and_what_would_be_right(values, message):
    with pytest.raises(Invalid, match=message):
        settings.check(values, settings.RULES)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(Invalid, match=r"epochs = 0 .*\nlr = 0 "):
        settings.check({"epochs": 0, "lr": 0}, settings.RULES)


def test_a_training_that_ends_before_the_first_measurement():
    one = {"dataset": "digits", "probe_size": 200, "batch_size": 32, "epochs": 1, "measure_every": 34}
    with pytest.raises(Invalid, match="takes 33 steps only"):
        settings.check(one, settings.RULES)
    settings.check(one | {"measure_every": 33}, settings.RULES)


def test_declared_parameters(tmp_path):
    def notebook(source, tags=("parameters",)):
        path = tmp_path / "n.ipynb"
        path.write_text(json.dumps({"cells": [{"metadata": {"tags": list(tags)}, "source": [source]}]}))
        return path

    assert settings.declared(notebook('a: int = 1  # one\nb: str = "x"')) == {"a": 1, "b": "x"}
    with pytest.raises(Invalid, match="no cell tagged"):
        settings.declared(notebook("a: int = 1", tags=()))
    with pytest.raises(Invalid, match="parameters are lines"):
        settings.declared(notebook("a: int = f()"))


@pytest.mark.parametrize("profile", book.profiles())
@pytest.mark.parametrize("chapter", book.chapters())
def test_every_parameter_has_a_rule_and_every_profile_is_valid(chapter, profile, monkeypatch):
    monkeypatch.setattr("deadbook.datasets.check", lambda *_: None)  # profiles need no data to be valid
    monkeypatch.setattr("deadbook.runs.decode", lambda *_: None)
    known = settings.declared(runs.top() / f"notebooks/{chapter}.ipynb")
    assert set(known) <= set(settings.RULES)
    book.parameters(chapter, profile)


def test_the_thesis_profile_is_what_the_claims_speak_of():
    from deadbook import claims
    from deadbook.claims import catalogue

    for claim in claims.CLAIMS.values():
        for experiment, setting in claim.setting.items():
            assert all(setting.values()), claim.id  # an activation that the chapter does not have
            for chapter in claim.runs[experiment]:
                chosen = book.chosen(chapter, "thesis")
                assert catalogue.thesis_profile(chapter).items() >= chosen.items()
                # attacks take hours a seed: their verdicts say "provisional" until five are there
                assert chosen["seeds"] >= claims.FULL or experiment == "attacks"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": "mine"}, "network = 'mine' is to be small_cnn, or package.module:function"),
        ({"network": "no_such_module_here:net"}, "there is no module no_such_module_here"),
        ({"layers": []}, "a list of different names of layers"),
        ({"layers": ["conv1", "conv1"]}, "a list of different names of layers"),
        ({"layers": "conv1"}, "a list of different names of layers"),
        ({"activations": ["relu", "gelu"]}, "among relu, tanh, own"),
        ({"schedule": [[2, 0.5], [2, 0.8]]}, r"a list of \[epoch, fraction\], both rising"),
        ({"schedule": [[2, 0.5], [3, 0.4]]}, "both rising"),
        ({"schedule": [[2, 1.5]]}, "fractions from 0 to 1"),
        ({"schedule": [2, 0.5]}, "both rising"),
        ({"schedule": [[4, 0.5]], "epochs": 3}, "prunes after epoch 4, but there are only epochs = 3"),
        ({"dataset": "pictures"}, "or the path of a folder with train/ and test/"),
        ({"dataset": "./no/pictures", "probe_size": 3}, "pictures"),
        ({"image_size": -1}, "a whole number of pixels"),
        ({"by": "unit"}, "one of layer, network"),
    ],
)
def test_what_a_chapter_of_ones_own_may_be(values, message):
    with pytest.raises(Invalid, match=message):
        settings.check(values, values)


def test_what_a_chapter_of_ones_own_may_be_and_is():
    values = {
        "network": "json:loads",
        "layers": ["a.b"],
        "activations": ["own"],
        "schedule": [],
        "by": "layer",
    }
    settings.check(values, values)
    settings.check({"schedule": [[1, 0.5], [3, 0.5]], "epochs": 3}, ["schedule", "epochs"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_norm": 1}, "batch_norm = 1 is to be true or false"),
        ({"control": "no"}, "control = 'no' is to be true or false"),
        ({"layer": 1}, "layer = 1 is to be the name of a layer, as a text; empty: no attack"),
        ({"unit": -1}, "unit = -1 is to be a whole number from 0 to"),
        ({"unit": 0.0}, "unit = 0.0 is to be a whole number"),
        ({"start": 0}, "start = 0 is to be a whole number from 1 to"),
        ({"interval": 0}, "interval = 0 is to be a whole number from 1 to"),
        ({"repeats": -1}, "repeats = -1 is to be a whole number from 0 to"),
        ({"repeats": True}, "repeats = True is to be a whole number"),
        ({"multiplier": float("inf")}, "multiplier = inf is to be a finite number"),
        ({"multiplier": float("nan")}, "multiplier = nan is to be a finite number"),
        ({"multiplier": "100"}, "multiplier = '100' is to be a finite number"),
        *(
            ({"watch": wrong}, r"watch = .* is to be a list of \[layer, unit\]")
            for wrong in (
                "conv1",
                ["conv1", 0],
                [["conv1"]],
                [["conv1", -1]],
                [[0, "conv1"]],
                [["conv1", True]],
                [["conv1", 0], ["conv1", 0, 1]],
            )
        ),
    ],
)
def test_what_an_attack_may_not_be(values, message):
    with pytest.raises(Invalid, match=message):
        settings.check(values, settings.RULES)


@pytest.mark.parametrize(
    "values",
    [
        {"layer": "", "unit": 0, "repeats": 0, "multiplier": -1.5, "control": True, "batch_norm": False},
        {"layer": "features.0", "multiplier": 0, "watch": []},
        {"watch": [["conv1", 0], ["conv1", 7], ["fc1", 0]]},
    ],
)
def test_what_an_attack_may_be(values):
    settings.check(values, settings.RULES)


def test_an_attack_is_over_before_the_training_ends():
    one = {"dataset": "digits", "probe_size": 200, "batch_size": 32, "epochs": 2}  # 66 steps
    one |= {"start": 57, "interval": 3, "repeats": 4}  # 57, 60, 63, 66
    settings.check(one, settings.RULES)
    for later in ({"start": 58}, {"interval": 4}, {"repeats": 5}, {"epochs": 1}):
        with pytest.raises(
            Invalid, match=r"start = .*: the last attack would be at step \d\d, .* takes \d\d$"
        ):
            settings.check(one | later, settings.RULES)
    settings.check(one | {"start": 5000, "repeats": 0}, settings.RULES)  # no attack at all
    unknown = {name: value for name, value in one.items() if name != "epochs"}
    settings.check(unknown | {"start": 5000}, settings.RULES)
