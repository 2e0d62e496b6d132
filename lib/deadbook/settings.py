"""What a user may set, checked before torch is imported: names, types, ranges and how they fit together."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deadbook import datasets
from deadunits import Invalid


@dataclass(frozen=True)
class Rule:
    """What a setting may be: `says` completes "... is to be"."""

    says: str
    holds: Callable[[Any], bool]


def _one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def _integer(low: int, high: int) -> Rule:
    return Rule(
        f"a whole number from {low} to {high:,}",
        lambda value: type(value) is int and low <= value <= high,
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _fractions(value: Any) -> bool:
    numbers = type(value) is list and value and all(map(_number, value))
    return numbers and all(0 <= one <= 1 for one in value) and len(set(value)) == len(value)


def _names(value: Any, *known: str) -> bool:
    texts = type(value) is list and value and all(type(one) is str and one for one in value)
    return texts and len(set(value)) == len(value) and (not known or set(value) <= set(known))


def _schedule(value: Any) -> bool:
    """Pairs of an epoch and a fraction, both growing; none: no pruning."""
    pairs = type(value) is list and all(type(one) is list and len(one) == 2 for one in value)
    if not pairs or not all(type(epoch) is int and epoch > 0 and _number(f) for epoch, f in value):
        return False
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(value))
    return rising and all(0 <= f <= 1 for _, f in value)


def _units(value: Any) -> bool:
    """Layers with one of their units each: [["conv1", 0]]."""
    return type(value) is list and all(
        type(one) is list and len(one) == 2 and type(one[0]) is str and type(one[1]) is int and one[1] >= 0
        for one in value
    )


def _rising(value: Any, whole: bool = False) -> bool:
    numbers = type(value) is list and value and all(map(_number, value))
    if not numbers or not all(a < b for a, b in itertools.pairwise(value)):
        return False
    return not whole or all(type(one) is int and one > 0 for one in value)


_TEXT = Rule("a path, or empty for the default", lambda value: type(value) is str)
_ACTIVATIONS = ("relu", "tanh", "own")  # "own": of a network that takes none

RULES = {
    "dataset": Rule(
        f"one of {', '.join(datasets.TRAIN_SIZES)}, or the path of a folder with train/ and test/",
        lambda value: type(value) is str and (value in datasets.TRAIN_SIZES or datasets.is_path(value)),
    ),
    "image_size": Rule(
        "a whole number of pixels, 0 for images that are of one size already",
        lambda value: type(value) is int and 0 <= value <= 4096,
    ),
    "network": Rule(
        "small_cnn, or package.module:function of your own",
        lambda value: type(value) is str and (value == "small_cnn" or value.count(":") == 1),
    ),
    "layers": Rule("a list of different names of layers, as texts: ['0', 'fc1']", _names),
    "activations": Rule(
        f"a list of different names among {', '.join(_ACTIVATIONS)}",
        lambda value: _names(value, *_ACTIVATIONS),
    ),
    "schedule": Rule("a list of [epoch, fraction], both rising, fractions from 0 to 1", _schedule),
    "by": _one_of("layer", "network"),
    "rounds": _integer(1, 1000),
    "widths": Rule(
        "three numbers of units, of conv1, conv2 and fc1: [8, 16, 64]",
        lambda value: type(value) is list and len(value) == 3 and all(map(_integer(1, 4096).holds, value)),
    ),
    "wider": Rule(
        "three numbers of units as in widths, or an empty list",
        lambda value: value == [] or RULES["widths"].holds(value),
    ),
    "fraction": Rule("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "batches": Rule(
        "a list of different whole numbers of images",
        lambda value: (
            type(value) is list
            and value
            and all(map(_integer(1, 60_000).holds, value))
            and len(set(value)) == len(value)
        ),
    ),
    "of": _one_of("weights", "units"),
    "weight_schedule": Rule("a list of [epoch, fraction], both rising, fractions from 0 to 1", _schedule),
    "all_layers": Rule("a list of different names of layers, the last one too", _names),
    "scorer": _one_of("mrp", "mrs", "taylor", "taylor_squared", "mean_activation", "norm_l1", "norm_l2"),
    "data_root": _TEXT,
    "results": Rule("the path of a folder", lambda value: type(value) is str and value != ""),
    "activation": _one_of(*_ACTIVATIONS),
    "epochs": _integer(1, 1000),
    "lr": Rule("a number above 0, at most 10", lambda value: _number(value) and 0 < value <= 10),
    "batch_size": _integer(1, 60_000),
    "measure_every": _integer(1, 1_000_000),
    "probe_size": _integer(1, 20_000),
    "fractions": Rule("a list of different numbers from 0 to 1", _fractions),
    "draws": _integer(1, 1000),
    "sizes": Rule(
        "a rising list of numbers above 0",
        lambda value: (
            type(value) is list
            and value
            and all(_number(one) and one > 0 for one in value)
            and all(a < b for a, b in itertools.pairwise(value))
        ),
    ),
    "trials": _integer(1, 1000),
    "batch_norm": Rule("true or false", lambda value: type(value) is bool),
    "layer": Rule("the name of a layer, as a text; empty: no attack", lambda value: type(value) is str),
    "unit": _integer(0, 1_000_000),
    "start": _integer(1, 100_000_000),
    "interval": _integer(1, 1_000_000),
    "repeats": _integer(0, 1_000_000),
    "multiplier": Rule("a finite number", _number),
    "control": Rule("true or false", lambda value: type(value) is bool),
    "watch": Rule("a list of [layer, unit]", lambda value: _units(value)),
    "attacked": Rule("a list of [layer, unit], at least one", lambda value: _units(value) and value),
    "timed": Rule("a list of [layer, unit], at least one", lambda value: _units(value) and value),
    "slow_interval": _integer(1, 1_000_000),
    "units": _integer(1, 1_000_000),
    "points": _integer(10, 1_000_000),
    "noise": Rule("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "below": Rule("a number from 0, below 1", lambda value: _number(value) and 0 <= value < 1),
    "starts": Rule("a rising list of whole numbers from 1", lambda value: _rising(value, whole=True)),
    "multipliers": Rule("a rising list of numbers", _rising),
    "milder": Rule("a rising list of numbers, or empty", lambda value: value == [] or _rising(value)),
    "milder_seeds": _integer(1, 100),
    "chapters": Rule("a list of different names of chapters", _names),
    "profile": Rule("the name of a profile", lambda value: type(value) is str and value != ""),
    "own": Rule("parameters by name: {dataset: mnist}", lambda value: type(value) is dict),
    "seed": _integer(0, 2**31 - 1),
    "seeds": _integer(1, 100),
    "wider_seeds": _integer(1, 100),
    "processes": Rule(
        "a whole number from 0 (one a core) to 256", lambda v: type(v) is int and 0 <= v <= 256
    ),
}


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is not among the known ones."""
    near = difflib.get_close_matches(name, known, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown {kind} {name!r}{meant}; there are: {', '.join(known)}"


def check(values: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise `Invalid`, naming every value that is wrong and what would be right.

    Args:
        values: settings by name.
        known: the names that may be set here, each one of `RULES`.
    """
    known = list(known)
    wrong = []
    for name, value in values.items():
        if name not in known:
            wrong.append(unknown("parameter", name, known))
        elif not RULES[name].holds(value):
            wrong.append(f"{name} = {value!r} is to be {RULES[name].says}")
    if wrong:
        raise Invalid("\n".join(wrong))
    if "probe_size" in values and "dataset" in values:
        # Files are looked at later, by whoever needs them: a chapter rendered from results does not.
        datasets.check_size(values["dataset"], values["probe_size"])
    _check_network(values.get("network", "small_cnn"))
    _check_measured(values)
    _check_schedule(values)
    _check_attack(values)


def _check_network(network: str) -> None:
    """Raise `Invalid` if the module of a reader's own network cannot be found; it is not imported."""
    path = network.partition(":")[0]
    if network == "small_cnn":
        return
    try:
        found = importlib.util.find_spec(path)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise Invalid(
            f"network = {network!r}: there is no module {path} here (PYTHONPATH, or the current folder)"
        )


def _check_schedule(values: Mapping[str, Any]) -> None:
    late = [epoch for epoch, _ in values.get("schedule", []) if epoch > values.get("epochs", epoch)]
    if late:
        raise Invalid(
            f"schedule prunes after epoch {late[0]}, but there are only epochs = {values['epochs']}"
        )


def training_steps(values: Mapping[str, Any]) -> int | None:
    """Steps of the training that these settings speak of, if they do."""
    names = ("dataset", "probe_size", "batch_size", "epochs")
    if not all(name in values for name in names):
        return None
    dataset, probe_size, batch_size, epochs = (values[name] for name in names)
    return epochs * math.ceil((datasets.train_size(dataset) - 2 * probe_size) / batch_size)


def _check_measured(values: Mapping[str, Any]) -> None:
    every, steps = values.get("measure_every", 0), training_steps(values)
    if steps is not None and every > steps:
        raise Invalid(
            f"measure_every = {every}: the training takes {steps} steps only ({values['epochs']} epochs of "
            f"{values['dataset']} in minibatches of {values['batch_size']}), so nothing would be measured"
        )


def _check_attack(values: Mapping[str, Any]) -> None:
    if not all(name in values for name in ("start", "interval", "repeats")) or not values["repeats"]:
        return
    last, steps = values["start"] + (values["repeats"] - 1) * values["interval"], training_steps(values)
    if steps is not None and last > steps:
        raise Invalid(
            f"start = {values['start']}, interval = {values['interval']}, repeats = {values['repeats']}: "
            f"the last attack would be at step {last:,}, the training takes {steps:,}"
        )


def declared(notebook: Path) -> dict[str, Any]:
    """Names and defaults in the notebook's cell tagged `parameters`.

    Raises:
        Invalid: there is no such cell, or a line of it is not `name: type = value`.
    """
    for cell in json.loads(notebook.read_text("utf8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            lines = ast.parse("".join(cell["source"])).body
            try:
                return {line.target.id: ast.literal_eval(line.value) for line in lines}
            except (AttributeError, ValueError) as error:
                raise Invalid(f"{notebook}: parameters are lines `name: type = value`") from error
    raise Invalid(f"{notebook} has no cell tagged `parameters`")
