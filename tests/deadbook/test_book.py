"""The command line on bad input, and what may never happen to a good chapter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import papermill
import pytest

from deadbook import settings
from deadbook.__main__ import _value, main
from deadbook.build import book, downloads
from deadunits import Invalid

CHAPTER = "02-1-saliency"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["02-1-salience"], "unknown chapter '02-1-salience' (did you mean 02-1-saliency?); there are: 01-"),
        ([CHAPTER, "--profile", "fast"], "unknown profile 'fast'; there are: quick, thesis"),
        (
            [CHAPTER, "-p", "epoch", "2"],
            "unknown parameter 'epoch' (did you mean epochs?); there are: dataset",
        ),
        ([CHAPTER, "-p", "epochs", "two"], "epochs = 'two' must be an integer from 1 to 1,000"),
        ([CHAPTER, "-p", "lr", "-1"], "lr = -1 must be a number above 0"),
        ([CHAPTER, "-p", "dataset", "imagenet"], "must be one of digits, mnist"),
        ([CHAPTER, "-p", "probe_size", "1000"], "probe_size = 1000 does not fit digits"),
        ([CHAPTER, "-p", "results", "README.md/x"], "cannot write to"),
    ],
)
def test_bad_input_is_named(arguments, message, capsys):
    assert main(["chapter", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_bad_input_is_named_within_seconds_and_before_torch():
    code = (
        "import sys; from deadbook.__main__ import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    own = ["dataset", "mnist", "-p", "epochs", "7", "-p", "data_root", "_build/no-data"]
    command = [sys.executable, "-c", code, "chapter", CHAPTER, "-p", *own]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    assert time.monotonic() - started < 60  # generous: a loaded machine is slow
    assert done.returncode == 2
    assert "no MNIST in" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "False"


def test_values_on_the_command_line():
    assert [_value(text) for text in ("2", "1e-2", "[0.1, 0.2]", "mnist", "/my/data", "'3'")] == [
        *(2, 0.01, [0.1, 0.2], "mnist", "/my/data", "3"),
    ]
    assert _value("__import__('os')") == "__import__('os')"
    assert _value("[conv1, fc1]") == ["conv1", "fc1"]  # what a shell leaves of a list of texts
    assert _value("[[2, 0.5], [3, 0.8]]") == [[2, 0.5], [3, 0.8]]
    assert _value("[!!python/name:os.system ]") == "[!!python/name:os.system ]"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A book of one tiny chapter."""

    def make(source: str) -> Path:
        (tmp_path / "_toc.yml").touch()
        (tmp_path / "notebooks/profiles/quick").mkdir(parents=True, exist_ok=True)
        cells = ['results: str = "results"', source]
        notebook = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "cells": [
                {
                    "id": str(number),
                    "cell_type": "code",
                    "metadata": {"tags": ["parameters"][number:]},
                    "source": text,
                    "outputs": [],
                    "execution_count": None,
                }
                for number, text in enumerate(cells)
            ],
        }
        (tmp_path / "notebooks/one.ipynb").write_text(json.dumps(notebook))
        return tmp_path

    class Tiny(settings.Settings):
        results: settings.Results = "results"

    monkeypatch.setitem(settings.CHAPTERS, "one", Tiny)
    monkeypatch.chdir(tmp_path)
    return make


def test_a_chapter_is_executed_and_a_failing_one_does_not_replace_it(project):
    top = project("print(6 * 7)")
    place = book.execute("one", "quick")
    good = place.read_text()
    assert place == top / "_build/quick/chapters/one.ipynb"
    assert "42" in good
    project("1 / 0")
    with pytest.raises(book.Failed, match=r"chapter one, cell 1: ZeroDivisionError: division by zero"):
        book.execute("one", "quick")
    assert place.read_text() == good
    assert {path.name for path in place.parent.iterdir()} == {"one.ipynb", "one.failed.ipynb"}


def test_two_executions_give_the_same_file(project):
    project(
        "import ipywidgets as w\nslider, box = w.IntSlider(), w.Stack([w.Text(str(i)) for i in range(3)])\n"
        "w.jslink((slider, 'value'), (box, 'selected_index'))\nw.VBox([slider, box])"
    )
    first = book.execute("one", "quick").read_text()
    assert book.execute("one", "quick").read_text() == first
    assert "IPY_MODEL_0000000000" in first


def test_own_parameters_go_to_a_place_of_their_own(project):
    top = project("print(results)")
    assert book.execute("one", "quick", {"results": "mine"}) == top / "_build/own/one.ipynb"
    assert not (top / "_build/quick").exists()
    with pytest.raises(Invalid, match="unknown parameter 'result'"):
        book.execute("one", "quick", {"result": "mine"})


def test_the_page_of_one_chapter_has_its_numbers_in_its_prose():
    page = book.build_page(Path("book/chapters/01-background.ipynb"))
    text = page.read_text("utf8")
    assert "glue:text" not in text
    numbers = book.glued(Path("book/chapters/01-background.ipynb"))
    assert f'<span class="pasted-text">{numbers["one_shot"]:.2f}</span>' in text


def test_a_chapter_with_an_error_is_not_published(project):
    top = project("1 / 0")
    with pytest.raises(book.Failed):
        book.execute("one", "quick")
    (top / "book").mkdir()
    (top / "_config.yml").touch()
    failed = top / "_build/quick/chapters/one.failed.ipynb"
    failed.rename(failed.with_name("one.ipynb"))  # papermill puts two cells about the error above it
    with pytest.raises(book.Failed, match="not published:\none, cell 3: ZeroDivisionError"):
        book.build("quick")


def test_parameters_are_shown_as_one_table():
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [], "source": PARAMETERS},
        {
            "cell_type": "code",
            "metadata": {"tags": ["injected-parameters"]},
            "outputs": [],
            "source": '# Parameters\nepochs = 9\nown = {"dataset": "<mnist>"}\n',
        },
    ]
    whole = {"metadata": {}, "cells": cells, "nbformat": 4, "nbformat_minor": 5}
    shown, injected = json.loads(book.normalise(json.dumps(whole)))["cells"]
    assert "remove-cell" in injected["metadata"]["tags"]
    assert {"remove-input", "nbval-ignore-output"} <= set(shown["metadata"]["tags"])
    (output,) = shown["outputs"]
    text = output["data"]["text/html"]
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    assert [re.split(r"\|+", re.sub("<[^>]+>", "|", row).strip("|")) for row in rows] == [
        ["epochs", "9", "passes"],
        ["own", "{&#x27;dataset&#x27;: &#x27;&lt;mnist&gt;&#x27;}", "others"],
        ["lr", "0.1", "learning rate"],
    ]
    assert "The 3 parameters" in text


PARAMETERS = "epochs: int = 3  # passes\nown: dict = {}  # others\nlr: float = 0.1  # learning rate"


def test_the_launcher_of_colab_shows_a_chapter(tmp_path):
    """All of it but the installation, which needs a network."""
    whole = json.loads(Path(".colab/start.ipynb").read_text())
    (install,) = [cell for cell in whole["cells"] if "%pip" in "".join(cell["source"])]
    install["source"] = "from pathlib import Path"
    (tmp_path / "start.ipynb").write_text(json.dumps(whole))
    chosen = {"repository": "here", "chapter": "03-1-dead-units"}
    done = papermill.execute_notebook(
        tmp_path / "start.ipynb", tmp_path / "done.ipynb", chosen, progress_bar=False, cwd="."
    )
    shown = [output.data for cell in done.cells for output in cell.get("outputs", []) if "data" in output]
    chapter = json.loads(Path("notebooks/03-1-dead-units.ipynb").read_text())
    text = ["".join(cell["source"]) for cell in chapter["cells"] if cell["cell_type"] == "markdown"]
    assert [one["text/markdown"] for one in shown if one.get("text/markdown") in text] == text
    assert sum("image/svg+xml" in one for one in shown) >= 1


def test_a_chapter_can_be_launched_where_the_address_of_the_repository_is_known():
    assert downloads.launchers({"repository_url": ""}, "01-background") == {}
    launchers = downloads.launchers({"repository_url": "https://github.com/a/b"}, "01-background")
    assert launchers["Colab"].startswith("https://colab.research.google.com/github/a/b/blob/main/")
    assert "git/https%3A%2F%2Fgithub.com%2Fa%2Fb/main?" in launchers["Binder"]
    assert launchers["Binder"].endswith("notebooks/01-background.ipynb")
    assert list(downloads.launchers({"repository_url": "https://example.org/a"}, "x")) == ["Binder"]
