"""The directive `{run-status}`: which runs stand behind the book. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from deadbook.runs import PUBLISHED, Run, runs_in


class RunStatus(SphinxDirective):
    """A table a kind of run: settings, seeds, machine, versions, time."""

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        self.env.note_reread()
        return self.parse_text_to_nodes(status(Path(self.env.srcdir) / PUBLISHED))


def status(results: Path) -> str:
    """The runs in a folder, in Markdown: a section for each experiment."""
    experiments: dict[str, list[Run]] = defaultdict(list)
    for run in runs_in(results):
        experiments[run.info["experiment"]].append(run)
    if not experiments:
        return "There are no runs yet."
    return "\n\n".join(_section(name, group) for name, group in sorted(experiments.items()))


def _section(name: str, group: list[Run]) -> str:
    """What all runs share, and a table with a column for each setting in which they differ."""
    infos = [run.info for run in group]
    settings = [info["settings"] for info in infos]
    every = sorted({key for one in settings for key in one})
    varied = [key for key in every if len({str(one.get(key)) for one in settings}) > 1]
    fixed = ", ".join(f"`{key}` {settings[0][key]}" for key in every if key not in varied)
    hours = sum(info["processor_seconds"] for info in infos) / 3600
    machines = " / ".join(sorted({f"{info['machine']}, {info['device']}" for info in infos}))
    versions = " / ".join(
        sorted({", ".join(f"{k} {v}" for k, v in info["versions"].items()) for info in infos})
    )
    rows = [["run", *varied, "computed", "seconds"]]
    rows.append(["---"] * len(rows[0]))
    for run, info in sorted(
        zip(group, infos, strict=True), key=lambda pair: [str(pair[1]["settings"].get(key)) for key in varied]
    ):
        when = f"{datetime.fromisoformat(info['started']):%Y-%m-%d %H:%M} UTC"
        own = [str(info["settings"].get(key)) for key in varied]
        rows.append([f"`{run.folder.name}`", *own, when, f"{info['processor_seconds']:.0f}"])
    return "\n\n".join(
        (
            f"**{name}**: {fixed}",
            f"{len(group)} run{'s' if len(group) > 1 else ''}; {hours:.2f} hours of "
            f"processor time in all. Computed on {machines}, with {versions}.",
            f":::{{dropdown}} The {len(group)} runs",
            "\n".join(f"| {' | '.join(row)} |" for row in rows),
            ":::",
        )
    )


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_directive("run-status", RunStatus)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
