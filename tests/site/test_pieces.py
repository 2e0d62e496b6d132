"""The pieces that compute in a page: moved by mouse, keyboard and touch, they give PyTorch's numbers."""

from __future__ import annotations

import base64
import json
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
from playwright.sync_api import Browser, Locator, Page, expect

from deadbook.widgets import lab
from deadunits import compaction, mean_replacement, models, pruning, unit_scorers
from deadunits.attack import Attack, Schedule
from deadunits.data import Batch

PAGES = ("02-2-weight-pruning", "04-1-units", "04-2-unit-pruning")
LAYERS = ["conv1", "conv2", "fc1"]


def data_of(site: Path, chapter: str) -> tuple[str, dict]:
    """The file of a page's data, and what it holds."""
    text = (site / f"book/chapters/{chapter}.html").read_text("utf-8")
    name = re.search(r'class="lab-data" data-file="([^"]+)"', text)[1]
    script = (site / "_static/lab" / name).read_text("utf-8")
    return name, json.loads(script.partition(" = ")[2].rstrip(";\n"))


def unpacked(data: dict) -> tuple[torch.nn.Module, dict[str, Batch]]:
    """The network of a page's data, in PyTorch, and `images_of` them."""
    net = models.small_cnn(tuple(data["shape"]), activation=data["activation"]).eval()
    numbers = np.frombuffer(base64.b64decode(data["weights"]), "<f4").copy()
    parameters, at = dict(net.named_parameters()), 0
    with torch.no_grad():
        for name, length in data["parameters"]:
            parameters[name].copy_(torch.from_numpy(numbers[at : at + length]).view(parameters[name].shape))
            at += length
    return net, images_of(data)


def images_of(data: dict) -> dict[str, Batch]:
    """The sets of images of a page's data."""
    pixels = torch.tensor(list(base64.b64decode(data["images"])))
    x = torch.tensor(data["palette"])[pixels].view(-1, *data["shape"])
    sizes = [len(labels) for labels in data["labels"].values()]
    sets = zip(data["labels"].items(), x.split(sizes), strict=True)
    return {name: Batch(images, torch.tensor(labels)) for (name, labels), images in sets}


def judged(net: torch.nn.Module, images: Batch) -> tuple[float, int]:
    """Mean loss, and how many images are right."""
    with torch.no_grad():
        logits = net(images.x)
    return F.cross_entropy(logits, images.y).item(), int((logits.argmax(1) == images.y).sum())


def without_units(net: torch.nn.Module, sets: dict[str, Batch], keep: dict, means: bool) -> torch.nn.Module:
    """The library's network without those units."""
    seen = mean_replacement.observe(net, sets["train_probe"], LAYERS)
    given = {layer: units.mean if means else torch.zeros_like(units.mean) for layer, units in seen.items()}
    return compaction.propagate(net, keep, h=given)


def assert_shows(piece: Locator, loss: float, right: int) -> None:
    """The piece comes to show these numbers."""
    piece.page.wait_for_function(
        "([piece, loss]) => Math.abs(piece.dataset.loss - loss) <= 1e-4 * Math.max(loss, 0.01)",
        arg=[piece.element_handle(), loss],
    )
    assert int(piece.get_attribute("data-right")) == right


def opened(page: Page, address: str, chapter: str) -> Locator:
    """The piece of a page, when its first numbers are there."""
    page.goto(f"{address}/book/chapters/{chapter}.html", wait_until="commit")
    page.locator(".lab").scroll_into_view_if_needed()
    piece = page.locator(".lab-live[data-loss]")
    piece.wait_for(timeout=60_000)
    return piece


@pytest.mark.parametrize("chapter", PAGES)
def test_the_network_that_one_downloads_is_the_pages(site: Path, chapter: str) -> None:
    rows = pd.read_parquet(site / f"_downloads/{chapter}-network.parquet")
    net = unpacked(data_of(site, chapter)[1])[0]
    values = torch.cat([parameter.flatten() for parameter in net.parameters()])
    assert torch.equal(torch.tensor(rows["value"].to_numpy()), values)


@pytest.mark.parametrize("chapter", PAGES)
def test_the_whole_network_is_pytorchs(page: Page, address: str, site: Path, chapter: str) -> None:
    net, sets = unpacked(data_of(site, chapter)[1])
    assert_shows(opened(page, address, chapter), *judged(net, sets["test"]))


def test_from_the_file_it_works_too(page: Page, site: Path) -> None:
    net, sets = unpacked(data_of(site, "04-2-unit-pruning")[1])
    assert_shows(opened(page, site.as_uri(), "04-2-unit-pruning"), *judged(net, sets["test"]))


@pytest.mark.parametrize("scorer", ["mrp", "mrs", "norm_l1"])
def test_the_units_that_the_library_names_cost_what_it_says(
    page: Page, address: str, site: Path, scorer: str
) -> None:
    """By the slider, moved with the keyboard; then bare."""
    net, sets = unpacked(data_of(site, "04-2-unit-pruning")[1])
    scores = unit_scorers.UNIT_SCORERS[scorer](net, sets["train_probe"], LAYERS)
    piece = opened(page, address, "04-2-unit-pruning")
    piece.get_by_label("lowest", exact=True).select_option(scorer)
    slider = piece.get_by_role("slider", name="fraction")
    slider.fill("0.5")
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "50.5%")
    keep = pruning.unit_masks(scores, 0.505)
    assert_shows(piece, *judged(without_units(net, sets, keep, True), sets["test"]))
    assert int(piece.get_attribute("data-parameters")) == compaction.parameter_count(
        compaction.compact(net, keep)
    )
    piece.get_by_role("button", name="bare").click()
    assert_shows(piece, *judged(without_units(net, sets, keep, False), sets["test"]))
    piece.get_by_role("button", name="mean propagated").click()
    piece.get_by_role("button", name="of the network").click()
    keep = pruning.unit_masks(scores, 0.505, by="network")
    assert_shows(piece, *judged(without_units(net, sets, keep, True), sets["test"]))


def test_units_are_removed_by_click_key_and_touch(chromium: Browser, address: str, site: Path) -> None:
    net, sets = unpacked(data_of(site, "04-1-units")[1])
    with chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True) as context:
        piece = opened(context.new_page(), address, "04-1-units")
        piece.get_by_role("button", name="conv1 unit 3").click()
        piece.get_by_role("button", name="conv2 unit 0").focus()
        piece.page.keyboard.press("ArrowRight")
        piece.page.keyboard.press("Enter")
        piece.get_by_role("button", name="fc1 unit 7", exact=True).tap()
        keep = {layer: torch.ones(len(net.get_submodule(layer).weight), dtype=torch.bool) for layer in LAYERS}
        for layer, unit in (("conv1", 3), ("conv2", 1), ("fc1", 7)):
            keep[layer][unit] = False
            expect(piece.get_by_role("button", name=f"{layer} unit {unit}, removed")).to_be_visible()
        assert_shows(piece, *judged(without_units(net, sets, keep, True), sets["test"]))
        expect(piece.locator(".lab-said")).to_contain_text("3 units removed, their means propagated")


def test_weights_are_removed_by_score_and_one_by_one(page: Page, address: str, site: Path) -> None:
    net, sets = unpacked(data_of(site, "02-2-weight-pruning")[1])
    piece = opened(page, address, "02-2-weight-pruning")
    slider = piece.get_by_role("slider", name="fraction")
    slider.fill("0.8")
    names = [name for name, _ in net.named_parameters() if name.endswith("weight")]
    keep = pruning.masks({name: net.get_parameter(name).detach().abs() for name in names}, 0.8)
    with pruning.pruned(net, keep):
        assert_shows(piece, *judged(net, sets["test"]))
    piece.get_by_role("button", name="Restore all").click()
    assert_shows(piece, *judged(net, sets["test"]))
    piece.get_by_role("button", name="conv1 unit 2").click()
    grid = piece.locator(".lab-large")
    box = grid.bounding_box()
    grid.click(position={"x": 2.5 / 5 * box["width"], "y": 3.5 / 5 * box["height"]})
    grid.press("ArrowRight")
    grid.press("Enter")
    with torch.no_grad():
        net.conv1.weight[2, 0, 3, 2:4] = 0
    assert_shows(piece, *judged(net, sets["test"]))
    assert piece.get_attribute("data-weights") == "2"


def test_nothing_is_looked_up(page: Page, address: str, site: Path) -> None:
    """One weight of the page's data is changed, and every number follows PyTorch."""
    name, data = data_of(site, "04-2-unit-pruning")
    numbers = np.frombuffer(base64.b64decode(data["weights"]), "<f4").copy()
    numbers[3] += 2
    data["weights"] = base64.b64encode(numbers.tobytes()).decode()
    script = f'deadunitsLab.data["{name}"] = {json.dumps(data)};'
    page.route(f"**/{name}*", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    net, sets = unpacked(data)
    piece = opened(page, address, "04-2-unit-pruning")
    assert_shows(piece, *judged(net, sets["test"]))
    keep = pruning.unit_masks(unit_scorers.mrs(net, sets["train_probe"], LAYERS), 0.3)
    piece.get_by_role("slider", name="fraction").fill("0.3")
    assert_shows(piece, *judged(without_units(net, sets, keep, True), sets["test"]))


def test_a_drawn_digit_is_answered(page: Page, address: str) -> None:
    piece = opened(page, address, "04-1-units")
    piece.get_by_role("button", name="Draw a digit").click()
    canvas = piece.locator(".lab-image")
    canvas.scroll_into_view_if_needed()
    before = piece.locator(".lab-one svg").get_attribute("aria-label")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.15 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.85 * box["height"], steps=8)
    page.mouse.up()
    expect(piece.locator(".lab-one [role=status]")).to_contain_text("Your digit. The whole network says")
    assert before


def page_of(tmp_path: Path, name: str, values: dict, **state: object) -> str:
    """A page with a piece alone, which starts with that."""
    assets = Path(__file__).parents[2] / "book/assets/site"
    head = f'<script defer src="{(assets / "lab/mount.js").as_uri()}"></script>'
    for style in ("deadunits.css", "lab/lab.css"):
        head += f'<link rel="stylesheet" href="{(assets / style).as_uri()}">'
    text = lab.piece(name, values, Figure(), "a figure", **state).data
    page = tmp_path / f"{name}.html"
    page.write_text(f'<!doctype html><html lang="en"><title>{name}</title>{head}<body>{text}', "utf-8")
    return page.as_uri()


def kill_page(tmp_path: Path, **state: object) -> str:
    """A page with the second piece."""
    return page_of(tmp_path, "kill", lab.digits(), **state)


class Chance:
    """The random numbers of the pages (mulberry32)."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def __call__(self) -> float:
        """From 0 to 1."""
        low = 0xFFFFFFFF
        self.state = (self.state + 0x6D2B79F5) & low
        t = (self.state ^ (self.state >> 15)) * (1 | self.state) & low
        t = ((t + ((t ^ (t >> 7)) * (61 | t) & low)) & low) ^ t
        return ((t ^ (t >> 14)) & low) / 2**32


@torch.random.fork_rng()
def attacked(data: dict, activation: str, batch_norm: bool, steps: int, attack: dict) -> list[float]:
    """MRP of the units of conv1 after the same training and attack in PyTorch."""
    act = models.ACTIVATIONS[activation]
    layers = [("conv1", torch.nn.Conv2d(1, 8, 3)), ("pool1", torch.nn.MaxPool2d(2)), ("act1", act())]
    layers += [("bn1", torch.nn.BatchNorm2d(8, affine=False))] * batch_norm
    layers += [("flatten", torch.nn.Flatten()), ("fc1", torch.nn.Linear(72, 32)), ("act3", act())]
    layers += [("bn3", torch.nn.BatchNorm1d(32, affine=False))] * batch_norm
    net = torch.nn.Sequential(OrderedDict([*layers, ("fc2", torch.nn.Linear(32, 10))]))
    chance, order = Chance(0), Chance(1000003)
    with torch.no_grad():
        for values in net.parameters():
            fan = {8: 9, 32: 72, 10: 32}[len(values)]
            numbers = [(2 * chance() - 1) / fan**0.5 for _ in range(values.numel())]
            values.copy_(torch.tensor(numbers).view(values.shape))
    sets, batches = images_of(data), []
    while len(batches) < steps:
        indices = list(range(len(sets["train"].y)))
        for i in range(len(indices) - 1, 0, -1):
            j = int(order() * (i + 1))
            indices[i], indices[j] = indices[j], indices[i]
        batches += [indices[i : i + 32] for i in range(0, len(indices), 32)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = Schedule(attack["from"], 2, 10)
    with Attack(net, optimizer, "conv1", [attack["unit"]], schedule, attack["multiplier"]):
        for batch in batches[:steps]:
            optimizer.zero_grad()
            F.cross_entropy(net(sets["train"].x[batch]), sets["train"].y[batch]).backward()
            optimizer.step()
    return unit_scorers.mrp(net.eval(), sets["probe"], ["conv1"])["conv1"].tolist()


@pytest.mark.parametrize(("activation", "norm"), [("relu", False), ("tanh", False), ("relu", True)])
def test_an_attack_does_to_the_unit_what_it_does_in_pytorch(
    page: Page, tmp_path: Path, activation: str, norm: bool
) -> None:
    page.goto(kill_page(tmp_path, activation=activation, norm=norm, multiplier=1000, unit=2))
    piece = page.locator(".lab-live[data-step]")
    piece.get_by_role("button", name="10 steps").click()
    page.wait_for_function("document.querySelector('.lab-live').dataset.step == 10")
    expect(piece.get_by_role("button", name="Play")).to_be_visible()
    piece.get_by_role("button", name="Attack now").click()
    piece.get_by_role("button", name="10 steps").press("Enter")
    page.wait_for_function("document.querySelector('.lab-live').dataset.step == 20")
    data = json.loads(page.locator("script.lab-data").inner_text())
    mrp = attacked(data, activation, norm, 20, {"from": 11, "unit": 2, "multiplier": 1000})
    assert float(piece.get_attribute("data-mrp")) == pytest.approx(mrp[2], rel=0.01, abs=1e-6)
    dead = mrp[2] <= 0.05 * sum(mrp) / 8
    assert piece.get_attribute("data-dead") == str(dead).lower()
    look = piece.get_by_role("slider", name="look at step")
    for _ in range(7):  # back through the steps of the attack
        look.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.lab-live').dataset.step == 13")
    expect(look).to_have_attribute("aria-valuetext", "13 (attack)")
    mrp = attacked(data, activation, norm, 13, {"from": 11, "unit": 2, "multiplier": 1000})
    assert float(piece.get_attribute("data-mrp")) == pytest.approx(mrp[2], rel=0.01, abs=1e-6)
    piece.get_by_role("button", name="First step of the attack").click()
    page.wait_for_function("document.querySelector('.lab-live').dataset.step == 11")
    look.press("End")
    page.wait_for_function("document.querySelector('.lab-live').dataset.step == 20")


def test_a_shared_link_repeats_the_attack(page: Page, tmp_path: Path) -> None:
    address, seen = kill_page(tmp_path), []
    for _ in range(2):
        page.goto("about:blank")
        page.goto(f"{address}#kill=seed=3&activation=tanh&unit=1&multiplier=1000&at=6")
        page.get_by_role("button", name="10 steps").click()
        page.wait_for_function("document.querySelector('.lab-live').dataset.step == 10")
        seen.append(page.locator(".lab-live").evaluate("piece => [piece.dataset.mrp, piece.dataset.twin]"))
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1]


@pytest.mark.parametrize(("activation", "multiplier"), [("relu", 100), ("tanh", 10_000)])
def test_two_units_in_the_plane_do_what_they_do_in_pytorch(
    page: Page, tmp_path: Path, activation: str, multiplier: int
) -> None:
    """Trained and attacked from the keyboard, on a telephone; with ReLU the line leaves all points."""
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).mul(0.22).add(1).round(decimals=3)
    x[:, 0] += torch.arange(60) % 3 - 0.5
    data = lab.points(x, torch.arange(60) % 3 == 1)
    x, y = torch.tensor(data["points"]).double(), torch.tensor(data["labels"]).long()
    act, chance = models.ACTIVATIONS[activation], Chance(5)
    inner, outer = (torch.nn.utils.skip_init(torch.nn.Linear, 2, 2) for _ in range(2))
    layers = [("fc1", inner), ("act", act()), ("fc2", outer)]
    net = torch.nn.Sequential(OrderedDict(layers)).double()
    with torch.no_grad():
        for values in net.parameters():
            numbers = [(2 * chance() - 1) / 2**0.5 for _ in range(values.numel())]
            values.copy_(torch.tensor(numbers).view(values.shape))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    with Attack(net, optimizer, "fc1", [1], Schedule(101, 1, 5), multiplier):
        for _ in range(105):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    mrp = unit_scorers.mrp(net, Batch(x, y), ["fc1"])["fc1"]
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(page_of(tmp_path, "two", data, activation=activation, multiplier=multiplier))
    piece = page.locator(".lab-live[data-step='0']")
    piece.get_by_role("button", name="100 steps").press("Enter")
    piece = page.locator(".lab-live[data-step='100']")
    piece.get_by_role("button", name="unit 1").press("Enter")
    piece.get_by_role("button", name="Attack now").press("Enter")
    piece = page.locator(".lab-live[data-step='105']")
    assert float(piece.get_attribute("data-loss")) == pytest.approx(judged(net, Batch(x, y))[0], rel=1e-3)
    shown = [float(one) for one in piece.get_attribute("data-mrp").split(",")]
    assert shown == pytest.approx(mrp.tolist(), rel=1e-3, abs=1e-6)
    positive = (net.fc1(x) > 0).sum(0).tolist()
    assert activation == "tanh" or (positive[1] == 0 and mrp[1] == 0)
    assert piece.get_attribute("data-answers") == ",".join(map(str, positive))
    words = "Unit 1 is dead" if mrp[1] <= 0.05 * mrp.mean() else "Unit 1 is not dead"
    expect(piece.locator(".lab-said")).to_contain_text(words)
    if positive[1] in (0, len(x)):
        expect(piece.locator(".lab-said")).to_contain_text("Its line has left all points.")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_one_weight_to_zero_is_pytorchs(page: Page, address: str, site: Path) -> None:
    """Change, gradient and a second weight; by a click and by keys."""
    net, sets = unpacked(data_of(site, "02-1-saliency")[1])
    page.goto(f"{address}/book/chapters/02-1-saliency.html", wait_until="commit")
    page.locator(".lab").scroll_into_view_if_needed()
    piece = page.locator(".lab-live")
    page.locator(".lab-live[data-exact]").wait_for(timeout=60_000)
    piece.get_by_label("unit", exact=True).select_option("3")
    grid = piece.locator(".lab-large")
    box = grid.bounding_box()
    grid.click(position={"x": 1.5 / 5 * box["width"], "y": 2.5 / 5 * box["height"]})
    expect(piece).to_contain_text("conv1, unit 3, weight 11")
    page.locator(".lab-live[data-exact]").wait_for(timeout=60_000)

    def change(kind: str, cells: dict[int, float]) -> float:
        other = models.small_cnn(tuple(data_of(site, "02-1-saliency")[1]["shape"]))
        other.load_state_dict(net.state_dict())
        with torch.no_grad():
            for cell, left in cells.items():
                other.conv1.weight[3].view(-1)[cell] *= left
        return judged(other, sets[kind])[0] - judged(net, sets[kind])[0]

    def shown(name: str) -> float:
        return float(piece.get_attribute(f"data-{name}"))

    net.zero_grad()
    F.cross_entropy(net(sets["train_probe"].x), sets["train_probe"].y).backward()
    assert shown("gradient") == pytest.approx(net.conv1.weight.grad[3, 0, 2, 1].item(), rel=1e-4, abs=1e-7)
    assert shown("exact") == pytest.approx(change("train_probe", {11: 0}), rel=1e-3, abs=1e-6)
    assert shown("other") == pytest.approx(change("test", {11: 0}), rel=1e-3, abs=1e-6)
    way = piece.get_by_role("slider", name="on the way to zero")
    way.fill("0.5")
    page.locator(".lab-live[data-place='0.5']").wait_for()
    assert shown("exact") == pytest.approx(change("train_probe", {11: 0.5}), rel=1e-3, abs=1e-6)
    piece.get_by_role("button", name="second weight").click()
    grid.press("ArrowDown")
    expect(piece).to_contain_text("the second alone (conv1 unit 3 weight 16)")
    both = change("train_probe", {11: 0, 16: 0})
    page.wait_for_function(
        "both => Math.abs(document.querySelector('.lab-live').dataset.both - both) < 1e-5", arg=both
    )
    assert shown("first") == pytest.approx(change("train_probe", {11: 0}), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    "chapter", ["02-1-saliency", "02-2-weight-pruning", "03-1-dead-units", "03-2-batch-norm", "04-1-units"]
)
def test_a_piece_fits_and_can_be_heard(page: Page, address: str, chapter: str, axe: str) -> None:
    page.goto(f"{address}/book/chapters/{chapter}.html", wait_until="commit")
    page.locator(".lab").scroll_into_view_if_needed()
    page.locator(".lab-ready").wait_for(timeout=60_000)
    page.locator(".lab-live [role=status]").first.wait_for()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate(
                "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            )
        page.evaluate(axe)
        found = page.evaluate(
            "axe.run('.lab', {resultTypes: ['violations']}).then(found => found.violations)"
        )
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], [node["html"] for node in fault["nodes"][:3]]) for fault in serious] == []


MOVING = """() => [...document.querySelectorAll("*")].flatMap((element) => {
  const moves = (part) => {
    const { transitionDuration, animationName, scrollBehavior } = getComputedStyle(element, part);
    return parseFloat(transitionDuration) > 0 || animationName !== "none" || scrollBehavior === "smooth";
  };
  return [null, "::before", "::after"].filter(moves).map((part) => element.className + (part ?? ""));
})"""


def test_where_less_motion_is_asked_for_nothing_moves_by_itself(
    chromium: Browser, address: str, tmp_path: Path
) -> None:
    with chromium.new_context(reduced_motion="reduce") as context:
        page = context.new_page()
        lines = opened(page, address, "04-2-unit-pruning").locator(".lab-charts path")
        assert page.evaluate(MOVING) == []
        expect(lines).to_have_count(2)
        whole = [line.get_attribute("d").count("L") for line in lines.all()]
        assert whole == [20, 20]  # not drawn before all its points are known
        page.goto(kill_page(tmp_path))
        piece = page.locator(".lab-live[data-step]")
        page.wait_for_timeout(300)
        assert piece.get_attribute("data-step") == "0"
        piece.get_by_role("button", name="Play").click()
        page.wait_for_function("document.querySelector('.lab-live').dataset.step > 10")
        piece.get_by_role("button", name="Pause").click()
        expect(piece.get_by_role("button", name="Play")).to_be_visible()


def test_in_print_and_without_javascript_there_is_the_figure(
    chromium: Browser, page: Page, address: str
) -> None:
    piece = opened(page, address, "04-2-unit-pruning")
    page.emulate_media(media="print")
    expect(page.locator(".lab-still img")).to_be_visible()
    expect(piece).to_be_hidden()
    with chromium.new_context(java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(f"{address}/book/chapters/04-2-unit-pruning.html")
        expect(plain.locator(".lab-still img")).to_be_visible()
