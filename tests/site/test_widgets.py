"""Each widget of the site, moved by mouse and by keyboard: it shows what the notebook kept for that place."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
from playwright.sync_api import Locator, Page, expect

CHAPTERS = (
    "01-background",
    "02-1-saliency",
)
STATE = "script[type='application/vnd.jupyter.widget-state+json']"
SEEN = """area => Promise.all([...area.querySelectorAll("img")].filter(one => one.checkVisibility()).map(
    async one => one.matches(".line-frame") ? one.getAttribute("src") : btoa(String.fromCharCode(
        ...new Uint8Array(await (await fetch(one.src)).arrayBuffer())))))"""


def frames(state: dict) -> dict[tuple[str, str], list[str]]:
    """The pictures of the one widget in a page, by what is chosen and what stands beside the slider."""
    models = state["state"]

    def children(one: dict) -> list[dict]:
        return [models[name.removeprefix("IPY_MODEL_")] for name in one["state"].get("children", [])]

    def pictures(one: dict) -> list[str]:
        if one["model_name"] == "HTMLModel":
            return re.findall(r'src="([^"]*)"', one["state"]["value"])
        if one["model_name"] == "ImageModel":
            return [buffer["data"] for buffer in one["buffers"]]
        return [picture for child in children(one) for picture in pictures(child)]

    found = {}
    for whole in models.values():
        kinds = [child["model_name"] for child in children(whole)]
        if kinds != ["ToggleButtonsModel", "StackModel"]:
            continue
        choice, parts = children(whole)
        for name, part in zip(choice["state"]["_options_labels"], children(parts), strict=True):
            controls, stack = children(part)
            slider = children(controls)[1]
            for label, one in zip(slider["state"]["_options_labels"], children(stack), strict=True):
                found[name, label] = pictures(one)
    return found


@pytest.fixture(params=CHAPTERS)
def widget(request: pytest.FixtureRequest, page: Page, address: str) -> tuple[Locator, dict]:
    """A chapter's widget, when it is there, and its frames."""
    page.goto(f"{address}/book/chapters/{request.param}.html", wait_until="networkidle")
    page.locator(".cell_output:has(> script[type*=widget-view])").scroll_into_view_if_needed()
    area = page.locator(".widget-subarea")
    expect(area).to_have_count(1)
    area.locator(".widget-hslider:visible").scroll_into_view_if_needed()
    area.locator("img:visible").first.wait_for()
    return area, frames(json.loads(page.locator(STATE).inner_text()))


def shown(area: Locator) -> tuple[str, str]:
    """What is chosen, and what stands beside the slider."""
    chosen = area.locator(".widget-toggle-buttons button[aria-pressed=true]")
    return chosen.inner_text().strip(), area.locator(".widget-hslider .widget-readout:visible").inner_text()


def right(area: Locator, known: dict[tuple[str, str], list[str]]) -> bool:
    """Whether the pictures that are seen are those that belong there."""
    return sorted(area.evaluate(SEEN)) == sorted(known[shown(area)])


def test_it_shows_the_right_picture(widget: tuple[Locator, dict], subtests: pytest.Subtests) -> None:
    area, known = widget
    with subtests.test("it has at most forty frames, which differ"):
        assert 2 <= len(known) <= 40
        different = {tuple(pictures) for pictures in known.values()}
        assert len(different) > len(known) / 2  # late in training some are the same
        assert right(area, known)
    with subtests.test("by keyboard"):
        by_keyboard(area, known)
    with subtests.test("by mouse"):
        by_mouse(area, known)


def by_keyboard(area: Locator, known: dict[tuple[str, str], list[str]]) -> None:
    """Choose with Enter, move with arrows."""
    seen = {shown(area)}
    for number in range(area.locator(".widget-toggle-buttons button").count()):
        button = area.locator(".widget-toggle-buttons button").nth(number)
        button.press("Enter")
        expect(button).to_have_attribute("aria-pressed", "true")
        handle = area.locator(".widget-hslider:visible [role=slider]")
        for key in ("ArrowRight", "End", "ArrowLeft", "Home"):
            handle.press(key)
            seen.add(shown(area))
            assert right(area, known)
    assert len(seen) >= min(len(known), 4 * number)


def by_mouse(area: Locator, known: dict[tuple[str, str], list[str]]) -> None:
    """Choose by a click, drag the slider."""
    area.locator(".widget-toggle-buttons button").last.click()
    assert shown(area)[0] == list(known)[-1][0]
    assert right(area, known)
    before = shown(area)
    box = area.locator(".widget-hslider:visible [role=slider]").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = area.page.mouse
    mouse.move(x, y)
    mouse.down()
    for distance in (40, 80, 120):
        mouse.move(x + distance, y, steps=3)
        assert right(area, known)
    mouse.up()
    assert shown(area) != before
    assert right(area, known)
