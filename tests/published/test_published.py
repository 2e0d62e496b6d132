"""The committed results are what today's code computes, and what the committed chapters show."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from deadbook import claims, runs, settings
from deadbook.analysis import trials
from deadbook.build import book, ledger

CHAPTERS = sorted(Path("book/chapters").glob("*.ipynb"))


def published() -> list[runs.Run]:
    return runs.runs_in(Path("book/results"))


def test_there_are_results_and_chapters():
    assert published()
    assert [path.stem for path in CHAPTERS] == book.chapters()


def test_committed_keys_never_change():
    """The settings of each committed run are valid, and give the key that `keys.txt` lists."""
    keys = []
    for run in published():
        experiment, chosen = run.info["experiment"], run.info["settings"]
        checked = settings.check(settings.experiment(experiment), chosen).model_dump()
        assert run.folder.name == runs.key(experiment, chosen) == runs.key(experiment, checked)
        keys.append(f"{run.folder.name} {experiment}")
    assert keys == Path(__file__).with_name("keys.txt").read_text().splitlines()
    folders = sorted(path.name for path in Path("book/results").iterdir() if path.is_dir())
    assert folders == [key.split()[0] for key in keys]


def test_the_committed_runs_are_whole_and_name_their_commit():
    folders = sorted(Path("book/results").glob("*/"))
    assert [run.folder for run in published()] == folders  # a damaged one would warn, and fail
    for run in published():
        assert run.info.get("added_in") or run.info["commit"]
        assert set(run.info["tables"]) == {file.stem for file in run.folder.glob("*.parquet")}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_no_error_and_its_runs_are_there(path):
    assert book.errors(path) == []
    shown = set(book.runs_shown(path))
    assert bool(shown) == bool(re.search(r"runs\.ensure|trials\.compute", path.read_text()))
    assert shown <= {run.folder.name for run in published()}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_the_execution_of_todays_source(path):
    """Cell by cell, but for the parameters that papermill puts in."""

    def sources(file: Path) -> list[str]:
        cells = json.loads(file.read_text())["cells"]
        kept = (c for c in cells if "injected-parameters" not in c["metadata"].get("tags", []))
        return ["".join(cell["source"]) for cell in kept]

    assert sources(path) == sources(Path("notebooks") / path.name)


def test_an_attacked_training_is_its_twin_to_the_last_bit_until_the_attack_begins():
    """So both were computed on one kind of processor: on another, sums differ in their last digits."""
    attacks = [run for run in published() if run.info["experiment"] == "attacks"]
    names = ["step", "set", "layer", "unit", "mrp", "mrs", "gradient", "norm_in", "norm_out"]

    compared = 0
    for twin in (run for run in attacks if trials.kind(run) == "twin"):
        before = twin.table("units")[names]
        for run in (one for one in attacks if trials.common(one) == trials.common(twin)):
            start = run.info["settings"]["start"]
            own = run.table("units")
            own = own[own["step"] < start][names].reset_index(drop=True)
            same = before[before["step"] < start].reset_index(drop=True)
            assert own.equals(same), run.folder.name
            compared += bool(len(own))
    assert compared > 150


def test_the_numbers_in_the_readme_are_the_chapters():
    readme = Path("README.md").read_text()
    assert book.with_numbers(readme) == readme
    assert readme.count("<!-- -->") > 10
    with pytest.raises(book.Failed, match="wants nothing of 03-4-relu, which has: attacked, "):
        book.with_numbers("<!-- 03-4-relu:nothing:d -->1<!-- -->")


def test_the_figure_of_the_title_page_shows_the_committed_runs():
    assert Path(book.FRONT).read_bytes() == book.front(published())
    assert book.front([run for run in published() if run.info["experiment"] != "units"]) is None


def test_all_claims_are_there_at_a_glance():
    others = dict.fromkeys(ledger.unshown(Path("book/chapters")), "not run yet (seeds 5 to 9)")
    text = ledger.verdicts(Path("book/chapters"), others)
    found = re.findall(r"\[\[(.) ([CO][\d.]+)\]\(#([\w-]+)\)\]\{\.mark \.verdict-([\w-]+)\}", text)
    found = [(mark, claim, target, word.replace("-", " ")) for mark, claim, target, word in found]
    assert sorted(claim for _, claim, _, _ in found) == sorted(claims.CLAIMS)
    assert all(ledger.MARKS[word] == mark for mark, _, _, word in found)
    assert all(ledger.anchor(claim) == target for _, claim, target, _ in found)
    counts = ledger.tally(Path("book/chapters"), published())
    shown = [entry for entry in found if entry[1] not in others and entry[1][0] == "C"]
    for listed in ledger.LISTS:
        by = Counter((mark, word) for mark, name, _, word in found if claims.CLAIMS[name].listed == listed)
        legend = ", ".join(
            f"{mark} {word}: {by[mark, word]}" for word, mark in ledger.MARKS.items() if by[mark, word]
        )
        assert re.search(rf"^{by.total()} .*\. {re.escape(legend)}\.$", text, re.M)
    by = Counter(word for *_, word in shown)
    assert all(counts[word] == str(number) for word, number in by.items())
    assert counts["claims"] == str(len(shown))


def test_the_ledger_has_every_claim_as_its_chapter_shows_it_and_a_figure_there(monkeypatch):
    """The first claim of each chapter is judged anew, from the tables; the others are by `test_rendered`."""
    first = {next(iter(ledger.shown(path)), "") for path in CHAPTERS}
    judge = claims.verdict
    monkeypatch.setattr(claims, "verdict", lambda name, known: judge(name, known if name in first else []))
    text = ledger.ledger(Path("book/chapters"), published())
    for path in CHAPTERS:
        cells = json.loads(path.read_text())["cells"]
        names = {cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in cells}
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        verdicts = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
        for claim, word in ledger.shown(path).items():
            block = text.partition(f"({ledger.anchor(claim)})=")[2].partition("\n(claim")[0]
            judged = [html for html in verdicts if f'"verdict-id">{claim}<' in html]
            assert len(judged) == 1
            assert judged[0] in block or claim not in first, claim
            assert f'"verdict-id">{claim}<' in block
            assert f'"verdict-word">{word.partition(" (")[0]}<' in judged[0]
            figure = claims.CLAIMS[claim].figure
            assert not figure or (figure in names and f"{{numref}}`{figure}`" in block)
    assert text.count("verdict-id") == len(claims.CLAIMS)
