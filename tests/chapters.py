"""A chapter's source executed in this process, which is fast, and read as its reader would."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from deadunits import book
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output

ROOT = Path(__file__).parents[1]
GLUED = re.compile(r"\{glue:text\}`([^`:]+)(?::([^`]*))?`")
#: Of chapters that train: small enough for a run to take a second or two.
SMALL = {"dataset": "digits", "epochs": 1, "probe_size": 20, "seeds": 1}


@dataclass(frozen=True)
class Page:
    """What an executed chapter shows."""

    text: str  # prose with its numbers, tables, verdicts, captions; no figures
    glued: dict[str, Any]
    outputs: list[dict[str, Any]]  # the data of each, by MIME type

    @property
    def figures(self) -> int:
        return sum("image/svg+xml" in data for data in self.outputs)


def execute(chapter: str, results: Path, **own: Any) -> Page:
    """Run the cells of a chapter with these parameters, checked as the command line checks them.

    Raises:
        AssertionError: a cell failed; names it.
    """
    chosen = book.chosen(chapter, "quick", own | {"results": str(results), "processes": 1})
    notebook = json.loads((ROOT / f"notebooks/{chapter}.ipynb").read_text("utf8"))
    pieces, glued, outputs = [], {}, []
    with _shell() as shell:
        for number, cell in enumerate(notebook["cells"]):
            source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
            if cell["cell_type"] == "markdown":
                pieces.append(source)
                continue
            if cell["cell_type"] != "code":
                continue
            if "parameters" in tags:
                source = "\n".join(f"{name} = {value!r}" for name, value in chosen.items())
            with capture_output() as captured:
                done = shell.run_cell(source, store_history=False)
            error = done.error_before_exec or done.error_in_exec
            assert error is None, f"{chapter}, cell {number}: {type(error).__name__}: {error}"
            shown = captured.outputs
            if done.result is not None:  # of a cell's last line; a kernel would display it
                shown = [*shown, RichOutput(*shell.display_formatter.format(done.result))]
            for output in shown:
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
            if shown and figure:
                pieces.append(figure.get("caption", ""))
    text = GLUED.sub(lambda found: format(glued[found[1]], (found[2] or "").rstrip("s")), "\n".join(pieces))
    return Page(html.unescape(re.sub(r"<[^>]+>", " ", text)), glued, outputs)


@contextmanager
def _shell() -> Iterator[InteractiveShell]:
    """An IPython as a kernel has one, and nothing of it left behind."""
    InteractiveShell.clear_instance()
    with mpl.rc_context():
        shell = InteractiveShell.instance()
        try:
            yield shell
        finally:
            shell.restore_sys_module_state()
            InteractiveShell.clear_instance()
