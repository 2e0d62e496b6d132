"""What holds for the project as a whole: floors, the wheel, clean notebooks."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from library import CORE, public

LIB = Path("lib")
#: Of `deadbook`: each part imports from itself and from those before it only.
PARTS = [
    {"datasets", "histograms", "networks", "pool", "settings"},
    {"experiments"},
    {"rehearsal", "runs"},
    {"analysis"},
    {"claims", "figures"},
    {"chapters", "widgets"},
    {"build"},
    {"sweeps"},
    {"__main__"},
]


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, by their full names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted((LIB / "deadunits").glob("*.py")), ids=lambda path: path.stem)
def test_the_library_imports_nothing_of_the_book(path):
    assert not [name for name in imported(path) if name.split(".")[0] == "deadbook"]


@pytest.mark.parametrize("path", sorted((LIB / "deadbook").rglob("*.py")), ids=str)
def test_no_part_of_the_book_imports_from_one_behind_it(path):
    place = {name: number for number, names in enumerate(PARTS) for name in names}
    own = path.relative_to(LIB / "deadbook").with_suffix("").parts[0]
    for name in imported(path) if own != "__init__" else ():
        package, _, part = name.partition(".")
        if package == "deadbook":
            assert place[part.split(".")[0]] <= place[own], f"{path} imports {name}"


def test_the_wheel_needs_torch_and_numpy_alone(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        tmp_path,
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("deadunits-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    block = [
        "pandas",
        "matplotlib",
        "sklearn",
        "torchvision",
        "IPython",
        "papermill",
        "yaml",
        "sphinx",
        "torch_pruning",
    ]
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        f"for name in {block}: sys.modules[name] = None\n"
        f"from deadunits import {', '.join(CORE)}\n"
        "net = models.small_cnn((1, 28, 28))\n"
        "assert len(data.digits(probe_size=9).test.y) == 360\n"
        f"assert data.__file__.startswith({str(tmp_path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_what_shows_runs_does_without_torch():  # 2 s in each chapter
    code = (
        "import sys; from deadbook import __main__, claims, figures, runs, widgets;"
        "from deadbook.analysis import trials; from deadbook.build import ledger, tables;"
        "from deadbook.chapters import page, unit_numbers, weight_numbers;"
        "from deadbook.sweeps import sweep;"
        "from deadbook.widgets import live; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", CORE)
def test_public_names_have_docstrings(module):
    for name, thing in public(module).items():
        assert inspect.getdoc(thing), name


def test_the_reference_has_every_module_of_the_core():
    page = Path("book/api.md").read_text()
    assert sorted(re.findall(r"automodule:: deadunits\.(\w+)", page)) == sorted(CORE)


@pytest.mark.parametrize("path", Path("notebooks").glob("*.ipynb"), ids=lambda path: path.stem)
def test_notebook_sources_are_clean(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    for cell in code:
        if "parameters" in cell["metadata"].get("tags", []):
            continue  # a line each
        lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
        assert len(lines) <= 15, lines[0]
        if "figure" in cell["metadata"].get("mystnb", {}):
            assert cell["metadata"]["mystnb"]["image"]["alt"]


def test_published_results_stay_small():
    size = sum(path.stat().st_size for path in Path("book/results").rglob("*") if path.is_file())
    assert size < 160e6


@pytest.mark.parametrize(
    "page", ["README.md", "book/how-to.md", "book/library.md", "book/sweeps.md", "book/tables.md"]
)
def test_the_examples_run(page, tmp_path, monkeypatch):
    """Each Python block of a page, one after the other, with a small network of a user's own."""
    blocks = re.findall(r"```python\n(.*?)```", Path(page).read_text(), flags=re.S)
    assert blocks
    (tmp_path / "book").symlink_to(Path("book").resolve())
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    names = {"net": net, "images": torch.randn(8, 4, generator=generator)}
    names["labels"] = torch.randint(0, 2, (8,), generator=generator)
    with torch.random.fork_rng():  # what people build in their own code draws from the global state
        for block in blocks:
            exec(compile(block, page, "exec"), names)
