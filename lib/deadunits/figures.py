"""The one style of the book's figures; each figure is a function of a table.

Line figures are SVG in black on a transparent ground, which the site recolours for its dark theme. Pictures
(filters) are PNG without text, in colours that stand on both grounds.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; a scorer keeps its own in all chapters.
COLOURS = {"loss_change": "#0072B2", "taylor1": "#D55E00", "random": "#6E6E6E", "magnitude": "#009E73"}
NAMES = {
    "loss_change": "exact loss change",
    "taylor1": "Taylor 1",
    "random": "random",
    "relu": "ReLU",
    "tanh": "tanh",
    "probe": "images scored on",
    "other": "other images",
}
STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#B8B8B8",
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "svg.hashsalt": "deadunits",  # the same figure gives the same file
}
WIDTH = 7.2  # inches, as wide as the text
SMOOTH = 9  # measurements in the running mean


def use() -> None:
    """Show the figures of a notebook as SVG, the same bytes each time."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    mpl.rcParams.update(STYLE)
    set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def negative_share(scores: pd.DataFrame) -> Figure:
    """Figure 2.1: share of weights with a negative score over training, a panel an activation."""
    with _figure(1, scores["activation"].nunique(), height=2.9, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, scores.groupby("activation"), strict=True):
            for scorer in ("loss_change", "taylor1"):
                share = (rows[scorer] < 0).groupby([rows["step"], rows["seed"]]).mean().unstack("seed")
                _spread(ax, share, COLOURS[scorer], NAMES[scorer])
            ax.axhline(0.35, color="black", linewidth=0.9, linestyle=(0, (2, 3)))
            ax.set(title=NAMES[activation], xlabel="step", ylim=(0, 0.7))
        axes.flat[0].set_ylabel("share of weights with S < 0")
        axes.flat[0].annotate("thesis: 0.35", (1, 0.35), (-2, 3), **_AT_RIGHT)
        axes.flat[-1].legend(loc="upper right")
    return figure


def penalties(rows: pd.DataFrame) -> Figure:
    """Figure 2.2: penalty of pruning by loss change or at random, a row a fraction, a column a set."""
    fractions = sorted(rows["fraction"].unique())
    with _figure(len(fractions), 2, height=2.3 * len(fractions), sharey="row", sharex=True) as (figure, axes):
        for line, fraction in zip(axes, fractions, strict=True):
            for ax, name in zip(line, ("probe", "other"), strict=True):
                here = rows[(rows["fraction"] == fraction) & (rows["set"] == name)]
                for scorer in ("random", "loss_change"):
                    mine = here[here["scorer"] == scorer]
                    penalty = mine.groupby(["step", "seed"])["penalty"].mean().unstack("seed")
                    _spread(ax, penalty, COLOURS[scorer], NAMES[scorer])
                ax.axhline(0, color="black", linewidth=0.9)
                ax.set_title(f"{round(fraction * 200)} weights, {NAMES[name]}")
            line[0].set_ylabel("penalty in nats")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        axes[0, -1].legend(loc="best")
    return figure


def filters(scores: np.ndarray) -> Figure:
    """A picture of filters, each weight coloured by its rank among all of them: (filters, H, W).

    Light is a low score (first to go), dark a high one; a ring marks a negative score. No text.
    """
    count = len(scores)
    ranks = scores.ravel().argsort(kind="stable").argsort(kind="stable").reshape(scores.shape)
    figure = Figure(figsize=(count * 0.82, 0.86))
    for ax, rank, score in zip(figure.subplots(1, count), ranks, scores, strict=True):
        ax.imshow(rank, cmap="cividis_r", vmin=0, vmax=scores.size - 1)
        negative = np.argwhere(score < 0)
        ax.scatter(
            negative[:, 1], negative[:, 0], s=9, facecolors="none", edgecolors="#B0307A", linewidths=0.9
        )
        ax.set_axis_off()
    figure.subplots_adjust(0.005, 0.02, 0.995, 0.98, wspace=0.08)
    return figure


def png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as a PNG file on a transparent ground."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, transparent=True, metadata={"Software": None})
    return file.getvalue()


_AT_RIGHT = {
    "xycoords": ("axes fraction", "data"),
    "textcoords": "offset points",
    "ha": "right",
    "fontsize": 8.5,
}


@contextlib.contextmanager
def _figure(rows: int, columns: int, height: float, **shared: object) -> Iterator[tuple[Figure, np.ndarray]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **shared)


def _spread(ax: Axes, values: pd.DataFrame, colour: str, label: str) -> None:
    """The running mean over steps, averaged over the seeds (columns), and the band they span."""
    smooth = values.rolling(min(SMOOTH, max(1, len(values) // 4)), center=True, min_periods=1).mean()
    ax.plot(smooth.index, smooth.mean(axis=1), color=colour, label=label)
    if smooth.shape[1] > 1:
        ax.fill_between(smooth.index, smooth.min(axis=1), smooth.max(axis=1), color=colour, alpha=0.2, lw=0)
