"""What chapters show besides figures: their opening card, the source of a loop, numbers for the prose."""

from __future__ import annotations

import ast
import base64
import html
import math
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from deadbook import claims, figures, settings
from deadbook.analysis.measures import steady
from deadbook.runs import Run


def parameters(chapter: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a chapter by name, checked; `names` are its notebook's `globals()`."""
    kind = settings.chapter(chapter)
    return settings.check(kind, {name: names[name] for name in kind.model_fields}).model_dump()


def card(learn: str, runs: Sequence[Run]) -> HTML:
    """The opening of a chapter: what one learns, data, settings, seeds, machine and run time."""
    rows = _about(runs) if runs else {"Run time": "a few seconds, on this page"}
    rows = {"You will learn": learn} | rows
    items = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items())
    used = "".join(f'<span data-run="{run.folder.name}"></span>' for run in runs)  # for `book.publish`
    return HTML(f'<div class="chapter-card"><dl>{items}</dl>{used}</div>')


def _about(runs: Sequence[Run]) -> dict[str, str]:
    infos = [run.info for run in runs]
    chosen = [info["settings"] for info in infos]
    fixed = {
        name: value
        for name, value in chosen[0].items()
        if name not in ("dataset", "activation", "seed")
        and all(values.get(name, value) == value for values in chosen)
    }
    activations, seeds = (sorted({str(values[name]) for values in chosen}) for name in ("activation", "seed"))
    counts = Counter(info["experiment"].replace("_", " ") for info in infos)
    kinds = ", ".join(f"{count} of {name}" for name, count in counts.items())
    dates = sorted(datetime.fromisoformat(info["started"]) for info in infos)
    seconds = sum(info["processor_seconds"] for info in infos)
    time = f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} seconds"
    machines = " / ".join(dict.fromkeys(info["machine"] for info in infos))
    versions = infos[0]["versions"]
    return {
        "Data": _images(runs),
        "Settings": ", ".join(f"{name} {value}" for name, value in fixed.items()),
        "Runs": f"{kinds}; {' and '.join(activations)}; seeds {', '.join(seeds)}",
        "Machine": f"{machines}; one thread a run; torch {versions['torch']}, Python {versions['python']}",
        "Run time": f"{time} of processor time, {dates[-1]:%-d %B %Y}",
    }


def _images(runs: Sequence[Run]) -> str:
    """The data set; of CIFAR-10 also whether it is the official one."""
    name = runs[0].info["settings"]["dataset"]
    if name == "cifar10":
        name = runs[0].table("final")["images"].iloc[0]
    if name == "cifar10 (folder)":
        name += (
            ": re-coded images, not the official bytes, so no number here is one for the official CIFAR-10"
        )
    return name


def verdict(claim: str, runs: Sequence[Run]) -> claims.Verdict:
    """The verdict on a claim by these runs, kept for other pages."""
    found = claims.verdict(claim, runs)
    glue(**{f"verdict_{claim.lower().replace('.', '')}": str(found)})
    return found


def source(function: str) -> Markdown:
    """The source of a function, by its name, as in "deadunits.training.sgd"."""
    *modules, name = function.split(".")
    text = Path(__file__).parents[2].joinpath(*modules).with_suffix(".py").read_text("utf8")
    body = ast.parse(text).body  # read, not imported: that would bring torch
    (node,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    return Markdown(f"```python\n{ast.get_source_segment(text, node)}\n```")


def pictures(rows: Mapping[str, Figure], caption: str) -> HTML:
    """Pictures without text under one caption, each with its name beside it, which is read aloud too."""
    shown = "".join(
        f'<div><span>{html.escape(name)}</span><img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(figures.png(figure)).decode()}"></div>'
        for name, figure in rows.items()
    )
    return HTML(f'<figure class="pictures">{shown}<figcaption>{caption}</figcaption></figure>')


def table(frame: pd.DataFrame, **formats: str) -> HTML:
    """A table without its index; `formats` gives the format of a column, as in `format(value, ".2f")`.

    A number that is not known (NaN or infinite) is a dash.
    """
    formatters = {
        name: lambda value, form=form: format(_steady(value), form) if is_known(value) else "–"
        for name, form in formats.items()
    }
    frame = frame.rename_axis(columns=None)  # a name there would stand as one more heading
    return HTML(frame.to_html(index=False, border=0, classes="run-table", formatters=formatters, na_rep="–"))


def spread(values: Iterable[float], form: str = "{:.4g}") -> str:
    """A mean over seeds and, in brackets, the lowest and the highest; a dash: nothing is known."""
    known = [float(value) for value in values if is_known(value)]
    if not known:
        return "–"
    form = form.replace("{:", "{:z")  # no "-0"
    mean, low, high = (form.format(steady(value)) for value in (np.mean(known), min(known), max(known)))
    return f"{mean} ({low} to {high})" if len(known) > 1 else mean


def joined(parts: Iterable[str]) -> str | None:
    """'a, b and c'; None: there are none."""
    *first, last = [*parts] or [None]
    return f"{', '.join(first)} and {last}" if first else last


def prose(*sentences: str, otherwise: str = "", **values: float | int | str | None) -> Markdown | None:
    """Sentences with numbers of the run in them, as in `str.format`: "{share:.0f}% of the weights".

    A sentence with a value that this run does not have (it is not among `values`, None, nan or infinite) is
    left out. An empty text ends a paragraph. If no sentence is left, `otherwise` is shown, and without it
    nothing: of an empty text a built page would show Python's name for the object.
    """
    known = {name: _steady(value) for name, value in values.items() if is_known(value)}
    paragraphs: list[list[str]] = [[]]
    for sentence in sentences:
        if not sentence:
            paragraphs.append([])
        elif {name for _, name, _, _ in string.Formatter().parse(sentence) if name} <= known.keys():
            paragraphs[-1].append(sentence.format(**known))
    text = "\n\n".join(" ".join(lines) for lines in paragraphs if lines) or otherwise
    return Markdown(text) if text else None


def is_known(value: float | int | str | None) -> bool:
    """Whether there is a value to show: a text, or a finite number."""
    return isinstance(value, str) or (value is not None and math.isfinite(value))


def _steady(value: float | int | str) -> float | int | str:
    return steady(value) if isinstance(value, float) else value


def glue(**values: float | int | str | None) -> None:
    """Keep numbers for other pages: {glue:text}`name:.2f` prints them; six significant digits are kept.

    The same record as `myst_nb.glue`, without needing it where the notebook runs. What this run does not have
    (None, nan or infinite) is not kept.
    """
    for name, value in values.items():
        if not is_known(value):
            continue
        text = repr(value if isinstance(value, str | int) else float(f"{steady(value):.6g}"))
        record = {"application/papermill.record/text/plain": text}
        meta = {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}}
        display(record, raw=True, metadata=meta)
