"""Execute chapters, and publish them as a static site.

    notebooks/*.ipynb --papermill, with profiles/<profile>/<chapter>.yaml--> _build/<profile>/chapters/
    book/ + _config.yml + _toc.yml + those chapters = _build/<profile>/src --jupyter-book--> .../html/

Everything is written under another name first and renamed when it is whole.
"""

from __future__ import annotations

import ast
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from deadbook import datasets, pool, runs, settings
from deadbook.chapters import plans
from deadunits import Invalid

PUBLISHED = "thesis"  # the profile whose chapters are committed
FRONT = "book/assets/front.svg"  # the figure of the title page
TABLES = "book/tables"  # one a chapter, for readers


_KERNELS = {
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's warning in every kernel
    "DEADUNITS_PAGE": "1",  # no kernel will be where the page is read: no live widgets
    # as in a run: its numbers do not depend on the cores, and a busy machine does not slow it tenfold
    **pool.ONE_THREAD,
}


class Failed(RuntimeError):
    """A chapter or the site failed; the message says where."""


def chapters() -> list[str]:
    """Names of the chapters, in order."""
    return sorted(path.stem for path in (runs.project_root() / "notebooks").glob("*.ipynb"))


def profiles() -> list[str]:
    """Names of the profiles."""
    folders = (runs.project_root() / "notebooks/profiles").iterdir()
    return sorted(path.name for path in folders if path.is_dir())


def known(chapter: str, profile: str) -> None:
    """Raise `Invalid` if there is no such chapter or profile."""
    for kind, name, names in (("chapter", chapter, chapters()), ("profile", profile, profiles())):
        if name not in names:
            raise Invalid(settings.unknown(kind, name, names))


def given(chapter: str, profile: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The parameters that the profile sets, overruled by `own`; raise `Invalid` for an unknown chapter."""
    known(chapter, profile)
    file = runs.project_root() / "notebooks/profiles" / profile / f"{chapter}.yaml"
    mine = yaml.safe_load(file.read_text("utf8")) if file.is_file() else {}
    return dict(mine or {}) | dict(own or {})


def chosen(chapter: str, profile: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All parameters of a chapter: `given`, and its defaults; raise `Invalid` for a wrong one."""
    return settings.check(settings.chapter(chapter), given(chapter, profile, own)).model_dump()


def complete(chapter: str, profile: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`chosen`; and the images and the folder for runs are there.

    Raises:
        Invalid: as `chosen`; missing images, a folder not writable.
    """
    every = chosen(chapter, profile, own)
    folder = runs.project_root() / every["results"]
    runs.check_writable(folder)
    if "dataset" in every and not runs.has_matching_run(every, folder):  # it is computed and needs its images
        datasets.check(root=every["data_root"], **datasets.chosen(every))
        runs.decode(every, every["data_root"])  # here, where its progress is seen
    return every


def execute(
    chapter: str,
    profile: str,
    own: Mapping[str, Any] | None = None,
    results: str | None = None,
    folder: Path | None = None,
    **more: Any,
) -> Path:
    """Execute one chapter and return the executed notebook; with `own` parameters in a place of its own.

    Args:
        results: a folder for new runs other than the profile's.
        folder: where the executed notebook goes; None: below `_build`.
        more: for papermill.

    Raises:
        Invalid: see `complete`; before anything starts.
        Failed: a cell raised; names the chapter, the cell and the error. What was there before stays.
    """
    mine = dict(own or {}) | ({} if results in (None, "results") else {"results": results})
    complete(chapter, profile, mine)
    mine = given(chapter, profile, mine)
    folder = folder or runs.project_root() / "_build" / ("own" if own else f"{profile}/chapters")
    runs.check_writable(folder)
    import papermill
    from papermill.exceptions import PapermillExecutionError

    runs.clean(folder)
    place = folder / f"{chapter}.ipynb"
    draft = folder / f".{chapter}.{runs.here()}" / place.name
    bar = {"desc": chapter, "unit": "cell", "leave": False} if sys.stderr.isatty() else False
    draft.parent.mkdir()
    try:
        with mock.patch.dict(os.environ, _KERNELS):
            papermill.execute_notebook(
                runs.project_root() / f"notebooks/{chapter}.ipynb",
                draft,
                parameters=mine,
                cwd=runs.project_root(),
                kernel_name="python3",
                extra_arguments=["--log-level=CRITICAL"],  # it warns of TCP at each start, and of Ctrl-C
                progress_bar=bar,
                **more,
            )
        draft.write_text(normalise(draft.read_text("utf8")), "utf8")
        draft.replace(place)
    except PapermillExecutionError as error:
        log = folder / f"{chapter}.failed.ipynb"
        draft.replace(log)
        raise Failed(
            f"chapter {chapter}, cell {error.cell_index}: {error.ename}: {error.evalue}\n"
            f"(the whole stack is in {_shown(log)})"
        ) from None
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    return place


def execute_all(profile: str, results: str) -> Iterator[Path]:
    """Execute all chapters, as many at a time as there are cores; each one's notebook when it is done.

    Raises:
        Invalid: as `execute`, for any chapter, before one starts.
        Failed: a run or a chapter failed; the chapters that are being executed come to their end first.
    """
    parameters = {chapter: complete(chapter, profile, {"results": results}) for chapter in chapters()}
    compute_runs(parameters)
    with ProcessPoolExecutor(os.cpu_count()) as executor:
        futures = [executor.submit(execute, chapter, profile, results=results) for chapter in chapters()]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def compute_runs(parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """The runs of chapters with these parameters, before the first one starts: several want the same ones.

    Raises:
        Failed: a run failed.
    """
    wanted: dict[tuple, list[dict[str, Any]]] = {}
    for chapter, experiment, run in plans.every(parameters):
        how = tuple(parameters[chapter][name] for name in ("results", "data_root", "processes"))
        wanted.setdefault((experiment, *how), []).append(run)
    for (experiment, results, data_root, processes), planned in wanted.items():
        at_once = 1 if experiment in plans.TIMED else processes  # nothing runs beside those that measure time
        try:
            runs.ensure(experiment, planned, results, data_root, at_once)
        except RuntimeError as error:
            raise Failed(f"{experiment}: {error}") from error


def normalise(text: str) -> str:
    """An executed notebook without what differs from run to run: times, machine paths, random ids.

    Its parameters, those that were injected too, are shown as one table.
    """
    notebook = json.loads(text)
    show_parameters(notebook)
    notebook["metadata"].pop("papermill", None)
    notebook["metadata"]["language_info"] = {"name": "python"}
    if '"model_id"' not in json.dumps(notebook["cells"]):
        notebook["metadata"].pop("widgets", None)  # controls of live widgets, which no page shows
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number}"
        for name in ("papermill", "execution"):
            cell["metadata"].pop(name, None)
    text = json.dumps(notebook)
    for number, name in enumerate(_widgets(notebook)):
        text = text.replace(name, f"{number:032x}")
    return json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def show_parameters(notebook: dict[str, Any]) -> None:
    """Put a table of names, values and meanings in the place of the cells that set the parameters."""
    by_tag = {tag: cell for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])}
    if "parameters" not in by_tag:
        return
    chosen: dict[str, str] = {}
    if "injected-parameters" in by_tag:
        injected = by_tag["injected-parameters"]
        injected["metadata"]["tags"] = ["injected-parameters", "remove-cell"]
        for line in ast.parse("".join(injected["source"])).body:
            if isinstance(line, ast.Assign):
                chosen[ast.unparse(line.targets[0])] = ast.unparse(line.value)
    cell, rows = by_tag["parameters"], []
    for line in "".join(cell["source"]).splitlines():
        declared, _, meaning = line.partition("  # ")
        name, _, default = declared.partition(" = ")
        name = name.partition(":")[0]
        value = chosen.get(name, default)
        shown = (f"<code>{html.escape(text)}</code>" for text in (name, value))
        cells = (*shown, html.escape(meaning))
        rows.append("<tr>" + "".join(f'<td class="text">{text}</td>' for text in cells) + "</tr>")
    table = f'<table class="run-table"><tbody>{"".join(rows)}</tbody></table>'
    summary = f"The {len(rows)} parameters that this page was executed with"
    text = f'<details class="parameters"><summary>{summary}</summary>{table}</details>'
    cell["metadata"]["tags"] = ["parameters", "remove-input", "nbval-ignore-output"]  # nbval: no output
    cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"text/html": text}}]


def _widgets(notebook: dict[str, Any]) -> list[str]:
    """The random ids of the widgets, each behind the one that shows it; those that only link come last."""
    saved = notebook["metadata"].get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    models = {name: json.dumps(model, sort_keys=True) for name, model in saved.get("state", {}).items()}
    order: list[str] = []

    def visit(name: str) -> None:
        if name in models and name not in order:
            order.append(name)
            for shown in re.findall(r"IPY_MODEL_([0-9a-f]{32})", models[name]):
                visit(shown)

    def known(name: str) -> str:
        places = {id: str(place) for place, id in enumerate(order)}
        return re.sub(r"[0-9a-f]{32}", lambda id: places.get(id[0], ""), models[name])

    for name in re.findall(r'"model_id": "([0-9a-f]{32})"', json.dumps(notebook["cells"])):
        visit(name)
    for name in sorted(models.keys() - set(order), key=known):
        visit(name)
    return order


def errors(notebook: Path) -> list[str]:
    """Cells of an executed notebook that hold an error, in words."""
    return [
        f"{notebook.stem}, cell {number}: {output['ename']}: {output['evalue']}"
        for number, output in _outputs(notebook)
        if output["output_type"] == "error"
    ]


def _outputs(notebook: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The outputs of an executed notebook, each with the number of its cell."""
    for number, cell in enumerate(json.loads(notebook.read_text("utf8"))["cells"]):
        for output in cell.get("outputs", []):
            yield number, output


def runs_shown(notebook: Path) -> list[str]:
    """Keys of the runs that an executed chapter shows, as its card names them."""
    return re.findall(r'data-run=\\?"([0-9a-f]{12})', notebook.read_text("utf8"))


def build(profile: str | None = None, results: str = "results") -> Path:
    """Build the site with warnings as errors and return its folder.

    Args:
        profile: whose executed chapters to show; None: what is committed.
        results: where the runs behind them lie, for the status page.

    Raises:
        Failed: a chapter is missing or holds an error, or Sphinx warns.
    """
    source = runs.project_root() if profile is None else _stage(profile, runs.project_root() / results)
    executed = sorted((source / "book/chapters").glob("*.ipynb"))
    missing = set(chapters()) - {path.stem for path in executed}
    wrong = [f"{name} is not executed" for name in sorted(missing)]
    wrong += [line for path in executed for line in errors(path)]
    if wrong:
        raise Failed("not published:\n" + "\n".join(wrong))
    runs.runs_in(source / runs.PUBLISHED)  # warns of damaged ones here, not in Sphinx's output
    html = _build_pages(source, "-W", "-n", "--keep-going")
    return html if profile is None else _put(html, runs.project_root() / f"_build/{profile}/html")


def build_page(executed: Path) -> Path:
    """Build the page of one executed chapter, its numbers in its prose, and return it; links lead nowhere.

    Raises:
        Failed: Sphinx fails.
    """
    top = runs.project_root()
    (top / "_build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".page-", dir=top / "_build") as folder:
        source = Path(folder)
        _copy_prose(source)
        (source / "book/chapters").mkdir()
        shutil.copy(executed, source / "book/chapters")
        toc = {"format": "jb-article", "root": f"book/chapters/{executed.stem}"}
        (source / "_toc.yml").write_text(yaml.safe_dump(toc), "utf8")
        html = _put(_build_pages(source), top / "_build/pages" / executed.stem)
    return html / f"book/chapters/{executed.stem}.html"


def _build_pages(source: Path, *options: str) -> Path:
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [sys.executable, jupyter_book, "build", source, *options, "--all", "-q"],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(f"the site was not built:\n{_error_lines(done.stdout + done.stderr)}")
    return source / "_build/html"


def _put(html: Path, place: Path) -> Path:
    """Move a built site."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    return html.rename(place)


def publish(profile: str = PUBLISHED) -> list[Path]:
    """Put the profile's executed chapters, and the runs they show, where they are committed.

    Runs that no chapter shows any more are removed from there. README.md gets today's numbers, the title page
    its figure, readers their tables.
    """
    top, written, shown = runs.project_root(), [], set[str]()
    for chapter in chapters():
        executed = top / f"_build/{profile}/chapters/{chapter}.ipynb"
        if not executed.is_file() or errors(executed):
            raise Failed(f"{chapter} is not executed with profile {profile}, or holds an error")
        shown |= set(runs_shown(executed))
        for name in runs_shown(executed):
            place, run = top / runs.PUBLISHED / name, runs.stored(name, top / "results")
            if run is None:
                raise Failed(f"{chapter} shows run {name}, which is not in results: execute it again")
            if run.folder != place:
                draft = place.with_name(f".{name}")
                shutil.copytree(run.folder, draft, dirs_exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)  # damaged
                draft.rename(place)
                written.append(place)
        place = top / f"book/chapters/{chapter}.ipynb"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(executed, place.with_suffix(".draft"))
        written.append(place.with_suffix(".draft").replace(place))
    for run in runs.runs_in(top / runs.PUBLISHED):
        if run.folder.name not in shown:
            shutil.rmtree(run.folder)
    from deadbook.build import tables

    for chapter in tables.TABLES:
        names = dict.fromkeys(runs_shown(top / f"book/chapters/{chapter}.ipynb"))
        tables.save(chapter, [runs.Run(top / runs.PUBLISHED / name) for name in names], top / TABLES)
    cover = front(runs.runs_in(top / runs.PUBLISHED))
    if cover is not None:
        (top / FRONT).write_bytes(cover)
    readme = top / "README.md"
    if readme.is_file():
        readme.write_text(with_numbers(readme.read_text("utf8")), "utf8")
    return written


def front(known: Sequence[runs.Run]) -> bytes | None:
    """The figure of the title page, SVG: what each unit of the network of chapter 4.1 is worth, all seeds.

    None where there are no such runs.
    """
    import pandas as pd

    from deadbook import figures

    of = {"activation": "relu", "widths": [8, 16, 64], "dataset": "mnist"}
    units = [run for run in known if run.info["experiment"] == "units"]
    tables = [run.table("scores") for run in units if of.items() <= run.info["settings"].items()]
    tables = [table[table["step"] == table["step"].max()] for table in tables]
    return figures.svg(figures.worth(pd.concat(tables))) if tables else None


def with_numbers(text: str) -> str:
    """The text with each `<!-- chapter:name:format -->...<!-- -->` filled by what that chapter has glued.

    Raises:
        Failed: a chapter or a name that is not there.
    """

    def fill(match: re.Match[str]) -> str:
        chapter, name, how = match[1], match[2], match[3]
        path = runs.project_root() / f"book/chapters/{chapter}.ipynb"
        known = glued(path) if path.is_file() else {}
        if name not in known:
            raise Failed(f"README.md wants {name} of {chapter}, which has: {', '.join(known) or 'nothing'}")
        return f"<!-- {chapter}:{name}:{how} -->{format(known[name], how)}<!-- -->"

    return re.sub(r"<!-- ([\w-]+):(\w+):(\S*) -->.*?<!-- -->", fill, text)


def glued(notebook: Path) -> dict[str, Any]:
    """The numbers and words that an executed chapter keeps for the prose, by name."""
    numbers = {}
    for _, output in _outputs(notebook):
        if scrapbook := output.get("metadata", {}).get("scrapbook"):
            record = "".join(output["data"]["application/papermill.record/text/plain"])
            numbers[scrapbook["name"]] = ast.literal_eval(record)
    return numbers


def _stage(profile: str, results: Path) -> Path:
    """A source tree for the site with this profile's chapters and runs in the place of the committed."""
    top = runs.project_root()
    source = top / f"_build/{profile}/src"
    shutil.rmtree(source, ignore_errors=True)
    _copy_prose(source)
    shutil.copytree(
        top / f"_build/{profile}/chapters",
        source / "book/chapters",
        ignore=shutil.ignore_patterns(".*", "*.failed.ipynb"),
    )
    for path in (source / "book/chapters").glob("*.ipynb"):
        for name in runs_shown(path):
            run = runs.stored(name, results)
            if run is None:
                raise Failed(f"{path.stem} shows run {name}, which is not in {results}: execute it again")
            shutil.copytree(run.folder, source / runs.PUBLISHED / name, dirs_exist_ok=True)
    return source


def _copy_prose(source: Path) -> None:
    """The book without chapters and runs."""
    ignored = shutil.ignore_patterns("chapters", "results", "node_modules", "_build")
    shutil.copytree(runs.project_root() / "book", source / "book", ignore=ignored)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(runs.project_root() / name, source / name)


def _shown(path: Path) -> Path:
    return path.relative_to(runs.project_root()) if path.is_relative_to(runs.project_root()) else path


def _error_lines(output: str) -> str:
    """The lines of Sphinx's output that say what is wrong."""
    lines = [line for line in output.splitlines() if re.search(r"WARNING|ERROR|[Ee]rror:", line)]
    return "\n".join(lines[:20] or output.splitlines()[-20:])
