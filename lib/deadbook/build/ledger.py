"""The directives `{verdicts}`, `{ledger}`, `{tables}`, and the role `{tally}`: what holds of the claims.

Made each time the book is built: the marks from the executed chapters, the ledger from the committed tables.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from deadbook import claims
from deadbook.build import tables
from deadbook.build.book import glued, runs_shown
from deadbook.runs import PUBLISHED, Run, runs_in

MARKS = {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "not testable": "–", "not judged": "·"}


class Verdicts(SphinxDirective):
    """All claims at a glance: a line a chapter, a mark a claim that leads to its place in the ledger."""

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        self.env.note_reread()
        return self.parse_text_to_nodes(verdicts(_chapters(self.env.srcdir)))


class Ledger(SphinxDirective):
    """Every claim with its criterion, numbers and verdicts, and where to see it."""

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        self.env.note_reread()
        known = runs_in(Path(self.env.srcdir) / PUBLISHED)
        text = ledger(_chapters(self.env.srcdir), known)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Tally(SphinxRole):
    """How many claims got a verdict ({tally}`partly`), or `claims`, `runs`, `hours` in all."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Called by Sphinx."""
        self.env.note_reread()
        return [nodes.Text(_tally(str(self.env.srcdir))[self.text])], []


class Tables(SphinxDirective):
    """The tables of the chapters, and what their columns mean."""

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        return self.parse_text_to_nodes(tables.describe())


@cache  # the pages ask for a number each; a build is a process of its own
def _tally(source: str) -> dict[str, str]:
    return tally(_chapters(source), runs_in(Path(source) / PUBLISHED))


def _chapters(source: str) -> Path:
    return Path(source) / "book/chapters"


def shown(chapter: Path) -> Iterator[tuple[str, str]]:
    """Claims that an executed chapter shows: name and verdict."""
    words = {name: text for name, text in glued(chapter).items() if name.startswith("verdict_c")}
    for cell in json.loads(chapter.read_text("utf8"))["cells"]:
        for name in re.findall(r'verdict-id\\?">(C\d\.\d+)<', json.dumps(cell.get("outputs", []))):
            yield name, words[f"verdict_{name.lower().replace('.', '')}"]


def title(chapter: Path) -> str:
    """The first heading of a chapter."""
    text = "".join(json.loads(chapter.read_text("utf8"))["cells"][0]["source"])
    return text.partition("\n")[0].lstrip("# ")


def verdicts(chapters: Path) -> str:
    """The verdicts that the executed chapters show, in Markdown."""
    lines, words = [], Counter[str]()
    for path in sorted(chapters.glob("*.ipynb")):
        marks = []
        for name, text in sorted(shown(path), key=lambda one: int(one[0].partition(".")[2])):
            word = text.partition(" (")[0]
            words[word] += 1
            css = word.replace(" ", "-")
            # classes of the link itself would be lost when Sphinx resolves it
            marks.append(f"[[{MARKS[word]} {name}](#{anchor(name)})]{{.mark .verdict-{css}}}")
        if marks:
            lines.append(f"**{title(path)}**\\\n" + "\n".join(marks))
    legend = ", ".join(f"{MARKS[word]} {word}: {words[word]}" for word in MARKS if words[word])
    return "\n\n".join([*lines, f"{sum(words.values())} claims. {legend}."])


def ledger(chapters: Path, known: list[Run]) -> str:
    """All claims in Markdown: each judged by its criterion from the tables of these runs."""
    parts = []
    for path in sorted(chapters.glob("*.ipynb")):
        found = list(shown(path))
        if found:
            parts.append(f"## {title(path)}")
        for name, _ in found:
            see = f"{name}, from {{doc}}`the chapter <chapters/{path.stem}>`"
            figure = claims.CLAIMS[name].figure
            see += f", {{numref}}`{figure}`:" if figure else ":"
            verdict = claims.verdict(name, known)
            parts += [f"({anchor(name)})=", see, verdict._repr_html_()]  # raw HTML cannot carry a label
    return "\n\n".join(parts)


def anchor(name: str) -> str:
    """The label of a claim in the ledger."""
    return f"claim-{name.lower().replace('.', '-')}"


def tally(chapters: Path, known: list[Run]) -> dict[str, str]:
    """Numbers for the prose: claims by verdict, `claims`, `runs`, processor `hours`, `seeds <chapter>`."""
    of = {run.folder.name: run.info["settings"]["seed"] for run in known}
    seeds = {
        f"seeds {path.stem}": str(len({of[name] for name in runs_shown(path)}))
        for path in chapters.glob("*.ipynb")
    }
    words = [text.partition(" (")[0] for path in chapters.glob("*.ipynb") for _, text in shown(path)]
    hours = sum(run.info["processor_seconds"] for run in known) / 3600
    counts = {word: str(words.count(word)) for word in MARKS}
    return counts | seeds | {"claims": str(len(words)), "runs": str(len(known)), "hours": f"{hours:.1f}"}


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_directive("verdicts", Verdicts)
    app.add_directive("ledger", Ledger)
    app.add_directive("tables", Tables)
    app.add_role("tally", Tally())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
