"""The directives `{verdicts}`, `{ledger}`, `{tables}`, and the role `{tally}`: what holds of the claims.

Made each time the book is built: the marks from the executed chapters, the ledger from the committed tables.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from deadbook import claims
from deadbook.build import tables
from deadbook.build.book import glued, runs_shown
from deadbook.build.status import directive
from deadbook.runs import PUBLISHED, Run, runs_in

CHAPTERS = "book/chapters"
MARKS = {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "not testable": "–", "not judged": "·"}
MARKS |= {"not run yet": "○"}
LISTS = {"first": "the first list", "second": "the second list", "open": "open questions"}


class Tally(SphinxRole):
    """How many claims got a verdict ({tally}`partly`), or `claims`, `runs`, `hours` in all."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Called by Sphinx."""
        self.env.note_reread()
        return [nodes.Text(_tally(str(self.env.srcdir))[self.text])], []


@cache  # the pages ask for a number each; a build is a process of its own
def _tally(source: str) -> dict[str, str]:
    return tally(Path(source) / CHAPTERS, runs_in(Path(source) / PUBLISHED))


@cache  # chapters are megabytes
def shown(chapter: Path) -> dict[str, str]:
    """Claims that an executed chapter shows, by name, and the verdicts."""
    words = glued(chapter)
    names = re.findall(r'verdict-id[\\"]*>([CO][\d.]+)<', chapter.read_text("utf8"))
    return {name: words[f"verdict_{name.lower().replace('.', '')}"] for name in names}


def unshown(chapters: Path) -> list[str]:
    """The claims that no executed chapter shows."""
    known = {name for path in chapters.glob("*.ipynb") for name in shown(path)}
    return [name for name in claims.CLAIMS if name not in known]


def outcome(text: str) -> str:
    """The outcome in a verdict that a chapter shows, as "reproduced, number differs (5 seeds)"."""
    return re.split(r", | \(", text)[0]


def title(chapter: Path) -> str:
    """The first heading of a chapter."""
    text = "".join(json.loads(chapter.read_text("utf8"))["cells"][0]["source"])
    return text.partition("\n")[0].lstrip("# ")


def verdicts(chapters: Path) -> str:
    """The verdicts that the executed chapters show, in Markdown, and the claims that none shows yet."""
    lines, counts = [], {name: Counter[str]() for name in LISTS}

    def marks(words: dict[str, str]) -> str:
        parts = []
        for name, word in sorted(words.items(), key=lambda item: int(re.findall(r"\d+", item[0])[-1])):
            counts[claims.CLAIMS[name].listed][word] += 1
            # classes of the link itself would be lost when Sphinx resolves it
            css = word.replace(" ", "-")
            parts.append(f"[[{MARKS[word]} {name}](#{anchor(name)})]{{.mark .verdict-{css}}}")
        return "\n".join(parts)

    for path in sorted(chapters.glob("*.ipynb")):
        if judged := {name: outcome(text) for name, text in shown(path).items()}:
            lines.append(f"**{title(path)}**\\\n{marks(judged)}")
    for prefix in ("C2", "C3", "C4", "O"):
        if judged := {name: "not run yet" for name in unshown(chapters) if name.startswith(prefix)}:
            chapter = "Open questions" if prefix == "O" else f"Second list, chapter {prefix[1]}"
            lines.append(f"**{chapter}**\\\n{marks(judged)}")
    for name, words in counts.items():
        if words:
            legend = ", ".join(f"{MARKS[word]} {word}: {words[word]}" for word in MARKS if words[word])
            of = (
                "claims" if name == "first" else LISTS[name] if name == "open" else f"claims of {LISTS[name]}"
            )
            lines.append(f"{sum(words.values())} {of}. {legend}.")
    return "\n\n".join(lines)


def ledger(chapters: Path, known: list[Run]) -> str:
    """All claims in Markdown: each judged by its criterion from the tables of these runs."""
    parts = []
    for path in sorted(chapters.glob("*.ipynb")):
        parts += [f"## {title(path)}"] if shown(path) else []
        for name in shown(path):
            see = f"{name}, from {{doc}}`the chapter <chapters/{path.stem}>`"
            figure = claims.CLAIMS[name].figure
            parts += _block(name, see + f", {{numref}}`{figure}`:" if figure else see + ":", known)
    for name, heading in LISTS.items():
        waiting = [claim for claim in unshown(chapters) if claims.CLAIMS[claim].listed == name]
        parts += [f"## {heading[0].upper()}{heading[1:]}: not run yet"] if waiting else []
        for claim in waiting:
            parts += _block(claim, f"{claim}:", known)
    return "\n\n".join(parts)


def _block(name: str, see: str, known: list[Run]) -> list[str]:
    """A claim in the ledger; raw HTML cannot carry a label."""
    return [f"({anchor(name)})=", see, claims.verdict(name, known)._repr_html_()]


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
    words = [outcome(text) for path in chapters.glob("*.ipynb") for text in shown(path).values()]
    hours = sum(run.info["processor_seconds"] for run in known) / 3600
    counts = {word: str(words.count(word)) for word in MARKS}
    return counts | seeds | {"claims": str(len(words)), "runs": str(len(known)), "hours": f"{hours:.1f}"}


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    written = {
        "verdicts": lambda source: verdicts(source / CHAPTERS),
        "ledger": lambda source: ledger(source / CHAPTERS, runs_in(source / PUBLISHED)),
        "tables": lambda source: tables.describe(),
    }
    for name, write in written.items():
        app.add_directive(name, directive(write))
    app.add_role("tally", Tally())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
