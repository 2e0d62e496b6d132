"""A chapter's source executed in this process, which is fast, and read as its reader would."""

from __future__ import annotations

import ast
import contextlib
import html
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib as mpl
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure

from deadbook import figures, runs, settings
from deadbook.build import book

ROOT = Path(__file__).parents[2]
GLUED = re.compile(r"\{glue:text\}`([^`:]+)(?::([^`]*))?`")
#: Of chapters that train: small enough for a run to take a second or two.
SMALL = {"dataset": "digits", "epochs": 1, "probe_size": 20, "seeds": 1}


@dataclass(frozen=True)
class Page:
    """What an executed chapter shows."""

    text: str  # prose with its numbers, tables, verdicts, captions; no figures
    glued: dict[str, Any]
    outputs: list[dict[str, Any]]  # the data of each, by MIME type
    cells: list[list[dict[str, Any]]]  # the same of each cell of the notebook, glued numbers too

    @property
    def figures(self) -> int:
        return sum("image/svg+xml" in data for data in self.outputs)


def execute(chapter: str, results: Path, profile: str = "quick", published: bool = False, **own: Any) -> Page:
    """Run the cells of a chapter with these parameters, checked as the command line checks them.

    Args:
        published: figures as they are published; without, they are drawn, but neither laid out nor written,
            which takes most of the time.

    Raises:
        AssertionError: a cell failed; names it.
    """
    known = settings.chapter(chapter).model_fields
    own |= {name: value for name, value in {"results": str(results), "processes": 1}.items() if name in known}
    chosen = book.chosen(chapter, profile, own)
    notebook = json.loads((ROOT / f"notebooks/{chapter}.ipynb").read_text("utf8"))
    pieces, glued, outputs, cells = [], {}, [], []
    quickly = contextlib.nullcontext() if published else _figures_without_layout()
    here = mock.patch.multiple(runs, _compute=_compute_here, rehearse=lambda *_: None)
    with _shell() as shell, quickly, here:
        for number, cell in enumerate(notebook["cells"]):
            source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
            cells.append([])
            if cell["cell_type"] == "markdown":
                pieces.append(source)
                continue
            if cell["cell_type"] != "code":
                continue
            if "parameters" in tags:
                source = "\n".join(f"{name} = {value!r}" for name, value in chosen.items())
            with capture_output() as captured:
                shell.display_trap.hook = sys.displayhook  # a cell's last line is drawn once, and kept
                done = shell.run_cell(source, store_history=False)
            error = done.error_before_exec or done.error_in_exec
            assert error is None, f"{chapter}, cell {number}: {type(error).__name__}: {error}"
            for output in captured.outputs:
                cells[-1].append(output.data)
                name = output.metadata and output.metadata.get("scrapbook", {}).get("name")
                if name:
                    record = output.data["application/papermill.record/text/plain"]
                    glued[name] = ast.literal_eval(record)
                    continue
                outputs.append(output.data)
                pieces += [
                    output.data[kind] for kind in ("text/markdown", "text/html") if kind in output.data
                ]
            figure = cell["metadata"].get("mystnb", {}).get("figure", {})
            if captured.outputs and figure:
                pieces.append(figure.get("caption", ""))
    text = GLUED.sub(lambda found: format(glued[found[1]], (found[2] or "").rstrip("s")), "\n".join(pieces))
    return Page(html.unescape(re.sub(r"</?[a-z][^>]*>", " ", text)), glued, outputs, cells)


def _compute_here(
    experiment: str, missing: Mapping[str, Any], folder: Path, data_root: str, processes: int
) -> None:
    """In place of workers, each of which imports torch (so do rehearsals)."""
    for chosen in missing.values():
        runs.execute(experiment, dict(chosen), folder, data_root)


@contextmanager
def _figures_without_layout() -> Iterator[None]:
    def draw(figure: Figure, **_: object) -> bytes:
        figure.set_layout_engine("none")
        figure.draw_without_rendering()
        return b"<svg/>"

    with mock.patch.object(figures, "svg", draw), mock.patch.object(figures.style, "svg", draw):
        yield


@contextmanager
def _shell() -> Iterator[InteractiveShell]:
    """An IPython as a kernel has one, and nothing of it left behind."""
    InteractiveShell.clear_instance()
    with mpl.rc_context(), torch.random.fork_rng():
        shell = InteractiveShell.instance()
        try:
            yield shell
        finally:
            shell.restore_sys_module_state()
            InteractiveShell.clear_instance()
