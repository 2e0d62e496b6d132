from __future__ import annotations

import json

import pytest
from deadunits import Invalid, book, runs, settings


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
    monkeypatch.setattr("deadunits.data.check", lambda *_: None)  # profiles need no data to be valid
    known = settings.declared(runs.top() / f"notebooks/{chapter}.ipynb")
    assert set(known) <= set(settings.RULES)
    book.parameters(chapter, profile)


def test_the_thesis_profile_is_what_the_claims_speak_of():
    from deadunits import claims

    chosen = book.parameters("02-1-saliency", "thesis")
    for claim in claims.CLAIMS.values():
        assert claim.setting.items() <= chosen.items()
    assert chosen["seeds"] >= claims.FULL
