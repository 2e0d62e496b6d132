"""Things to move: the same in a live notebook and, without a kernel, in the published page.

Each is a set of frames drawn beforehand, joined with its controls in the browser. `live` has the same ones
for a notebook with a kernel, which compute.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deadbook import figures
from deadbook.analysis import measures
from deadunits.counting import count

FRAMES = 40  # at most, in one widget
Frame = tuple[str, ipywidgets.Widget]  #: the label of a picture, and the picture


def saliency_explorer(
    scores: pd.DataFrame, shape: tuple[int, int, int, int], scorers: Sequence[str]
) -> ipywidgets.VBox:
    """A choice of scorers, and a slider through the training: filters coloured by the rank of their weights.

    Upper row: the exact loss change; lower row: the scorer; beside the step, how well the two rank alike.

    Args:
        scores: table `scores` of one run, layer and set of images.
        shape: (units, channels, height, width) of the weights.
        scorers: names of scores (`measures.score_of`).
    """
    by_step = scores.sort_values("weight").groupby("step")
    rows = {step: by_step.get_group(step) for step in _thinned(scores["step"], len(scorers))}
    parts = {}
    for scorer in scorers:
        frames = {step: filters(weights, scorer, shape) for step, weights in rows.items()}
        labelled = {f"{step:,}: {label}": pictures for step, (label, pictures) in frames.items()}
        parts[figures.NAMES[scorer]] = _through(labelled, "step")  # labels are read aloud for the pictures
    return _among(parts, "score")


def filters(scores: pd.DataFrame, scorer: str, shape: tuple[int, int, int, int]) -> Frame:
    """A frame of the explorer: the filters by the exact loss change, and below it by the scorer."""
    agreement = measures.rank_correlations(scores, [scorer])[scorer]
    values = scores["loss_change"], measures.score_of(scores, scorer)
    return f"agreement {agreement:.2f}", ipywidgets.VBox([_picture(weights, shape) for weights in values])


def expansion_slider(rows: pd.DataFrame, mark: float) -> ipywidgets.VBox:
    """A choice of a time in training, and a slider through sizes of a step: the loss, exact and expanded.

    Args:
        rows: table `expansion` of one run.
        mark: the learning rate of the training.
    """
    parts = {}
    for step in (rows["step"].min(), rows["step"].max()):
        walk = rows[rows["step"] == step]
        frames = dict(expanded(walk, mark, size) for size in sorted(walk["size"].unique()))
        parts[f"after step {step:,}"] = _through(frames, "size")
    return _among(parts, "weights")


def expanded(rows: pd.DataFrame, mark: float, size: float) -> Frame:
    """A frame of the expansion: the loss along two directions, with a point at one size of the step."""
    along = rows[(rows["size"] == size) & (rows["direction"] == "gradient")]
    exact, first, second = along[["exact", "first", "second"]].to_numpy()[0]
    label = f"{size:.2g}: exact {exact:+.3f}, first order {first:+.3f}, second {second:+.3f}"
    return label, _lines(figures.expansion(rows, mark, at=size), f"step of size {label}")


def attack_theatre(
    rows: pd.DataFrame, losses: pd.DataFrame, values: pd.DataFrame, activation: str
) -> ipywidgets.Widget:
    """A slider through the training of an attacked unit: outputs, MRP, MRS and loss.

    Args:
        rows: from `trials.curves`, of one attack and its twin; `losses` and `values` are its other tables.
        activation: of the network.
    """
    frames, steps = {}, values[values["kind"] == "attack"]["step"]
    for step in _thinned(steps, 1):
        mrp = rows[rows["step"] == step].groupby("kind")["mrp"].mean()
        twin = f"{mrp['twin']:.3f}" if "twin" in mrp else "diverged"
        label = f"{step:,}: MRP {mrp['attack']:.3f} (twin {twin})"
        frames[label] = _lines(figures.attack_scene(rows, losses, values, step, activation), f"step {label}")
    return _through(frames, "step") if frames else ipywidgets.HTML(f"<p>{figures.NOTHING}</p>")


def pruned(rows: pd.DataFrame, ranks: np.ndarray, scorer: str, fraction: float) -> Frame:
    """A frame of the live pruning slider: the first layer's weights that are left, and the curves so far."""
    at = rows[(rows["scorer"] == scorer) & (rows["fraction"] == fraction)].iloc[0]
    label = f"{fraction:g}: accuracy {100 * at['accuracy']:.1f}%, loss {at['loss']:.2f}"
    survivors = figures.png(figures.survivors(ranks, ranks.size - count(fraction, ranks.size)))
    curves = _lines(figures.without_weights(rows, scorer, fraction), f"fraction {label}")
    return label, ipywidgets.VBox([ipywidgets.Image(value=survivors, format="png"), curves])


def smaller(rows: pd.DataFrame, scorer: str, fraction: float) -> Frame:
    """A frame of the live unit slider: accuracy with the means propagated and bare, parameters left."""
    at = rows[(rows["scorer"] == scorer) & (rows["fraction"] == fraction)].set_index("means")
    propagated, bare = at["accuracy"][True], at["accuracy"][False]
    label = f"{fraction:g}: {at['parameters'].iloc[0]:,} parameters, {propagated:.1%} (bare {bare:.1%})"
    return label, _lines(figures.without_units(rows, scorer, fraction), f"fraction {label}")


def _thinned(measured: pd.Series, parts: int) -> np.ndarray:
    """Steps, the first and the last among them, for which each of so many parts of a widget has a frame."""
    steps = np.sort(measured.unique())
    number = min(len(steps), max(1, FRAMES // parts))
    return steps[np.unique(np.linspace(0, len(steps) - 1, number).round().astype(int))]


def _through(frames: Mapping[str, ipywidgets.Widget], description: str) -> ipywidgets.VBox:
    """A slider through frames, by their labels, and a button that plays them."""
    slider = ipywidgets.SelectionSlider(
        options=[(label, index) for index, label in enumerate(frames)], description=description
    )
    stack = ipywidgets.Stack(list(frames.values()), selected_index=0)
    play = ipywidgets.Play(max=len(frames) - 1, interval=700, show_repeat=False)
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    ipywidgets.jslink((play, "value"), (slider, "index"))
    return ipywidgets.VBox([ipywidgets.HBox([play, slider]), stack]).add_class("frames")


def _among(parts: Mapping[str, ipywidgets.Widget], description: str) -> ipywidgets.VBox:
    """A choice of one of several parts."""
    choice = ipywidgets.ToggleButtons(
        options=[(label, index) for index, label in enumerate(parts)], description=description
    )
    stack = ipywidgets.Stack(list(parts.values()), selected_index=0)
    ipywidgets.jslink((choice, "index"), (stack, "selected_index"))
    return ipywidgets.VBox([choice, stack])


def _lines(figure: Figure, alt: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(line_frame(figure, alt))


def line_frame(figure: Figure, alt: str) -> str:
    """HTML of a line figure as text, which a compressed page holds in a fifth of the bytes of an `Image`."""
    plain = figures.svg(figure).decode().replace('"', "'")
    plain = re.sub(r" d='[^']*'", lambda path: re.sub(r" ?\n", "", path[0]), plain)
    source = "data:image/svg+xml," + quote(plain, safe=" /=:;,.()'")
    return f'<img class="line-frame" alt="{html.escape(alt)}" src="{source}">'


def _picture(scores: pd.Series, shape: tuple[int, int, int, int]) -> ipywidgets.Image:
    # without a tooltip, for which the published page would show no picture at all
    return ipywidgets.Image(value=figures.png(figures.ranks(scores.to_numpy().reshape(shape))), format="png")
