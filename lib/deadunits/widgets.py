"""Things to move: the same in a live notebook and, without a kernel, in the published page.

A widget of the page is a set of frames drawn beforehand, joined with its controls in the browser.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from urllib.parse import quote

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deadunits import figures

FRAMES = 24  # at most, in one widget
ROWS = ("loss_change", "taylor1")


def filters_over_time(scores: pd.DataFrame, shape: tuple[int, int, int, int]) -> ipywidgets.VBox:
    """A slider over training steps through pictures of the filters, coloured by the rank of their weights.

    Upper row: exact loss change; lower row: Taylor 1.

    Args:
        scores: table `scores` of one run (columns step, weight, loss_change, taylor1).
        shape: (units, channels, height, width) of the weights.
    """
    measured = np.sort(scores["step"].unique())
    steps = measured[np.unique(np.linspace(0, len(measured) - 1, FRAMES).round().astype(int))]
    frames: dict[str, ipywidgets.Widget] = {}
    for step in steps:
        now = scores[scores["step"] == step].sort_values("weight")
        label = (
            f"{step:,}: {(now['loss_change'] < 0).mean():.0%} < 0"  # it is read aloud for the pictures, too
        )
        frames[label] = ipywidgets.VBox([_picture(now[scorer], shape) for scorer in ROWS])
    return _through(frames, "step")


def attack_theatre(
    rows: pd.DataFrame, losses: pd.DataFrame, values: pd.DataFrame, activation: str
) -> ipywidgets.VBox:
    """A choice of attacked units, and a slider through the training of each: outputs, MRP, MRS and loss.

    Args:
        rows: from `trials.curves`, of attacks and twins of one seed; `losses` and `values` are its other
            tables.
        activation: of the network.
    """
    parts = {}
    for layer, unit in dict.fromkeys(zip(values["layer"], values["unit"], strict=True)):
        own = [one[(one["layer"] == layer) & (one["unit"] == unit)] for one in (rows, losses, values)]
        frames = {}
        for step in sorted(own[2]["step"].unique()):
            now = own[0][own[0]["step"] == step].groupby("kind")["mrp"].mean()
            label = f"{step:,}: MRP {now['attack']:.3f} (twin {now['twin']:.3f})"
            frames[label] = _lines(figures.attack_scene(*own, step, activation), f"step {label}")
        parts[f"{layer}, unit {unit}"] = _through(frames, "step")
    return _among(parts, "attacked")


def _through(frames: Mapping[str, ipywidgets.Widget], description: str) -> ipywidgets.VBox:
    """A slider through frames, by their labels, and a button that plays them."""
    slider = ipywidgets.SelectionSlider(
        options=[(label, index) for index, label in enumerate(frames)], description=description
    )
    stack = ipywidgets.Stack(list(frames.values()), selected_index=0)
    play = ipywidgets.Play(max=len(frames) - 1, interval=700, show_repeat=False)
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    ipywidgets.jslink((play, "value"), (slider, "index"))
    whole = ipywidgets.VBox([ipywidgets.HBox([play, slider]), stack])
    whole.add_class("frames")
    return whole


def _among(parts: Mapping[str, ipywidgets.Widget], description: str) -> ipywidgets.VBox:
    """A choice of one of several parts."""
    choice = ipywidgets.ToggleButtons(
        options=[(label, index) for index, label in enumerate(parts)], description=description
    )
    stack = ipywidgets.Stack(list(parts.values()), selected_index=0)
    ipywidgets.jslink((choice, "index"), (stack, "selected_index"))
    return ipywidgets.VBox([choice, stack])


def _lines(figure: Figure, alt: str) -> ipywidgets.HTML:
    """A line figure as text, which a compressed page holds in a fifth of the bytes of an `Image`."""
    plain = figures.svg(figure).decode().replace('"', "'")
    source = "data:image/svg+xml," + quote(plain, safe=" /=:;,.()'")
    return ipywidgets.HTML(f'<img class="line-frame" alt="{html.escape(alt)}" src="{source}">')


def _picture(scores: pd.Series, shape: tuple[int, int, int, int]) -> ipywidgets.Image:
    # without a tooltip, for which the published page would show no picture at all
    return ipywidgets.Image(value=figures.png(figures.ranks(scores.to_numpy().reshape(shape))), format="png")
