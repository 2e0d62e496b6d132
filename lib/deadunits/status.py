"""The directive `{run-status}`: which runs stand behind the book, and whether their code has changed since.

It looks at the code each time the book is built. Needs no torch.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from deadunits.runs import PUBLISHED, Run, runs_in

VARIED = ("activation", "seed")  # settings with a column of their own


class RunStatus(SphinxDirective):
    """A table a kind of run: settings, seeds, machine, versions, time, stale or not."""

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        self.env.note_reread()
        return self.parse_text_to_nodes(status(Path(self.env.srcdir) / PUBLISHED))


def status(results: Path) -> str:
    """The runs in a folder, in Markdown: a paragraph of settings and a table for each kind."""
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in runs_in(results):
        kinds[_kind(run)].append(run)
    if not kinds:
        return "There are no runs yet."
    return "\n\n".join(_section(name, group) for name, group in sorted(kinds.items()))


def _kind(run: Run) -> str:
    info = run.info
    fixed = {name: value for name, value in info["settings"].items() if name not in VARIED}
    words = ", ".join(f"`{name}` {value}" for name, value in sorted(fixed.items()))
    return f"**{info['experiment']}**: {words}"


def _section(name: str, group: list[Run]) -> str:
    infos = [run.info for run in group]
    hours = sum(info["processor_seconds"] for info in infos) / 3600
    stale = sum(run.state().startswith("stale") for run in group)
    machines = " / ".join(sorted({f"{info['machine']}, {info['device']}" for info in infos}))
    versions = " / ".join(
        sorted({", ".join(f"{k} {v}" for k, v in info["versions"].items()) for info in infos})
    )
    lines = [
        f"{name}",
        f"{len(group)} runs, {stale} of them stale; {hours:.2f} hours of processor time in all. "
        f"Computed on {machines}, with {versions}.",
        "| run | network | seed | computed | processor time | state |\n"
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    key = [(info["settings"]["activation"], info["settings"]["seed"]) for info in infos]
    for _, run, info in sorted(zip(key, group, infos, strict=True), key=lambda row: row[0]):
        when = f"{datetime.fromisoformat(info['started']):%Y-%m-%d %H:%M} UTC"
        settings = info["settings"]
        lines[-1] += (
            f"\n| `{run.folder.name}` | {settings['activation']} | {settings['seed']} | {when} "
            f"| {info['processor_seconds']:.0f} s | {run.state()} |"
        )
    return "\n\n".join(lines)


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_directive("run-status", RunStatus)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
