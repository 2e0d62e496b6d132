"""Directives `{verdicts}`, `{ledger}`, `{confirmation}`, `{tables}`, role `{tally}`: the state of the claims.

Made each time the book is built: the marks from the executed chapters, the ledger from the committed tables.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from deadbook import claims, figures
from deadbook.build import tables
from deadbook.build.book import glued, runs_shown
from deadbook.build.status import directive
from deadbook.claims.catalogue import FIXED
from deadbook.runs import PUBLISHED, Run, runs_in

CHAPTERS = "book/chapters"
MARKS = {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "not testable": "–", "not judged": "·"}
MARKS |= {"not run yet": "○"}
CONFIRMED = """{when} The first run of a fresh seed started on {started}.
{number} claims are judged on both. {moved}

```{{figure}} assets/confirmation.svg
:name: fig-confirmed
:alt: Dot chart, a row a claim: share of the seeds in which its criterion holds, of seeds 0 to 4 and 5 to 9.

Share of the seeds in which each criterion holds: on the seeds that were seen before (open) and on the fresh
ones (filled). From the dotted line on it counts as reproduced.
```"""
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


@cache  # two pages mark them
def _unshown(source: Path) -> dict[str, str]:
    known = runs_in(source / PUBLISHED)
    return {name: str(claims.verdict(name, known)) for name in unshown(source / CHAPTERS)}


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


def verdicts(chapters: Path, others: Mapping[str, str]) -> str:
    """The claims and their verdicts, in Markdown: those that the executed chapters show, then `others`."""
    parts, counts = [], {name: Counter[str]() for name in LISTS}

    def marks(judged: Mapping[str, str]) -> str:
        """A list of claims: mark and name, a link to the ledger; words; verdict."""
        lines = []
        for name in sorted(judged, key=lambda name: [int(number) for number in re.findall(r"\d+", name)]):
            claim, word = claims.CLAIMS[name], outcome(judged[name])
            counts[claim.listed][word] += 1
            # classes of the link itself would be lost when Sphinx resolves it
            mark = f"[[{MARKS[word]} {name}](#{anchor(name)})]{{.mark .verdict-{word.replace(' ', '-')}}}"
            lines.append(f"- {mark} {claim.filled(claim.words)} *{word.capitalize()}.*")
        return "\n".join(lines)

    for path in sorted(chapters.glob("*.ipynb")):
        if shown(path):
            parts.append(f"**{title(path)}**\n\n{marks(shown(path))}")
    for name, heading in LISTS.items():
        if waiting := {claim: others[claim] for claim in others if claims.CLAIMS[claim].listed == name}:
            parts.append(f":::{{dropdown}} In no chapter yet: {heading}\n{marks(waiting)}\n:::")
    legends = []
    for name, words in counts.items():
        if words:
            legend = ", ".join(f"{MARKS[word]} {word}: {words[word]}" for word in MARKS if words[word])
            of = {"first": "claims", "open": LISTS[name]}.get(name, f"claims of {LISTS[name]}")
            legends.append(f"{sum(words.values())} {of}. {legend}.")
    return "\n\n".join(legends + parts)


def ledger(chapters: Path, known: list[Run]) -> str:
    """All claims in Markdown: each judged by its criterion from the tables of these runs."""
    parts = []
    for path in sorted(chapters.glob("*.ipynb")):
        parts += [f"## {title(path)}"] if shown(path) else []
        for name in shown(path):
            figure = claims.CLAIMS[name].figure
            place = f"{{doc}}`the chapter <chapters/{path.stem}>`" + f", {{numref}}`{figure}`" * bool(figure)
            parts += _block(name, f" ({place})", known)
    for name, heading in LISTS.items():
        waiting = [claim for claim in unshown(chapters) if claims.CLAIMS[claim].listed == name]
        parts += [f"## {heading[0].upper()}{heading[1:]}: in no chapter yet"] if waiting else []
        for claim in waiting:
            parts += _block(claim, "", known)
    return "\n\n".join(parts)


def _block(name: str, place: str, known: list[Run]) -> list[str]:
    """A claim in the ledger, its words first; raw HTML cannot carry a label."""
    words = claims.CLAIMS[name].filled(claims.CLAIMS[name].words)
    return [f"({anchor(name)})=", words + place, claims.verdict(name, known)._repr_html_()]


def confirmation(known: list[Run], folder: Path) -> str:
    """When criteria and fresh runs came, and the shares of seeds in which each criterion holds, as a figure.

    Args:
        folder: of the page; the figure is written below it.
    """
    fresh = [run for run in known if run.info["settings"]["seed"] in claims.CONFIRMATION]
    judged = {name: claims.verdict(name, known) for name in claims.CLAIMS} if fresh else {}
    rows = [
        {"claim": name, "seen": verdict.exploration.held, "fresh": verdict.held, "outcome": verdict.outcome}
        for name, verdict in judged.items()
        if verdict.exploration and verdict.exploration.evidence and verdict.evidence and not verdict.differs
    ]
    when = f"The criteria were committed on {FIXED['date']} ({FIXED['commit']})."
    if not rows:
        return f"{when} No claim has been judged on seeds 5 to 9 yet."
    started = min(run.info["started"] for run in fresh)
    (folder / "assets/confirmation.svg").write_bytes(figures.svg(figures.confirmed(pd.DataFrame(rows))))
    holds = {row["claim"]: [row[name] >= claims.ENOUGH for name in ("seen", "fresh")] for row in rows}
    changed = [name for name, (before, now) in holds.items() if before != now]
    moved = f"Across the line moved: {', '.join(changed)}." if changed else "None moved across the line."
    return CONFIRMED.format(when=when, started=started[:16].replace("T", " "), number=len(rows), moved=moved)


def anchor(name: str) -> str:
    """The label of a claim in the ledger."""
    return f"claim-{name.lower().replace('.', '-')}"


def tally(chapters: Path, known: list[Run]) -> dict[str, str]:
    """Numbers for the prose: claims by verdict, `claims`, `runs`, processor `hours`, `seeds <chapter>`.

    Open questions, whose answers we guessed, are not counted among the claims of the thesis.
    """
    of = {run.folder.name: run.info["settings"]["seed"] for run in known}
    seeds = {
        f"seeds {path.stem}": str(len({of[name] for name in runs_shown(path)}))
        for path in chapters.glob("*.ipynb")
    }
    every = [entry for path in chapters.glob("*.ipynb") for entry in shown(path).items()]
    words = [outcome(text) for name, text in every if claims.CLAIMS[name].listed != "open"]
    hours = sum(run.info["processor_seconds"] for run in known) / 3600
    counts = {word: str(words.count(word)) for word in MARKS}
    return counts | seeds | {"claims": str(len(words)), "runs": str(len(known)), "hours": f"{hours:.1f}"}


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    written = {
        "verdicts": lambda source: verdicts(source / CHAPTERS, _unshown(source)),
        "ledger": lambda source: ledger(source / CHAPTERS, runs_in(source / PUBLISHED)),
        "confirmation": lambda source: confirmation(runs_in(source / PUBLISHED), source / "book"),
        "tables": lambda source: tables.describe(),
    }
    for name, write in written.items():
        app.add_directive(name, directive(write))
    app.add_role("tally", Tally())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
