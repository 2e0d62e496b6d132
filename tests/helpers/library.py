"""The modules of the library, and what they define for others."""

from __future__ import annotations

import importlib
import inspect
import re
import types

CORE = (
    "data",
    "models",
    "training",
    "derivatives",
    "scorers",
    "pruning",
    "compaction",
    "structured",
    "channels",
    "mean_replacement",
    "unit_scorers",
    "torch_pruning",
    "attack",
    "recorder",
    "counting",
    "graph",
    "incremental",
    "batches",
)


def public(module: str) -> dict[str, object]:
    """Functions, classes and methods that a module of the library defines for others, by name."""
    home = importlib.import_module(f"deadunits.{module}")
    own = {
        name: thing
        for name, thing in vars(home).items()
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == home.__name__
    }
    for name, thing in list(own.items()):
        if inspect.isclass(thing):
            own |= {
                f"{name}.{key}": one
                for key, one in vars(thing).items()
                if isinstance(one, (types.FunctionType, staticmethod, classmethod, property))
            }
    return {name: thing for name, thing in own.items() if not re.search(r"(^|\.)_", name)}
