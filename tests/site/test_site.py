"""What a reader meets: no errors, nothing from elsewhere, links that lead somewhere, widgets that move."""

from __future__ import annotations

import gzip
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
from playwright.sync_api import Locator, Page, expect

from deadbook.claims import CLAIMS
from library import CORE, public

WIDGETS = "book/chapters/02-1-saliency.html"
SLIDER = ".widget-hslider [role=slider]"
READY_MS = 30_000  # alone it takes about 1 s; a loaded machine is slow
OWN, SHARED = 250_000, 300_000  # bytes
VIEW = ".cell_output:has(> script[type*=widget-view])"  # of a widget, which is loaded when it is seen
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
STILL = "document.getAnimations().every(({playState}) => playState !== 'running')"


def faults_of(page: Page, start: str) -> list[str]:
    """A list that fills with errors, failed requests and requests that leave `start`."""
    faults: list[str] = []

    def request(url: str) -> None:
        if not url.startswith((start, "data:", "blob:")):
            faults.append(f"request to {url}")

    page.on("request", lambda asked: request(asked.url))
    page.on("requestfailed", lambda asked: faults.append(f"failed: {asked.url}"))
    page.on("response", lambda got: got.status >= 400 and faults.append(f"{got.status}: {got.url}"))
    page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
    page.on("console", lambda said: said.type == "error" and faults.append(f"console: {said.text}"))
    return faults


def test_a_page_loads_without_faults_fits_and_can_be_heard(
    page: Page, address: str, site: Path, name: str, axe: str, subtests: pytest.Subtests
) -> None:
    """One visit over HTTP, narrow and wide, light and dark; one from the file."""
    faults = faults_of(page, address)
    page.goto(f"{address}/{name}", wait_until="networkidle")
    with subtests.test("mathematics is typeset"):
        formulas = page.locator(".math")
        assert formulas.count() == page.locator(".math .katex-html").count()
        assert formulas.count() or name != WIDGETS
        assert page.locator(".katex-error").count() == 0
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        expect(page.locator(f"html[data-theme={theme}]")).to_have_count(1)
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            with subtests.test("does not scroll sideways", theme=theme, width=width):
                assert page.evaluate(WIDE) <= 0
            if (theme, width) == ("light", 390):
                with subtests.test("figures can be read on a phone"):
                    check_figures(page)
        with subtests.test("no serious faults for those who hear it", theme=theme):
            page.wait_for_function(STILL)  # buttons fade from light to dark: half-way a colour is neither
            page.evaluate(axe)
            violations = page.evaluate(
                "axe.run({resultTypes: ['violations']}).then(found => found.violations)"
            )
            serious = [fault for fault in violations if fault["impact"] in ("serious", "critical")]
            assert [(fault["id"], [node["html"] for node in fault["nodes"][:3]]) for fault in serious] == []
    with subtests.test("no faults over HTTP"):
        assert faults == []
    with subtests.test("no faults from the file"):
        page = page.context.new_page()
        faults = faults_of(page, site.as_uri())
        page.goto(f"{site.as_uri()}/{name}", wait_until="networkidle")
        assert faults == []


def check_figures(page: Page) -> None:
    """Words of 12.7 pixels, where figures are 702 wide; they scroll, and their captions stay."""
    for image in page.locator("figure > img[src$='.svg'], img.line-frame:visible").all():
        wide, moved, seen, captions = image.evaluate("""image => {
            const box = image.closest('figure, .frames > .widget-box');
            box.scrollLeft = 999;
            const captions = [...box.querySelectorAll('figcaption')];
            const lefts = captions.map(one => one.getBoundingClientRect().left);
            return [image.clientWidth, box.scrollLeft, box.clientWidth, lefts];
        }""")
        assert 12.7 * wide / 702 > 10
        assert 0 < wide - seen <= moved
        assert all(left >= 0 for left in captions)


def zipped(path: Path) -> int:
    """Bytes of a file as a server sends it."""
    return len(gzip.compress(path.read_bytes()))


def test_page_is_light_before_one_scrolls(page: Page, address: str, site: Path, name: str) -> None:
    """What it alone needs, and what all pages share; icons come from the small file."""
    files: set[Path] = set()
    page.on("request", lambda asked: files.add(site / unquote(urlsplit(asked.url).path).lstrip("/")))
    page.goto(f"{address}/{name}", wait_until="networkidle")
    shared = {file for file in files if file.is_relative_to(site / "_static")}
    assert sum(map(zipped, files - shared)) <= OWN
    assert sum(map(zipped, shared)) <= SHARED
    assert not any(file.name.startswith("fa-") for file in shared)


def test_the_text_is_few_tab_stops_away(page: Page, address: str) -> None:
    page.goto(f"{address}/{WIDGETS}", wait_until="networkidle")
    for _ in range(14):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('article') !== null"):
            return
    pytest.fail("14 tab stops and no text")


def test_a_verdict_is_a_heading_that_unfolds(page: Page, address: str) -> None:
    page.goto(f"{address}/book/ledger.html#claim-c2-1", wait_until="networkidle")
    verdicts = page.locator(".verdict")
    assert page.get_by_role("heading", level=3, name=re.compile(r"^[CO]\d")).count() == verdicts.count()
    expect(verdicts.first.locator("dl")).to_be_visible()  # the address names it
    expect(verdicts.nth(1).locator("dl")).to_be_hidden()
    verdicts.nth(1).locator("summary").click()
    expect(verdicts.nth(1).locator("dl")).to_be_visible()
    page.emulate_media(media="print")
    expect(verdicts.last.locator("dl")).to_be_visible()


class Links(HTMLParser):
    """The targets and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.targets.add(value)
            elif key == "id" and value:
                self.anchors.add(value)


@cache
def anchors(path: Path) -> set[str]:
    """Of a page."""
    return Links(path).anchors


def broken(site: Path, page: Path, target: str) -> bool:
    """Whether a link inside the site leads nowhere."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return False
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not path.is_relative_to(site) or not path.is_file():
        return True
    return bool(parts.fragment) and unquote(parts.fragment) not in anchors(path)


def test_internal_links_lead_somewhere(site: Path, name: str) -> None:
    page = site / name
    assert [target for target in sorted(Links(page).targets) if broken(site, page, target)] == []


def test_no_page_shows_an_object_of_python_in_place_of_its_text(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert pages
    assert [page.name for page in pages if "&lt;IPython." in page.read_text("utf8")] == []


def test_the_front_page_marks_each_claim_in_the_colour_of_its_verdict(page: Page, address: str) -> None:
    page.goto(f"{address}/book/intro.html", wait_until="networkidle")
    marks = page.locator(".mark a")
    assert marks.count() == len(CLAIMS)
    ways = "all => all.map(a => [a.textContent[0], getComputedStyle(a).borderTopColor])"
    seen = {(sign, colour) for sign, colour in marks.evaluate_all(ways)}
    assert len(seen) == len({sign for sign, _ in seen}) == len({colour for _, colour in seen})


def test_the_reference_has_every_public_name(site: Path) -> None:
    known = anchors(site / "book/api.html")
    names = [f"deadunits.{module}.{name}" for module in CORE for name in public(module)]
    assert [name for name in names if name not in known] == []


def test_dark_mode_recolours_lines_and_leaves_pictures_alone(page: Page, address: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}/{WIDGETS}", wait_until="networkidle")
    look = (
        "images => images.map(i => [/[.]svg$|^data:image.svg/.test(i.src), "
        "getComputedStyle(i).filter.startsWith('invert'), getComputedStyle(i).backgroundColor])"
    )
    looks = page.locator(".cell_output img").evaluate_all(look)
    assert [True, True, "rgba(0, 0, 0, 0)"] in looks
    assert all(svg == inverted and ground == "rgba(0, 0, 0, 0)" for svg, inverted, ground in looks)


@pytest.fixture
def slider(page: Page, address: str) -> Locator:
    """The handle of the first slider, when it is there."""
    page.goto(f"{address}/{WIDGETS}", wait_until="commit")
    page.locator(VIEW).scroll_into_view_if_needed()
    handle = page.locator(SLIDER).first
    handle.scroll_into_view_if_needed()
    return handle


def test_widget_is_there_in_time(page: Page, address: str) -> None:
    page.goto(f"{address}/{WIDGETS}", wait_until="commit")
    page.locator(VIEW).scroll_into_view_if_needed()
    page.locator(SLIDER).first.wait_for(timeout=READY_MS)
    page.locator("img.widget-image").first.wait_for(timeout=READY_MS)


def test_screen_readers_hear_what_the_widget_shows(page: Page, slider: Locator) -> None:
    slider.press("ArrowRight")
    shown = page.locator(".widget-hslider .widget-readout").first.inner_text()
    expect(slider).to_have_attribute("aria-valuetext", shown)
    expect(slider).to_have_attribute("aria-label", re.compile(r"\w"))
    expect(page.locator("img.widget-image").first).to_have_attribute("alt", re.compile(r"\w"))


PLAYER = "book/chapters/01-background.html"


def frame(page: Page) -> tuple[str, str]:
    """The one frame that is seen: its picture and its words."""
    seen = page.locator("img.line-frame:visible")
    expect(seen).to_have_count(1)
    return seen.get_attribute("src") or "", seen.get_attribute("alt") or ""


@pytest.fixture
def player(page: Page, address: str) -> Page:
    """The page of a player of line figures, when that is there."""
    page.goto(f"{address}/{PLAYER}", wait_until="networkidle")
    page.locator(VIEW).scroll_into_view_if_needed()
    page.locator(".widget-toggle-buttons").scroll_into_view_if_needed()
    frame(page)
    return page


def test_the_player_plays(player: Page) -> None:
    moved = frame(player)
    assert (
        moved[1] == f"step of size {player.locator('.widget-hslider .widget-readout:visible').inner_text()}"
    )
    player.get_by_role("button", name="Play").and_(player.locator(":visible")).click()
    expect(player.locator("img.line-frame:visible")).not_to_have_attribute("src", moved[0])
