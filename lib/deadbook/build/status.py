"""The directive `{run-status}`: the runs that the book shows. Needs no torch."""

from __future__ import annotations

import html
import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from deadbook.runs import PUBLISHED, Run, runs_in


def directive(write: Callable[[Path], str]) -> type[SphinxDirective]:
    """A directive that stands for what `write` makes of the folder of the sources, in Markdown."""

    class Written(SphinxDirective):
        def run(self) -> list[nodes.Node]:
            self.env.note_reread()
            text = write(Path(self.env.srcdir))
            return self.parse_text_to_nodes(text, allow_section_headings=True)

    return Written


def status(results: Path) -> str:
    """The runs in a folder, in Markdown: a section for each experiment, and which runs are damaged."""
    experiments: dict[str, list[Run]] = defaultdict(list)
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        for run in runs_in(results):
            experiments[run.info["experiment"]].append(run)
    if not experiments:
        return "There are no runs yet."
    parts = [_section(name, group) for name, group in sorted(experiments.items())]
    return "\n\n".join(parts + [f"Left out: {_escaped(warning.message)}." for warning in damaged])


def _section(name: str, group: list[Run]) -> str:
    """What all runs share, and a table with a column for each setting in which they differ."""
    infos = [run.info for run in group]
    settings = [info["settings"] for info in infos]
    names = sorted({name for values in settings for name in values})
    varied = [name for name in names if len({str(values.get(name)) for values in settings}) > 1]
    fixed = ", ".join(f"`{name}` {_escaped(settings[0][name])}" for name in names if name not in varied)
    hours = sum(info["processor_seconds"] for info in infos) / 3600
    machines = " / ".join(sorted({f"{info['machine']}, {info['device']}" for info in infos}))
    versions = {", ".join(f"{name} {text}" for name, text in info["versions"].items()) for info in infos}
    rows = [["run", *varied, "computed", "seconds"], ["---"] * (len(varied) + 3)]
    for run in sorted(group, key=lambda run: [str(run.info["settings"].get(name)) for name in varied]):
        started = f"{datetime.fromisoformat(run.info['started']):%Y-%m-%d %H:%M} UTC"
        values = [_escaped(run.info["settings"].get(name)) for name in varied]
        seconds = f"{run.info['processor_seconds']:.0f}"
        rows.append([f"`{run.folder.name}`", *values, started, seconds])
    return "\n\n".join(
        (
            f"**{_escaped(name)}**: {fixed}",
            f"{len(group)} run{'s' if len(group) > 1 else ''}; {hours:.2f} hours of "
            f"processor time in all. Computed on {_escaped(machines)}, "
            f"with {_escaped(' / '.join(sorted(versions)))}.",
            f":::{{dropdown}} The {len(group)} runs",
            "\n".join(f"| {' | '.join(row)} |" for row in rows),
            ":::",
        )
    )


def _escaped(value: object) -> str:
    """A value as text: nothing in it is HTML, nor Markdown that makes a link, a cell or an emphasis."""
    return re.sub(r"[][|`*_$\\{}~\n]", lambda sign: f"&#{ord(sign[0])};", html.escape(str(value)))


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_directive("run-status", directive(lambda source: status(source / PUBLISHED)))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
