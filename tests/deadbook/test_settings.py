"""Settings: what is valid keeps its type and its key; what is not is named, with what would be right."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deadbook import runs, settings
from deadbook.build import book
from deadbook.chapters import plans
from deadunits import Invalid

NETWORK = {"dataset": "digits", "image_size": 0, "network": "small_cnn", "activation": "relu", "seed": 0}
TRAINED = NETWORK | {"epochs": 2, "lr": 0.1, "batch_size": 32, "measure_every": 5, "probe_size": 200}
LAYERS = TRAINED | {"layers": ["conv1", "fc1"]}
ATTACK = {"layer": "conv1", "unit": 0, "start": 57, "interval": 3, "repeats": 4, "multiplier": 100}
VALID = {
    "background": TRAINED | {"sizes": [0.1, 1], "trials": 2},
    "saliency": LAYERS | {"fractions": [0.05, 0.8], "draws": 2},
    "weight_pruning": LAYERS | {"schedule": [[1, 0.5]], "by": "layer"},
    "attacks": LAYERS | ATTACK | {"batch_norm": True, "control": False, "watch": [["conv1", 0]]},
}
MODELS = {**settings.EXPERIMENTS, **settings.CHAPTERS}


def refused(experiment: str, **wrong) -> str:
    """The error for these values in the place of the valid ones."""
    with pytest.raises(Invalid) as error:
        settings.check(settings.experiment(experiment), VALID[experiment] | wrong)
    return str(error.value)


@pytest.mark.parametrize(
    ("experiment", "wrong", "message"),
    [
        ("saliency", {"dataset": "imagenet"}, "dataset = 'imagenet' must be one of digits, mnist"),
        ("saliency", {"epochs": 0}, "epochs = 0 must be an integer from 1 to 1,000"),
        ("saliency", {"epochs": 2.0}, "epochs = 2.0 must be an integer"),
        ("saliency", {"lr": "0.1"}, "lr = '0.1' must be a number above 0"),
        ("saliency", {"lr": 10**400}, "... (401 characters) must be a number above 0"),
        ("saliency", {"fractions": [0.1, 1.5]}, "must be a list of different numbers from 0 to 1"),
        ("saliency", {"fractions": [0.1, 0.1]}, "must be a list of different numbers"),
        ("saliency", {"activation": "gelu"}, "must be one of relu, tanh"),
        ("saliency", {"lrr": 1}, "unknown parameter 'lrr' (did you mean lr?); there are: dataset"),
        ("saliency", {"probe_size": 480}, "so 1 to 479"),
        ("saliency", {"network": "mine"}, "network = 'mine' must be small_cnn, or package.module:function"),
        ("saliency", {"network": "no_such_module_here:net"}, "there is no module no_such_module_here"),
        ("saliency", {"network": "json.nothing:net"}, "there is no module json.nothing"),
        ("saliency", {"layers": ["conv9"]}, "layers: small_cnn has no layer 'conv9'; it has conv1, conv2"),
        ("attacks", {"unit": 8}, "unit: conv1 has units 0 to 7, not 8"),
        ("attacks", {"watch": [["fc2", 0]]}, "watch: 'fc2' must be one of layers = ['conv1', 'fc1']"),
        ("saliency", {"layers": []}, "a list of different names of layers"),
        ("saliency", {"dataset": "pictures"}, "or the path of a folder with train/ and test/"),
        ("saliency", {"dataset": "./no/pictures", "probe_size": 3}, "pictures"),
        ("saliency", {"image_size": -1}, "image_size = -1 must be an integer from 0 to 4,096 (pixels)"),
        ("weight_pruning", {"schedule": [[2, 0.5], [2, 0.8]]}, "a list of [epoch, fraction], both rising"),
        ("weight_pruning", {"schedule": [[2, 0.5], [3, 0.4]]}, "both rising"),
        ("weight_pruning", {"schedule": [2, 0.5]}, "both rising"),
        ("weight_pruning", {"schedule": [[1.0, 0.5]]}, "both rising"),
        ("weight_pruning", {"schedule": [[3, 0.5]]}, "after epoch 3, but there are only epochs = 2"),
        ("background", {"sizes": [1, 0.1]}, "sizes = [1, 0.1] must be a rising list of numbers above 0"),
        ("attacks", {"batch_norm": 1}, "batch_norm = 1 must be true or false"),
        ("attacks", {"layer": 1}, "layer = 1 must be the name of a layer, as a text; empty: no attack"),
        ("attacks", {"unit": -1}, "unit = -1 must be an integer from 0 to"),
        ("attacks", {"repeats": -1}, "repeats = -1 must be an integer from 0 to"),
        ("attacks", {"multiplier": float("inf")}, "multiplier = inf must be a finite number"),
        *(
            ("attacks", {"watch": wrong}, f"watch = {wrong!r} must be a list of [layer, unit]")
            for wrong in ("conv1", [["conv1"]], [["conv1", -1]], [["conv1", True]], [["conv1", 0, 1]])
        ),
    ],
)
def test_what_is_wrong_and_what_would_be_right(experiment, wrong, message):
    said = refused(experiment, **wrong)
    assert message in said
    assert "\n" not in said


def test_a_network_of_ones_own_is_looked_for_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "of_mine").mkdir()
    for name in ("__init__", "nets"):
        (tmp_path / f"of_mine/{name}.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    settings.check(settings.Saliency, VALID["saliency"] | {"network": "of_mine.nets:net"})
    assert "there is no module of_mine.net here" in refused("saliency", network="of_mine.net:net")


def test_all_that_is_wrong_is_said_at_once():
    assert refused("saliency", epochs=0, lr=0, by="layer", draws="2").splitlines() == [
        "epochs = 0 must be an integer from 1 to 1,000",
        "lr = 0 must be a number above 0, at most 10",
        "draws = '2' must be an integer from 1 to 1,000",
        f"unknown parameter 'by'; there are: {', '.join(settings.Saliency.model_fields)}",
    ]
    with pytest.raises(Invalid, match=r"^epochs = 0 .*\nmissing: dataset, .*, draws$"):
        settings.check(settings.Saliency, {"epochs": 0, "fractions": [0.5]})
    with pytest.raises(Invalid, match=r"unknown experiment 'salience' \(did you mean saliency"):
        settings.experiment("salience")


def test_a_training_that_ends_before_the_first_measurement():
    assert "takes 33 steps only" in refused("saliency", epochs=1, measure_every=34)
    settings.check(settings.Saliency, VALID["saliency"] | {"epochs": 1, "measure_every": 33})


@pytest.mark.parametrize("chapter", book.chapters())
def test_a_parameters_cell_has_the_names_and_defaults_of_its_model(chapter):
    cells = json.loads(Path(f"notebooks/{chapter}.ipynb").read_text())["cells"]
    (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    lines = ast.parse("".join(cell["source"])).body
    declared = {line.target.id: ast.literal_eval(line.value) for line in lines}
    expected = settings.check(settings.chapter(chapter), {}).model_dump()
    assert {name: repr(value) for name, value in declared.items()} == {
        name: repr(value) for name, value in expected.items()
    }


@pytest.mark.parametrize("profile", book.profiles())
@pytest.mark.parametrize("chapter", book.chapters())
def test_every_profile_is_valid_and_wants_valid_runs(chapter, profile, monkeypatch):
    monkeypatch.setattr("deadbook.datasets.check", lambda *_, **__: None)  # profiles need no data to be valid
    monkeypatch.setattr("deadbook.runs.decode", lambda *_: None)
    book.complete(chapter, profile)
    wanted = plans.PLANS.get(chapter, lambda _: {})(book.chosen(chapter, profile))
    for experiment, several in wanted.items():
        for chosen in several:
            settings.check(settings.experiment(experiment), chosen)


def test_each_setting_is_described_once():
    described = {}
    for kind in MODELS.values():
        for name, field in kind.model_fields.items():
            assert field.description
            assert field.json_schema_extra["must"]
            about = (field.description, field.json_schema_extra["must"], str(field.annotation))
            assert described.setdefault(name, about) == about, name
    for name, kind in MODELS.items():  # a line of help each
        assert [line.split()[0] for line in settings.described(name).splitlines()] == list(kind.model_fields)


NUMBERS = st.one_of(st.integers(1, 10), st.floats(0.01, 10))
FRACTIONS = st.one_of(st.sampled_from([0, 1]), st.floats(0, 1))


@given(
    lr=NUMBERS,
    epochs=st.integers(2, 1000),
    fractions=st.lists(FRACTIONS, min_size=1, unique=True),
    layers=st.lists(st.sampled_from(settings.SMALL_CNN), min_size=1, unique=True),
    probe_size=st.integers(1, 200),
    seed=st.integers(0, 2**31 - 1),
)
def test_what_is_valid_keeps_its_types_and_its_key(**chosen):
    values = VALID["saliency"] | chosen
    checked = settings.check(settings.Saliency, values).model_dump(exclude_unset=True)
    assert json.dumps(checked, sort_keys=True) == json.dumps(values, sort_keys=True)
    assert runs.key("saliency", checked) == runs.key("saliency", values)
    assert settings.check(settings.Saliency, checked).model_dump(exclude_unset=True) == checked


TEXT = st.text(st.characters(categories=["L", "N", "P"]))
VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | TEXT, st.lists, max_leaves=4)


@example(name="batch_size", value=33)  # its training is too short for the attacks
@given(name=st.sampled_from(list(VALID["attacks"])), value=VALUES)
def test_any_value_is_valid_or_named_in_one_line(name, value):
    values = VALID["attacks"] | {name: value}
    try:
        assert settings.check(settings.Attacks, values).model_dump(exclude_unset=True) == values
    except Invalid as error:
        said = str(error)
    else:
        said = name
    assert "\n" not in said
    assert name in said or type(value) is str  # a folder without images is named by its path


class Older(settings.Experiment):
    """A toy: what an experiment had when its runs were committed."""


class Younger(Older):
    """The same with a setting that was added later."""

    added_later: ClassVar[frozenset[str]] = frozenset({"draws"})
    draws: settings.Draws = 3


def test_a_setting_added_later_is_left_out_of_the_key_at_its_default(monkeypatch):
    before = NETWORK | {"probe_size": 20}
    monkeypatch.setitem(settings.EXPERIMENTS, "toy", Older)
    old = runs.key("toy", before)
    monkeypatch.setitem(settings.EXPERIMENTS, "toy", Younger)
    assert runs.key("toy", before) == runs.key("toy", before | {"draws": 3}) == old
    others = [runs.key("toy", before | {"draws": draws}) for draws in (2, 3.0, True)]
    assert len({old, *others}) == 4
    assert settings.check(Younger, before).draws == 3


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
    ("experiment", "values"),
    [
        ("weight_pruning", {"network": "json:loads", "layers": ["a.b"], "activation": "own", "schedule": []}),
        ("weight_pruning", {"schedule": [[1, 0.5], [2, 0.5]]}),
        ("attacks", {"layer": "", "repeats": 0, "multiplier": -1.5, "control": True, "batch_norm": False}),
        ("attacks", {"network": "json:loads", "layers": ["0"], "layer": "0", "multiplier": 0, "watch": []}),
        ("attacks", {"watch": [["conv1", 0], ["conv1", 7], ["fc1", 0]]}),
    ],
)
def test_what_else_is_valid(experiment, values):
    settings.check(settings.experiment(experiment), VALID[experiment] | values)


def test_an_attack_is_over_before_the_training_ends():
    valid = VALID["attacks"]  # 66 steps; attacks at 57, 60, 63, 66
    settings.check(settings.Attacks, valid)
    for later in ({"start": 58}, {"interval": 4}, {"repeats": 5}, {"epochs": 1}):
        assert "the last attack would be at step" in refused("attacks", **later)
    settings.check(settings.Attacks, valid | {"start": 5000, "repeats": 0})  # no attack at all
    for later in ({"starts": [20, 5000]}, {"slow_interval": 50}):
        with pytest.raises(
            Invalid, match=r"^start = .* the last attack would be at step .* takes \d+ \(epochs = .*\)$"
        ):
            settings.check(settings.BatchNormChapter, later)
