"""Figures of chapter 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from deadunits.figures.style import COLOURS, legend, panels

ORDERS = {"exact": "#0072B2", "first": "#D55E00", "second": "#CC79A7"}
LABELS = {"exact": "exact", "first": "first order", "second": "second order"}


def block_diagram(layers: Sequence[tuple[str, str]]) -> Figure:
    """Figure 1.1: a network as a chain of blocks from an image to a loss; a pair of texts a layer."""
    blocks = [("x", "image"), *layers, ("ŷ", "logits"), ("ℓ(ŷ, y)", "loss")]
    with panels(1, 1, 1.35) as (figure, axes):
        ax = axes[0, 0]
        for place, (name, below) in enumerate(blocks):
            inner = 0 < place < len(blocks) - 2
            box = FancyBboxPatch(
                (place - 0.34, -0.3),
                0.68,
                0.6,
                boxstyle="round,pad=0.02,rounding_size=0.08",
                facecolor=COLOURS["diagonal"] if inner else "none",
                edgecolor="black",
                linewidth=0.9,
            )
            ax.add_patch(box)
            ax.text(place, 0, name, ha="center", va="center")
            ax.text(place, -0.62, below, ha="center", va="center", fontsize=8.5)
            if place:
                arrow = FancyArrowPatch(
                    (place - 0.64, 0), (place - 0.36, 0), arrowstyle="->", mutation_scale=9
                )
                ax.add_patch(arrow)
        ax.set(xlim=(-0.5, len(blocks) - 0.5), ylim=(-0.85, 0.5))
        ax.set_axis_off()
    return figure


def expansion(rows: pd.DataFrame, mark: float | None = None) -> Figure:
    """The change of the loss along two directions, exact and expanded (Eq. 1.3, 1.4), at one training step.

    Args:
        rows: table `expansion` of one run and step.
        mark: a size of the step to mark.
    """
    titles = {"gradient": "along the negative gradient", "removal": "towards zero weights"}
    with panels(1, 2, 3.0) as (figure, axes):
        for ax, (direction, title) in zip(axes.flat, titles.items(), strict=True):
            here = rows[rows["direction"] == direction].sort_values("size")
            for order, colour in ORDERS.items():
                ax.plot(here["size"], here[order], color=colour, label=LABELS[order])
            ax.set_yscale("symlog", linthresh=0.01)  # the dip is small, what follows is not
            ax.axhline(0, color="black", linewidth=0.9)
            if mark is not None:
                ax.axvline(mark, color="black", linewidth=0.9, linestyle=(0, (2, 3)))
            ax.set(title=title, xlabel="size of the step, t", xscale="log")
        axes.flat[0].set_ylabel("change of the loss in nats")
        legend(figure, axes.flat[0])
    return figure


def expansion_error(rows: pd.DataFrame) -> Figure:
    """How wrong the expansions are along the negative gradient, by size of the step, early and late."""
    steps = [rows["step"].min(), rows["step"].max()]
    with panels(1, 2, 3.0, sharey=True) as (figure, axes):
        for ax, step in zip(axes.flat, steps, strict=True):
            here = rows[(rows["step"] == step) & (rows["direction"] == "gradient")]
            for order in ("first", "second"):
                error = (here[order] - here["exact"]).abs() / here["exact"].abs()
                by = error.groupby(here["size"]).median()
                ax.plot(by.index, by, color=ORDERS[order], label=LABELS[order])
            ax.axhline(1, color="black", linewidth=0.9)
            ax.set(title=f"step {step:,}", xlabel="size of the step, t", xscale="log", yscale="log")
        axes.flat[0].set_ylabel("error over the exact change")
        legend(figure, axes.flat[0])
    return figure


def descent(rows: pd.DataFrame) -> Figure:
    """How often a step along a minibatch's gradient lowers the loss, of that minibatch and of all images."""
    steps = [rows["step"].min(), rows["step"].max()]
    kinds = {"minibatch": ("#D55E00", "of the minibatch"), "all": ("#0072B2", "of all the images")}
    with panels(1, 2, 2.8, sharey=True) as (figure, axes):
        for ax, step in zip(axes.flat, steps, strict=True):
            here = rows[rows["step"] == step]
            for kind, (colour, label) in kinds.items():
                lowered = (here[kind] < 0).groupby(here["size"]).mean()
                ax.plot(lowered.index, 100 * lowered, color=colour, label=label)
            ax.set(title=f"step {step:,}", xlabel="size of the step, t", xscale="log", ylim=(-3, 103))
        axes.flat[0].set_ylabel("steps that lower\nthe loss, in %")
        legend(figure, axes.flat[0])
    return figure


def removals(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Loss of a tiny model after 0, 1, 2, ... weights are removed, by how they were chosen."""
    with panels(1, 1, 2.6) as (figure, axes):
        ax = axes[0, 0]
        for (name, values), (colour, style) in zip(
            losses.items(), (("#D55E00", (0, (4, 2))), ("#0072B2", "-")), strict=True
        ):
            ax.plot(range(len(values)), values, color=colour, linestyle=style, marker="o", label=name)
        ax.set(xlabel="weights removed", ylabel="loss", xticks=range(max(map(len, losses.values()))))
        legend(figure, ax)
    return figure


def propagation(errors: Mapping[str, Mapping[str, np.ndarray]], spreads: np.ndarray) -> Figure:
    """What removing a unit changes in the next pre-activation, by its spread; a panel a nonlinearity."""
    kinds = {
        "bare removal": "#6E6E6E",
        "as printed, g(E[h] W)": "#D55E00",
        "mended, W g(E[h])": "#0072B2",
        "W E[g(h)]": "#009E73",
    }
    with panels(1, len(errors), 3.0, sharey=True) as (figure, axes):
        for ax, (title, lines) in zip(axes.flat, errors.items(), strict=True):
            for kind, colour in kinds.items():
                ax.plot(spreads, lines[kind], color=colour, label=kind)
            ax.set(title=title, xlabel="standard deviation of h", xscale="log", yscale="log")
        axes.flat[0].set_ylabel("root mean square error of\nthe next pre-activation")
        legend(figure, axes.flat[0])
    return figure
