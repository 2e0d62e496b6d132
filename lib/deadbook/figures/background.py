"""Figures of chapter 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from deadbook.figures.style import COLOURS, panels

ORDERS = {"exact": "#0072B2", "first": "#D55E00", "second": "#CC79A7"}
DASHES = {"exact": "-", "first": (0, (4, 2)), "second": (0, (1.5, 1.5))}  # where they agree, all are seen
SIZE = "size of the step, t"
LABELS = {"exact": "exact", "first": "first order", "second": "second order"}


def block_diagram(layers: Sequence[tuple[str, ...]]) -> Figure:
    """Figure 1.1: a network as a chain of blocks from an image to a loss; a layer is a name and notes."""
    inside = len(layers)
    blocks = [("x", "image"), *layers, ("ŷ", "logits"), ("ℓ(ŷ, y)", "loss")]
    with panels(1, 1, 2.1) as (figure, axes):
        ax = axes[0, 0]
        for place, (name, *notes) in enumerate(blocks):
            colour = COLOURS["loss_change"] if 1 <= place <= inside else "black"
            _box(ax, place, 0, 0.76, 0.6, edgecolor=colour)
            ax.text(place, 0, name, ha="center", va="center", fontsize=11)
            ax.text(place, -0.42, "\n".join(notes), ha="center", va="top", linespacing=1.4)
            if place:
                _arrow(ax, (place - 0.62, 0), (place - 0.38, 0))
        _box(ax, (inside + 1) / 2, -0.17, inside - 0.06, 1.72, edgecolor="#6E6E6E", linestyle=(0, (4, 3)))
        ax.text(0.56, 0.82, "f(x; w)", ha="left", va="bottom", fontsize=11)
        ax.text(inside + 2, -1.17, "y\nlabel", ha="center", va="center", linespacing=1.4)
        _arrow(ax, (inside + 2, -0.9), (inside + 2, -0.68))
        ax.set(xlim=(-0.45, len(blocks) - 0.55), ylim=(-1.4, 1.1))
        ax.set_axis_off()
    return figure


def _box(ax: Axes, x: float, y: float, width: float, height: float, **style: object) -> None:
    shape = "round,pad=0,rounding_size=0.08"
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=shape, facecolor="none", linewidth=1.1, **style)
    )


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "->", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, **style))


def expansion(rows: pd.DataFrame, mark: float | None = None, at: float | None = None) -> Figure:
    """The change of the loss along two directions, exact and expanded (Eq. 1.3, 1.4), at one training step.

    Args:
        rows: table `expansion` of one run and step.
        mark: a size of the step along the gradient to mark.
        at: a size at which to put a point on each line.
    """
    titles = {"gradient": "along the negative gradient", "removal": "towards zero weights"}
    with panels(1, 2, 3.0, SIZE, "change of the loss in nats") as (figure, axes):
        for ax, (direction, title) in zip(axes.flat, titles.items(), strict=True):
            walk = rows[rows["direction"] == direction].sort_values("size")
            point = walk[walk["size"] == at]
            for order, colour in ORDERS.items():
                style = {"color": colour, "linestyle": DASHES[order], "label": LABELS[order]}
                ax.plot(walk["size"], walk[order], linewidth=3 if order == "exact" else 1.8, **style)
                ax.plot(point["size"], point[order], "o", color=colour, markersize=8)
            ax.set_yscale("symlog", linthresh=0.01)  # the dip is small, what follows is not
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set(title=title, xscale="log")
        _mark(axes.flat[0], mark)
    return figure


def expansion_error(rows: pd.DataFrame) -> Figure:
    """How wrong the expansions are along the negative gradient, by size of the step, early and late."""
    steps = [rows["step"].min(), rows["step"].max()]
    with panels(1, 2, 3.0, SIZE, "error over the exact change", sharey=True) as (figure, axes):
        for ax, step in zip(axes.flat, steps, strict=True):
            walk = rows[(rows["step"] == step) & (rows["direction"] == "gradient")]
            for order in ("first", "second"):
                error = (walk[order] - walk["exact"]).abs() / walk["exact"].abs()
                median = error.groupby(walk["size"]).median()
                ax.plot(median.index, median, color=ORDERS[order], label=LABELS[order])
            ax.axhline(1, color="black", linewidth=0.9)
            ax.set(title=f"step {step:,}", xscale="log", yscale="log")
    return figure


def descent(rows: pd.DataFrame, mark: float | None = None) -> Figure:
    """How often a step along a minibatch's gradient lowers the loss, of that minibatch and of a fixed set.

    Args:
        rows: table `descent`, of one run or several.
        mark: a size of the step to mark.
    """
    steps = [rows["step"].min(), rows["step"].max()]
    kinds = {"minibatch": ("#D55E00", "of the minibatch"), "all": ("#0072B2", "of the fixed set")}
    with panels(1, 2, 2.8, SIZE, "steps that lower\nthe loss, in %", sharey=True) as (figure, axes):
        for ax, step in zip(axes.flat, steps, strict=True):
            trials = rows[rows["step"] == step]
            for kind, (colour, label) in kinds.items():
                lowered = (trials[kind] < 0).groupby(trials["size"]).mean()
                ax.plot(lowered.index, 100 * lowered, color=colour, label=label)
            ax.set(title=f"step {step:,}", xscale="log", ylim=(-3, 103))
            _mark(ax, mark)
    return figure


def _mark(ax: Axes, size: float | None) -> None:
    if size is not None:
        ax.axvline(size, color="black", linewidth=0.9, linestyle=(0, (2, 3)))


def removals(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Loss of a tiny model after 0, 1, 2, ... weights are removed, by how they were chosen."""
    styles = (("#D55E00", (0, (4, 2))), ("#0072B2", "-"))
    with panels(1, 1, 2.6, "weights removed", "loss") as (figure, axes):
        for (name, values), (colour, style) in zip(losses.items(), styles, strict=True):
            axes[0, 0].plot(values, color=colour, linestyle=style, marker="o", label=name)
        axes[0, 0].set_xticks(range(max(map(len, losses.values()))))
    return figure


def propagation(errors: Mapping[str, Mapping[str, np.ndarray]], spreads: np.ndarray) -> Figure:
    """What removing a unit changes in the next pre-activation, by its spread; a panel a nonlinearity."""
    kinds = {
        "bare removal": {"color": "#6E6E6E", "linewidth": 3.4},
        "as printed, g(E[h] W)": {"color": "#D55E00", "linestyle": (0, (4, 2))},
        "mended, W g(E[h])": {"color": "#0072B2", "linewidth": 3.4},
        "W E[g(h)]": {"color": "#E69F00", "linestyle": (0, (1.5, 1.5))},
    }
    shape = (1, len(errors), 3.0, "standard deviation of h")
    name = "root mean square error of\nthe next pre-activation"
    with panels(*shape, name, sharey=True) as (figure, axes):
        for ax, (title, lines) in zip(axes.flat, errors.items(), strict=True):
            for kind, look in kinds.items():
                ax.plot(spreads, lines[kind], label=kind, **look)
            ax.set(title=title, xscale="log", yscale="log")
    return figure
