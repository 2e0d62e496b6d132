"""Things to move: the same in a live notebook and, without a kernel, in the published page."""

from __future__ import annotations

import ipywidgets
import numpy as np
import pandas as pd

from deadunits import figures

FRAMES = 24  # at most, in one widget
ROWS = ("loss_change", "taylor1")


def filters_over_time(scores: pd.DataFrame, shape: tuple[int, int, int, int]) -> ipywidgets.VBox:
    """A slider over training steps through pictures of the filters, coloured by the rank of their weights.

    Upper row: exact loss change; lower row: Taylor 1. The slider and the pictures are joined in the
    browser, so no kernel is needed.

    Args:
        scores: table `scores` of one run (columns step, weight, loss_change, taylor1).
        shape: (units, channels, height, width) of the weights.
    """
    measured = np.sort(scores["step"].unique())
    steps = measured[np.unique(np.linspace(0, len(measured) - 1, FRAMES).round().astype(int))]
    frames, labels = [], []
    for step in steps:
        now = scores[scores["step"] == step].sort_values("weight")
        frames.append(ipywidgets.VBox([_picture(now[scorer], shape) for scorer in ROWS]))
        # also what is read aloud in the place of the pictures
        labels.append(f"{step:,}: {(now['loss_change'] < 0).mean():.0%} < 0")
    slider = ipywidgets.SelectionSlider(
        options=[(label, index) for index, label in enumerate(labels)], description="step"
    )
    stack = ipywidgets.Stack(frames, selected_index=0)
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    return ipywidgets.VBox([slider, stack])


def _picture(scores: pd.Series, shape: tuple[int, int, int, int]) -> ipywidgets.Image:
    # without a tooltip, for which the published page would show no picture at all
    return ipywidgets.Image(value=figures.png(figures.ranks(scores.to_numpy().reshape(shape))), format="png")
