"""The one style of the book's figures: colours, sizes, a band over the seeds, pictures of weights.

Line figures are SVG in black on a transparent ground, which the site recolours for its dark theme. Pictures
(filters) are PNG without text, in colours that stand on both grounds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from deadbook.analysis.measures import CONFIRMATION, NAMES

# Okabe and Ito's colours, which colour-blind readers can tell apart; a scorer keeps its own in all chapters.
COLOURS = {
    "loss_change": "#0072B2",
    "taylor1": "#D55E00",
    "taylor2": "#CC79A7",
    "hessian": "#E69F00",
    "diagonal": "#56B4E9",
    "magnitude": "#009E73",
    "random": "#6E6E6E",
    "mrp": "#0072B2",  # of units: exact as the loss change, first order as Taylor 1, norms as magnitude
    "mrs": "#D55E00",
    "norm_l1": "#009E73",
    "norm_l2": "#CC79A7",
    "taylor": "#E69F00",
    "mean_activation": "#56B4E9",
}
# In an SVG file: where coordinates stand (not scales and opacities), and a number that is too long.
COORDINATES = re.compile(r'\s(?:d|x|y|x1|y1|x2|y2|width|height|points|viewBox)="[^"]*"|translate\([^)]*\)')
LONG = re.compile(r"-?\d+\.\d{3,}")
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
NOTHING = "no measurements to show: not run yet, diverged, too few, or nothing was attacked"
SMOOTH = 9  # measurements in the running mean


def use() -> None:
    """Show the figures of a notebook as SVG, the same text each time and on each processor."""
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    mpl.rcParams.update(STYLE)
    set_matplotlib_formats("svg")
    formatters = get_ipython().display_formatter.formatters
    formatters["image/svg+xml"].for_type(Figure, lambda figure: svg(figure, bbox_inches="tight").decode())


def ranks(scores: np.ndarray, mark: bool = True) -> Figure:
    """A picture of a layer's weights, each coloured by its rank among all: (units, channels, height, width).

    Light is a low score (pruned first), dark a high one; with `mark`, a ring marks a negative score. No text.
    """
    order = scores.ravel().argsort(kind="stable").argsort(kind="stable").reshape(scores.shape)
    negative = np.argwhere(mosaic(scores) < 0) if mark and scores.shape[1] == 1 else None
    return picture(mosaic(order), "cividis_r", scores.size - 1, negative)


def magnitudes(values: np.ndarray) -> Figure:
    """Figures 2.9 and 2.10: sizes of weights, (units, channels, height, width). Light is large. No text.

    Of a convolution, a square is a filter, a column a unit and a row an incoming channel; a linear layer
    (height and width 1) is a matrix whose rows are units.
    """
    return picture(mosaic(np.abs(values)), "cividis", np.abs(values).max())


def samples(images: np.ndarray) -> Figure:
    """Figure 2.7: images (N, channels, height, width), of one channel or three, side by side. No text."""
    images = (images - images.min()) / (images.max() - images.min())
    if images.shape[1] == 1:
        return picture(mosaic(images), "gray_r", 1)
    return picture(np.concatenate(images.transpose(0, 2, 3, 1), axis=1), None, 1)


def title(scorer: str) -> str:
    """The name of a scorer, or of a row of the table `costs`, as it is written."""
    of_layers = scorer.endswith(" of layers")
    scorer = scorer.removesuffix(" of layers")
    name = NAMES.get(scorer.removesuffix("_abs"), scorer)
    return name + (", absolute" if scorer.endswith("_abs") else "") + (", of the layer" if of_layers else "")


def png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as a PNG file on a transparent ground, in so few colours that it is small."""
    file, small = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, transparent=True)
    Image.open(file).quantize(128, Image.Quantize.FASTOCTREE).save(small, "png", optimize=True)
    return small.getvalue()


def svg(figure: Figure, **how: object) -> bytes:
    """The figure as an SVG file, the same text each time; coordinates to a hundredth of a point.

    On another processor a coordinate differs in its last digits, and matplotlib's ids are hashes of paths: so
    coordinates are rounded, and ids are numbers in order behind a hash of all the rest.
    """
    file = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, **how)
    text = COORDINATES.sub(lambda part: LONG.sub(_shorter, part[0]), file.getvalue())
    names = dict.fromkeys(re.findall(r' id="([^"]+)"', text))
    order = {name: f"\0{number}" for number, name in enumerate(names)}
    text = re.sub(r'( id="|"#|\(#)([^")]+)', lambda at: at[1] + order.get(at[2], at[2]), text)
    return text.replace("\0", f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}-").encode()


def _shorter(number: re.Match) -> str:
    rounded = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if rounded == "-0" else rounded


def or_nothing(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Of an empty table a figure that says so: the page refers to it by its number."""

    @functools.wraps(draw)
    def drawn(rows: pd.DataFrame | Mapping[str, pd.DataFrame], *others: object, **options: object) -> Figure:
        if isinstance(rows, Mapping):
            rows = {name: _drawable(table) for name, table in rows.items() if len(table)}
        if len(rows):
            return draw(_drawable(rows), *map(_drawable, others), **options)
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, 0.6))
            figure.text(0.5, 0.5, NOTHING, ha="center", va="center")
        return figure

    return drawn


def _drawable(table: Any) -> Any:
    """A table without the numbers of a training that is about to diverge, which no axis can hold."""
    if not isinstance(table, pd.DataFrame):
        return table
    numbers = table.select_dtypes("float")
    return table.assign(**numbers.astype(float).where(numbers.abs() < 1e30))


@contextlib.contextmanager
def panels(
    rows: int,
    columns: int,
    height: float,
    xlabel: str = "",
    ylabel: str = "",
    titles: Iterable[str] = (),
    **shared: object,
) -> Iterator[tuple[Figure, np.ndarray]]:
    """Rows and columns of panels, labelled at the edges; above them the first panel's legend."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **shared)
        for ax in axes[-1]:
            ax.set_xlabel(xlabel)
        for ax in axes[:, 0]:
            ax.set_ylabel(ylabel)
        for ax, title in zip(axes[0], titles, strict=False):
            ax.set_title(title)
        yield figure, axes
        if axes[0, 0].get_legend() is None:
            legend(figure, axes[0, 0])


def mosaic(values: np.ndarray) -> np.ndarray:
    """(units, channels, height, width) as one picture with gaps between the squares, which are NaN."""
    units, channels, height, width = values.shape
    if height == width == 1:
        return values[:, :, 0, 0]
    gaps = ((0, 0), (0, 0), (0, 1), (0, 1))
    padded = np.pad(values.astype(float), gaps, constant_values=np.nan).transpose(1, 0, 2, 3)
    rows, columns = channels, units
    return padded.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


def picture(values: np.ndarray, cmap: str | None, highest: float, points: np.ndarray | None = None) -> Figure:
    height, width = values.shape[:2]
    inches = min(WIDTH / width, 2.4 / height, 0.16)  # a cell
    figure = Figure(figsize=(width * inches, height * inches))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(values, cmap=cmap, vmin=0, vmax=highest or 1, interpolation="nearest", aspect="auto")
    if points is not None:
        x, y = points[:, 1], points[:, 0]
        ax.scatter(x, y, s=9, facecolors="none", edgecolors="#B0307A", linewidths=0.9)
    ax.set_axis_off()
    return figure


def in_order(
    column: pd.Series, order: Sequence[str] = ("relu", "tanh", "own", "probe", "other")
) -> list[str]:
    present = set(column)
    return [name for name in order if name in present]


def legend(figure: Figure, ax: Axes) -> None:
    """That of one panel, above all of them."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        columns = min(len(labels), 5)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.4)


def by_seed(rows: pd.DataFrame, column: str = "penalty", x: str = "step") -> pd.DataFrame:
    """Means of a column: a row a value of `x`, a column a seed."""
    return rows.groupby([x, "seed"])[column].mean().unstack("seed")


def seen(seed: int, among: Iterable[int]) -> dict[str, str]:
    """The style of a point: open for a seed of the exploration, where there are others among the seeds."""
    decided = set(among) & set(CONFIRMATION)
    return {"markerfacecolor": "none"} if decided and seed not in decided else {}


def penalties_by_step(ax: Axes, rows: pd.DataFrame, scorers: Sequence[str]) -> None:
    """A band a scorer that is in the rows, and a line at 0; absolute scores look like signed ones."""
    for scorer in scorers:
        penalty, name = by_seed(rows[rows["scorer"] == scorer]), scorer.removesuffix("_abs")
        if len(penalty):
            band(ax, penalty, COLOURS[name], NAMES[name])
    ax.axhline(0, color="black", linewidth=0.9)


def band(
    ax: Axes, values: pd.DataFrame, colour: str, label: str, smooth: int = SMOOTH, alpha: float = 0.2
) -> None:
    """The running mean over steps, averaged over the seeds (columns), and the band they span."""
    window = min(smooth, max(1, len(values) // 4))
    smooth = values.rolling(window, center=True, min_periods=1).mean()
    marker = "o" if len(smooth) == 1 else None  # a single measurement would be no line
    ax.plot(smooth.index, smooth.mean(axis=1), color=colour, label=label, marker=marker)
    if smooth.shape[1] > 1:
        ax.fill_between(smooth.index, smooth.min(axis=1), smooth.max(axis=1), color=colour, alpha=alpha, lw=0)
