"""Things to move: the same in a live notebook and, without a kernel, in the published page.

A widget of the page is a set of frames drawn beforehand, joined with its controls in the browser. A live one
(`Live`) computes in the kernel; it is left out of published pages.
"""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deadunits import figures, measures, trials
from deadunits.pruning import count
from deadunits.runs import Run

FRAMES = 40  # at most, in one widget
PAGE = "DEADUNITS_PAGE"  # set in the environment where a page is made


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
    measured = np.sort(scores["step"].unique())
    number = min(len(measured), FRAMES // len(scorers))
    steps = measured[np.unique(np.linspace(0, len(measured) - 1, number).round().astype(int))]
    parts = {}
    for scorer in scorers:
        frames: dict[str, ipywidgets.Widget] = {}
        for step in steps:
            now = scores[scores["step"] == step].sort_values("weight")
            agreement = measures.rank_correlations(now, [scorer])[scorer]
            label = f"{step:,}: agreement {agreement:.2f}"  # it is read aloud for the pictures, too
            values = now["loss_change"], measures.score_of(now, scorer)
            frames[label] = ipywidgets.VBox([_picture(one, shape) for one in values])
        parts[figures.NAMES[scorer]] = _through(frames, "step")
    return _among(parts, "score")


def expansion_slider(rows: pd.DataFrame, mark: float) -> ipywidgets.VBox:
    """A choice of a time in training, and a slider through sizes of a step: the loss, exact and expanded.

    Args:
        rows: table `expansion` of one run.
        mark: the learning rate of the training.
    """
    parts = {}
    for step in (rows["step"].min(), rows["step"].max()):
        own = rows[rows["step"] == step]
        frames = {}
        for size in sorted(own["size"].unique()):
            exact, first, second = own[(own["size"] == size) & (own["direction"] == "gradient")][
                ["exact", "first", "second"]
            ].to_numpy()[0]
            label = f"{size:.2g}: exact {exact:+.3f}, first order {first:+.3f}, second {second:+.3f}"
            frames[label] = _lines(figures.expansion(own, mark, at=size), f"step of size {label}")
        parts[f"after step {step:,}"] = _through(frames, "size")
    return _among(parts, "weights")


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


def pruning_slider(run: Run) -> ipywidgets.VBox:
    """A choice of scores, and a slider through fractions: what is left of the first layer, accuracy and loss.

    Args:
        run: of `explorer`, of weights.
    """
    rows, ranks, first = run.table("pruned"), run.table("ranks"), run.table("weights").iloc[0]
    shape = [int(first[side]) for side in ("units", "channels", "height", "width")]
    parts = {}
    for scorer, own in rows.groupby("scorer", sort=False):
        order = ranks[ranks["scorer"] == scorer].sort_values("weight")["rank"].to_numpy().reshape(shape)
        parts[figures.title(scorer)] = _through(
            {
                label: _pruned(rows, order, scorer, fraction, f"fraction {label}")
                for fraction, label in _labels(own).items()
            },
            "fraction",
        )
    return _among(parts, "score")


def _pruned(rows: pd.DataFrame, ranks: np.ndarray, scorer: str, fraction: float, alt: str) -> ipywidgets.VBox:
    left = ranks.size - count(fraction, ranks.size)
    picture = ipywidgets.Image(value=figures.png(figures.survivors(ranks, left)), format="png")
    return ipywidgets.VBox([picture, _lines(figures.without_weights(rows, scorer, fraction), alt)])


def unit_pruning_slider(run: Run) -> ipywidgets.VBox:
    """A choice of scores, and a slider through fractions of units: parameters left, and accuracy.

    Args:
        run: of `explorer`, of units.
    """
    rows, parts = run.table("units"), {}
    for scorer, own in rows.groupby("scorer", sort=False):
        parts[figures.title(scorer)] = _through(
            {
                label: _lines(figures.without_units(rows, scorer, fraction), f"fraction {label}")
                for fraction, label in _labels(own).items()
            },
            "fraction",
        )
    return _among(parts, "score")


def _labels(own: pd.DataFrame) -> dict[float, str]:
    """What is said of each fraction."""
    found = {}
    for fraction, at in own.groupby("fraction"):
        said = f"{fraction:g}: accuracy {100 * at['accuracy'].iloc[0]:.1f}%, loss {at['loss'].iloc[0]:.2f}"
        if "parameters" in at:
            bare = at.loc[~at["means"], "accuracy"].iloc[0]
            kept = at.loc[at["means"], "accuracy"].iloc[0]
            said = f"{fraction:g}: {at['parameters'].iloc[0]:,} parameters, {kept:.1%} (bare {bare:.1%})"
        found[fraction] = said
    return found


class Live(ipywidgets.VBox):
    """Controls, and what is computed from their values whenever one is moved.

    While it is computed the widget says so. What is asked for meanwhile waits, and of that only the last: a
    slider that is dragged on never queues up old work. An error is shown in the place of the result.

    Args:
        controls: widgets with a `value`, by the names that `draw` knows them by.
        draw: gets the values by name; called in a thread of its own.
    """

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], draw: Callable[..., ipywidgets.Widget]):
        self._controls, self._draw = dict(controls), draw
        self._said, self._place = ipywidgets.HTML(), ipywidgets.VBox()
        self._lock, self._busy = threading.Lock(), False
        self._wanted: dict[str, Any] | None = None
        super().__init__([*self._controls.values(), self._said, self._place])
        for control in self._controls.values():
            control.observe(self._ask, "value")
        self._ask()

    def _ask(self, change: object = None) -> None:
        with self._lock:
            self._wanted = {name: control.value for name, control in self._controls.items()}
            if self._busy:
                return
            self._busy = True
        self._said.value = '<p role="status">computing ...</p>'
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, None
                self._busy = wanted is not None
            if wanted is None:
                return
            try:
                shown, said = [self._draw(**wanted)], ""
            except Exception as error:  # whatever it is, it belongs into the widget
                shown, said = [], f'<p role="alert">{html.escape(f"{type(error).__name__}: {error}")}</p>'
            if self._wanted is None:
                self._place.children, self._said.value = shown, said


def live_attack(chosen: Mapping[str, Any], results: str = "results", data_root: str = "") -> Live | None:
    """In a notebook with a kernel: attack any unit at any time, by any factor, and see its theatre.

    Trains the chapter's network and its twin, with seed 0; what was computed once is read from `results`.
    None where a page is made, which has no kernel.

    Args:
        chosen: the parameters of the chapter by name.
    """
    if os.environ.get(PAGE):
        return None

    def draw(layer: str, unit: int, start: int, multiplier: float) -> ipywidgets.Widget:
        one = {"attacked": [[layer, unit]], "timed": [], "starts": [start], "start": start, "seeds": 1}
        planned = trials.some_units({**chosen, **one, "multiplier": multiplier})
        planned = {name: planned[name] for name in ("twins", "first")}
        found = trials.compute(planned, results, data_root)
        every = found["twins"] + found["first"]
        tables = [trials.curves(found["first"], every, name) for name in ("units", "training", "values")]
        return attack_theatre(*tables, chosen["activation"])

    first = chosen["attacked"][0]
    controls = {
        "layer": ipywidgets.Dropdown(options=chosen["layers"], value=first[0], description="layer"),
        "unit": ipywidgets.BoundedIntText(first[1], 0, 1_000_000, description="unit"),
        "start": ipywidgets.BoundedIntText(chosen["start"], 1, 100_000_000, description="first step"),
        "multiplier": ipywidgets.FloatText(chosen["multiplier"], description="multiplier"),
    }
    return Live(controls, draw)


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
