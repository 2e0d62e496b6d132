"""Buttons of a chapter: its notebook, table and network to download; where to run it, if that is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sphinx.application import Sphinx

from deadbook.build.book import TABLES, runs_shown
from deadbook.build.site import repository
from deadbook.runs import PUBLISHED, Run

BINDER = "https://mybinder.org/v2/git/{address}/{branch}?urlpath=lab/tree/notebooks/{chapter}.ipynb"
COLAB = "https://colab.research.google.com/{address}/blob/{branch}/.colab/start.ipynb"


def files(source: Path, chapter: str, folder: Path) -> dict[str, str]:
    """Put what belongs to a chapter in a folder: the names of the files, and what they are."""
    shown = runs_shown(source / f"book/chapters/{chapter}.ipynb")
    committed = [source / PUBLISHED / name for name in shown]  # those of a profile's own are not there
    known = [Run(folder) for folder in committed if folder.is_dir()]
    carried = [run.folder / "snapshots.parquet" for run in known if run.info["experiment"] == "checkpoint"]
    wanted = {
        repository(source) / f"notebooks/{chapter}.ipynb": ("-source.ipynb", "Notebook without outputs"),
        source / TABLES / f"{chapter}.parquet": (".parquet", "Table of the published runs"),
        **dict.fromkeys(carried, ("-network.parquet", "Weights of the network")),
    }
    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for path, (ending, text) in wanted.items():
        if path.is_file():
            shutil.copy(path, folder / f"{chapter}{ending}")
            found[f"{chapter}{ending}"] = text
    return found


def launchers(options: dict[str, Any], chapter: str) -> dict[str, str]:
    """By name, the addresses that run a chapter; none where `_config.yml` names no repository."""
    address, branch = options.get("repository_url", ""), options.get("repository_branch") or "main"
    if not address:
        return {}
    found = {"Binder": BINDER.format(address=quote(address, safe=""), branch=branch, chapter=chapter)}
    github = address.removeprefix("https://github.com/")
    if github != address:
        found["Colab"] = COLAB.format(address=f"github/{github}", branch=branch)
    return found


def add_buttons(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Called by Sphinx for each page, after the theme's own buttons are there."""
    folder, _, chapter = pagename.rpartition("/")
    if folder != "book/chapters":
        return
    buttons = context["header_buttons"]
    downloads = next(group for group in buttons if group["label"] == "download-buttons")
    made = files(Path(app.srcdir), chapter, Path(app.outdir, "_downloads"))
    for name, text in made.items():
        downloads["buttons"].append(_link(context["pathto"](f"_downloads/{name}", 1), text, "download"))
    if launched := launchers(app.config.html_theme_options, chapter):
        places = [_link(address, name, "play") for name, address in launched.items()]
        about = {"tooltip": "Run this chapter", "icon": "fas fa-play", "label": "launch-buttons"}
        buttons.append({"type": "group", "buttons": places} | about)


def _link(address: str, text: str, icon: str) -> dict[str, str]:
    return {"type": "link", "url": address, "text": text, "tooltip": text, "icon": f"fas fa-{icon}"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("html-page-context", add_buttons, priority=600)  # the theme's are 501
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
