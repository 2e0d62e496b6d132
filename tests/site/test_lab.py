"""A live widget in JupyterLab: it computes in the kernel, says that it does, and shows what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: make install")
from playwright.sync_api import Page, expect

CELL = """
from deadbook.build import book
from deadbook.widgets import live

own = {"epochs": 1, "measure_every": 5, "start": 5, "starts": [5], "slow_interval": 2, "results": "results"}
chosen = book.complete("03-2-batch-norm", "quick", own)
live.attack_theatre(chosen)
"""
SECONDS = 60_000  # milliseconds: a kernel starts, imports torch, and two networks are trained


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on a free port, with a notebook of one cell in a folder of its own."""
    folder = tmp_path_factory.mktemp("lab")
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": []}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    whole = {"cells": [cell | {"source": CELL}], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "live.ipynb").write_text(json.dumps(whole))
    for name in ("notebooks", "_toc.yml"):  # so that the folder is a book's
        (folder / name).symlink_to(Path(name).resolve())
    places = {
        name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    environment = {k: v for k, v in os.environ.items() if k != "DEADUNITS_PAGE"} | places
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--allow-root"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"]
    log = (folder / "log").open("w+")
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield address_in(folder / "log", server)
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def address_in(log: Path, server: subprocess.Popen) -> str:
    """Where the server says that it listens."""
    for _ in range(300):
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):\d+", log.read_text()):
            return found[0]
        if server.poll() is not None:
            break
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_a_live_attack_in_jupyterlab(page: Page, lab: str) -> None:
    page.goto(f"{lab}/lab/tree/live.ipynb")
    code, prompt = page.locator(".jp-CodeCell .cm-content").first, page.locator(".jp-InputPrompt").first
    code.wait_for(timeout=SECONDS)
    for _ in range(6):  # JupyterLab drops what is asked for while a notebook settles
        code.click()
        page.keyboard.press("Control+Enter")
        with contextlib.suppress(AssertionError):
            expect(prompt).not_to_have_text("[ ]:", timeout=10_000)
            break
    unit = page.locator(".jp-OutputArea .widget-text", has_text="unit").locator("input")
    unit.wait_for(timeout=SECONDS)
    said, frame = page.locator(".jp-OutputArea [role=status]"), page.locator("img.line-frame:visible")
    expect(said).to_have_count(0)  # until something is moved
    words = []
    for number in ("4", "5"):
        unit.fill(number)
        unit.press("Enter")
        expect(said).to_have_text("computing ...")
        expect(said).to_have_count(0, timeout=SECONDS)
        expect(frame).to_have_count(1)
        words.append(frame.get_attribute("alt"))
    assert words[0] != words[1]
    unit.fill("99")
    unit.press("Enter")
    expect(page.locator(".jp-OutputArea [role=alert]")).to_contain_text(
        "units 0 to 7, not 99", timeout=SECONDS
    )
    expect(frame).to_have_count(0)
