"""What a user may set, checked before torch is imported: names, types, ranges and how they fit together."""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deadunits import Invalid, data


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


_TEXT = Rule("a path, or empty for the default", lambda value: type(value) is str)

RULES = {
    "dataset": _one_of(*data.TRAIN_SIZES),
    "data_root": _TEXT,
    "results": Rule("the path of a folder", lambda value: type(value) is str and value != ""),
    "activation": _one_of("relu", "tanh"),
    "epochs": _integer(1, 1000),
    "lr": Rule("a number above 0, at most 10", lambda value: _number(value) and 0 < value <= 10),
    "batch_size": _integer(1, 60_000),
    "measure_every": _integer(1, 1_000_000),
    "probe_size": _integer(1, 20_000),
    "fractions": Rule("a list of different numbers from 0 to 1", _fractions),
    "draws": _integer(1, 1000),
    "seed": _integer(0, 2**31 - 1),
    "seeds": _integer(1, 100),
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
        data.check_size(values["dataset"], values["probe_size"])
    _check_measured(values)


def _check_measured(values: Mapping[str, Any]) -> None:
    names = ("dataset", "probe_size", "batch_size", "epochs", "measure_every")
    if not all(name in values for name in names):
        return
    dataset, probe_size, batch_size, epochs, every = (values[name] for name in names)
    steps = epochs * math.ceil((data.TRAIN_SIZES[dataset] - 2 * probe_size) / batch_size)
    if every > steps:
        raise Invalid(
            f"measure_every = {every}: the training takes {steps} steps only ({epochs} epochs of "
            f"{dataset} in minibatches of {batch_size}), so nothing would be measured"
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
