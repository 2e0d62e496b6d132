"""Search finds each chapter first by its own subject; addresses of earlier headings still lead there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
from playwright.sync_api import Page

FIRST = {
    "Taylor saliency": "02-1-saliency",
    "weight saliency": "02-1-saliency",
    "gradual magnitude pruning": "02-2-weight-pruning",
    "dead unit": "03-1-dead-units",
    "learning-rate attack": "03-2-batch-norm",
    "tanh saturation": "03-3-tanh",
    "dying ReLU": "03-4-relu",
    "detecting dead units": "03-5-detecting",
    "mean replacement": "04-1-units",
    "bias propagation": "04-2-unit-pruning",
}
EARLIER = {
    "01-background": "what-one-needs-to-know-first taking-a-unit-out what-came-before",
    "02-1-saliency": "which-weights-would-be-missed removing-most-of-them see-for-yourself",
    "02-2-weight-pruning": "pruning-weights-while-the-network-learns taking-out-what-is-empty",
    "03-1-dead-units": "dead-units-and-frozen-ones two-definitions",
    "03-2-batch-norm": "killing-a-unit-batch-normalisation play-it does-it-matter-when and-how-hard",
    "03-3-tanh": "killing-a-unit-tanh the-right-time",
    "03-4-relu": "killing-a-unit-plain-relu is-a-dead-unit-dead-for-good",
    "03-5-detecting": "who-finds-the-dead once-dead-always-dead",
    "04-1-units": "which-units-would-be-missed the-idea units-or-256",
    "04-2-unit-pruning": "pruning-units-while-the-network-learns units-or-weights smaller-and-faster",
}


@pytest.mark.parametrize("query", FIRST)
def test_search_finds_the_chapter_first(page: Page, address: str, query: str) -> None:
    page.goto(f"{address}/search.html?q={quote(query)}", wait_until="networkidle")
    first = page.locator("#search-results ul.search > li a").first
    assert f"chapters/{FIRST[query]}.html" in (first.get_attribute("href") or "")


@pytest.mark.parametrize("chapter", EARLIER)
def test_earlier_headings_still_have_an_address(site: Path, chapter: str) -> None:
    text = (site / f"book/chapters/{chapter}.html").read_text("utf-8")
    expected = EARLIER[chapter].split()
    assert [name for name in [*expected, "what-later-work-says"] if f'id="{name}"' not in text] == []
