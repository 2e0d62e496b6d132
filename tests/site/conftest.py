"""The built site, served on this machine, and a headless Chromium to read it with."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deadbook.build.site import fetch

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
sync_api.expect.set_options(timeout=60_000)  # milliseconds: no test fails because the machine is slow

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("DEADUNITS_SITE") or ROOT / "_build/quick/html").resolve()
NOT_PAGES = {"genindex.html", "search.html"}
PAGES = sorted(
    name
    for path in SITE.rglob("*.html")
    if not (name := path.relative_to(SITE).as_posix()).startswith("_") and name not in NOT_PAGES
)
AXE_LOCK = Path(__file__).parent / "axe/package-lock.json"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `name` runs once a page (once, to be skipped, when there is no site)."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", PAGES or ["index.html"])


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line for each request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the site; nothing here can be tested without it."""
    if not (SITE / "index.html").is_file():
        pytest.skip(f"no site in {SITE}: build it with `make book`, or set DEADUNITS_SITE")
    return SITE


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The site over HTTP, on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[sync_api.Browser]:
    """One Chromium for all tests: the system's, else playwright's own. Without any, CI fails, others skip."""
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            reason = f"no Chromium (apt-get install chromium): {error.message.splitlines()[0]}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, as pinned in ``tests/site/axe``; fetched once with npm."""
    kept = ROOT / "_build/vendor" / f"axe-{hashlib.sha256(AXE_LOCK.read_bytes()).hexdigest()[:16]}.js"
    if not kept.is_file():
        folder = tmp_path_factory.mktemp("axe")
        fetch(AXE_LOCK.parent, folder)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "node_modules/axe-core/axe.min.js", kept)
    return kept.read_text("utf-8")


@pytest.fixture
def page(chromium: sync_api.Browser) -> Iterator[sync_api.Page]:
    """A fresh page in a window of its own."""
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context.new_page()
