"""The committed chapters are what today's code makes of the committed tables, on any processor."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from pandas.core import nanops
from pandas.core.groupby.ops import BaseGrouper
from pandas.core.window.rolling import Rolling

import chapters
from deadbook import widgets
from deadbook.build import book

COMPARED = (
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "application/papermill.record/text/plain",
)
CHAPTERS = sorted(Path("book/chapters").glob("*.ipynb"))


@contextmanager
def moved(size: float) -> Iterator[None]:
    """Move what sums, means and correlations give by a relative `size`, up or down by chance.

    Their order of summation is what differs between processors; single operations are the same on all.
    Only float64 is moved, so that the tables, which are float32, stay as they are.
    """
    generator = np.random.default_rng(0)

    def move(value: Any) -> Any:
        if isinstance(value, pd.DataFrame | pd.Series):
            return value * (1 + size * generator.choice([-1, 1], value.shape))
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            return value * (1 + size * generator.choice([-1, 1], value.shape))
        if isinstance(value, float):  # np.float64 too
            return value * (1 + size * generator.choice([-1, 1]))
        return value

    def moving(function: Any) -> Any:
        return lambda *args, **kwargs: move(function(*args, **kwargs))

    with ExitStack() as stack:
        patched = stack.enter_context
        for owner, names in (
            (nanops, ("nanmean", "nansum", "nanvar", "nanstd", "nancorr")),
            (np, ("mean", "sum", "std", "corrcoef", "average")),
            (pd.DataFrame, ("corr",)),
            (Rolling, ("mean",)),
        ):
            for name in names:
                patched(mock.patch.object(owner, name, moving(getattr(owner, name))))
        inner = BaseGrouper._cython_operation

        def grouped(self: Any, values: Any, how: str, *args: Any, **kwargs: Any) -> Any:
            found = inner(self, values, how, *args, **kwargs)
            return move(found) if how in ("mean", "sum", "std", "var", "prod") else found

        patched(mock.patch.object(BaseGrouper, "_cython_operation", grouped))
        yield


@contextmanager
def without_widgets() -> Iterator[None]:
    """Widgets are not compared, and half of a chapter's time is the drawing of their frames."""
    made = [name for name, thing in vars(widgets).items() if inspect.isfunction(thing) and name[0] != "_"]
    with ExitStack() as stack:
        for name in made:
            stack.enter_context(mock.patch.object(widgets, name, return_value=None))
        yield


def shown(outputs: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What is compared of a cell's outputs: text and figures, no pictures, widgets and pieces."""
    found = [{kind: "".join(data[kind]) for kind in COMPARED if kind in data} for data in outputs]
    return [data for data in found if data and 'class="lab"' not in data.get("text/html", "")]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_committed_chapter_is_rendered_the_same_when_sums_differ_in_their_last_digits(path, tmp_path):
    with moved(1e-12), without_widgets():
        page = chapters.execute(path.stem, tmp_path, profile=book.PUBLISHED, published=True)
    cells = [
        cell
        for cell in json.loads(path.read_text("utf8"))["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    assert len(cells) == len(page.cells)
    for number, (cell, outputs) in enumerate(zip(cells, page.cells, strict=True)):
        if cell["cell_type"] != "code" or "nbval-ignore-output" in cell["metadata"].get("tags", []):
            continue
        kept = [output.get("data", {}) for output in cell["outputs"]]
        assert shown(outputs) == shown(kept), f"cell {number}"
    assert not list(tmp_path.iterdir())  # no run was computed


def test_the_numbers_are_moved():
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": ["x", "x", "y"]})
    plain = [frame["a"].mean(), frame.groupby("b")["a"].mean().iloc[0], np.mean([1.0, 2.0])]
    with moved(1e-3):
        other = [frame["a"].mean(), frame.groupby("b")["a"].mean().iloc[0], np.mean([1.0, 2.0])]
    assert other != plain
    assert other == pytest.approx(plain, rel=2e-3)
    assert all(a != b for a, b in zip(plain, other, strict=True))
