"""Things to move: the same in a live notebook and, without a kernel, in the published page."""

from __future__ import annotations

import ipywidgets
import numpy as np
import pandas as pd

from deadunits import figures

FRAMES = 24  # at most, in one widget


def filters_over_time(scores: pd.DataFrame, shape: tuple[int, int, int]) -> ipywidgets.VBox:
    """A slider over training steps through pictures of the filters, coloured by the rank of their weights.

    Upper row: exact loss change; lower row: Taylor 1. The slider and the pictures are joined in the
    browser, so no kernel is needed.

    Args:
        scores: table `scores` of one run (columns step, weight, loss_change, taylor1).
        shape: (filters, height, width).
    """
    measured = np.sort(scores["step"].unique())
    steps = measured[np.unique(np.linspace(0, len(measured) - 1, FRAMES).round().astype(int))]
    frames = []
    for step in steps:
        now = scores[scores["step"] == step].sort_values("weight")
        rows = [_picture(now[scorer].to_numpy().reshape(shape)) for scorer in ("loss_change", "taylor1")]
        frames.append(ipywidgets.VBox(rows))
    slider = ipywidgets.SelectionSlider(
        options=[(f"{step:,}", index) for index, step in enumerate(steps)], description="step"
    )
    stack = ipywidgets.Stack(frames, selected_index=0)
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    return ipywidgets.VBox([slider, stack])


def _picture(scores: np.ndarray) -> ipywidgets.Image:
    return ipywidgets.Image(value=figures.png(figures.filters(scores)), format="png")
