"""The one style of the book's figures; each figure is a function of a table.

Line figures are SVG in black on a transparent ground, which the site recolours for its dark theme. Pictures
(filters) are PNG without text, in colours that stand on both grounds.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from deadunits.measures import NAMES, SIGNED, rank_correlations, ratios_by_step, score_of
from deadunits.pruning import count

# Okabe and Ito's colours, which colour-blind readers can tell apart; a scorer keeps its own in all chapters.
COLOURS = {
    "loss_change": "#0072B2",
    "taylor1": "#D55E00",
    "taylor2": "#CC79A7",
    "hessian": "#E69F00",
    "diagonal": "#56B4E9",
    "magnitude": "#009E73",
    "random": "#6E6E6E",
}
RUNS = {"": "#6E6E6E", "layer": "#0072B2", "network": "#D55E00"}  # colours by how a network was pruned
PRUNED_BY = {"": "not pruned", "layer": "by layer", "network": "over the network"}
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
FACTORS = {  # of the gradient (Eq. 2.4): colour and label
    "gradient": ("#D55E00", "gradient"),
    "by_image": ("#0072B2", "gradient of one image"),
    "output": ("#009E73", "output gradient of the unit"),
    "input": ("#6E6E6E", "input"),
}


def use() -> None:
    """Show the figures of a notebook as SVG, the same bytes each time."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    mpl.rcParams.update(STYLE)
    set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def negative_share(scores: pd.DataFrame) -> Figure:
    """Figure 2.1: share of weights with a negative score over training, a panel an activation."""
    with _figure(1, scores["activation"].nunique(), height=2.9, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, scores.groupby("activation"), strict=True):
            for scorer in ("loss_change", "taylor1", "taylor2"):
                negative = score_of(rows, scorer) < 0
                share = negative.groupby([rows["step"], rows["seed"]]).mean().unstack("seed")
                _spread(ax, share, COLOURS[scorer], NAMES[scorer])
            ax.axhline(0.35, color="black", linewidth=0.9, linestyle=(0, (2, 3)), label="thesis: 0.35")
            ax.set(title=NAMES[activation], xlabel="step", ylim=(0, 0.8))
        axes.flat[0].set_ylabel("share of weights with S < 0")
        _legend(figure, axes.flat[0])
    return figure


def penalties(rows: pd.DataFrame, scorers: Sequence[str], across: str, size: int) -> Figure:
    """Figures 2.2 and 2.3: penalties over training by scorer, a row a fraction, a column a value of `across`.

    Args:
        rows: table `penalties`.
        scorers: the scorers to compare.
        across: the column of the table that tells the panels of a row apart.
        size: how many weights there are to choose from.
    """
    fractions, columns = sorted(rows["fraction"].unique()), _in_order(rows[across])
    with _figure(len(fractions), len(columns), 2.3 * len(fractions) + 0.3, sharey="row", sharex=True) as (
        figure,
        axes,
    ):
        for line, fraction in zip(axes, fractions, strict=True):
            for ax, name in zip(line, columns, strict=True):
                here = rows[(rows["fraction"] == fraction) & (rows[across] == name)]
                for scorer in scorers:
                    mine = here[here["scorer"] == scorer]
                    penalty = mine.groupby(["step", "seed"])["penalty"].mean().unstack("seed")
                    if len(penalty):
                        _spread(ax, penalty, COLOURS[scorer], NAMES[scorer])
                ax.axhline(0, color="black", linewidth=0.9)
                ax.set_title(f"{count(fraction, size)} weights, {NAMES[name]}")
            line[0].set_ylabel("penalty in nats")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        _legend(figure, axes[0, 0])
    return figure


def correlations(scores: pd.DataFrame) -> Figure:
    """How each score ranks the weights as the exact loss change does (Spearman), over training."""
    scorers = ("taylor1", "taylor2", "hessian", "diagonal", "magnitude")
    with _figure(1, scores["activation"].nunique(), height=3.1, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, scores.groupby("activation"), strict=True):
            known = [one for one in scorers if one == "taylor2" or (one in rows and rows[one].notna().any())]
            found = rows.groupby(["step", "seed"])[list(rows.columns)].apply(
                lambda one, known=known: pd.Series(rank_correlations(one, known))
            )
            for scorer in known:
                _spread(ax, found[scorer].unstack("seed"), COLOURS[scorer], NAMES[scorer])
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], xlabel="step", ylim=(-1, 1))
        axes.flat[0].set_ylabel("rank correlation with\nthe exact loss change")
        _legend(figure, axes.flat[0])
    return figure


def signed_and_absolute(rows: pd.DataFrame) -> Figure:
    """Figure 2.5: penalty over training by signed and by absolute scores, a row a network."""
    activations = _in_order(rows["activation"])
    with _figure(len(activations), 2, height=2.5 * len(activations) + 0.3, sharey="row", sharex=True) as (
        figure,
        axes,
    ):
        for line, activation in zip(axes, activations, strict=True):
            here = rows[rows["activation"] == activation]
            for ax, (kind, ending) in zip(line, {"signed": "", "absolute": "_abs"}.items(), strict=True):
                for scorer in (*SIGNED, "magnitude"):
                    name = scorer if scorer == "magnitude" else scorer + ending
                    mine = here[here["scorer"] == name]
                    penalty = mine.groupby(["step", "seed"])["penalty"].mean().unstack("seed")
                    _spread(ax, penalty, COLOURS[scorer], NAMES[scorer])
                ax.axhline(0, color="black", linewidth=0.9)
                ax.set_title(f"{NAMES[activation]}, {kind} scores and magnitude")
            line[0].set_ylabel("penalty in nats")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        _legend(figure, axes[0, 0])
    return figure


def penalty_by_scorer(rows: pd.DataFrame) -> Figure:
    """Figure 2.5 in one look: the mean penalty of each scorer by seed, and its deviation over training."""
    every = [*(f"{one}{end}" for one in (*SIGNED, "diagonal") for end in ("", "_abs")), "magnitude", "random"]
    order = [scorer for scorer in every if scorer in set(rows["scorer"])]
    activations = _in_order(rows["activation"])
    with _figure(len(activations), 2, height=2.9 * len(activations), sharey=True) as (figure, axes):
        for line, activation in zip(axes, activations, strict=True):
            here = rows[rows["activation"] == activation]
            by_step = here.groupby(["scorer", "seed", "step"])["penalty"].mean().groupby(["scorer", "seed"])
            for ax, (what, values) in zip(
                line, {"mean": by_step.mean(), "deviation": by_step.std()}.items(), strict=True
            ):
                for place, scorer in enumerate(reversed(order)):
                    if scorer not in values.index.get_level_values("scorer"):
                        continue
                    own = values[scorer]
                    signed = scorer.removesuffix("_abs")
                    filled = (
                        COLOURS[signed] if signed != scorer or scorer in ("magnitude", "random") else "none"
                    )
                    ax.plot(
                        own,
                        [place] * len(own),
                        "o",
                        color=COLOURS[signed],
                        markerfacecolor=filled,
                        markersize=5,
                    )
                ax.set_title(f"{NAMES[activation]}, {what}")
                ax.set_xlim(left=min(0, ax.get_xlim()[0]))
                ax.grid(axis="x")
            names = [title(one) for one in order]
            line[0].set_yticks(range(len(order)), names[::-1])
        for ax in axes[-1]:
            ax.set_xlabel("penalty in nats")
    return figure


def error_signals(signals: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Eq. 2.4 on the run: what weights with a negative loss change have of each factor, over the others'."""
    ratios = ratios_by_step(signals, scores)
    with _figure(1, signals["activation"].nunique(), height=3.1, sharey=True) as (figure, axes):
        for ax, (activation, here) in zip(axes.flat, ratios.groupby("activation"), strict=True):
            for column, (colour, label) in FACTORS.items():
                by_seed = here[column].droplevel("activation").unstack("seed")
                _spread(ax, by_seed, colour, label, smooth=3)
            ax.axhline(1, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], xlabel="step")
            ax.set_ylim(0, max(1.6, ax.get_ylim()[1]))
        axes.flat[0].set_ylabel("weights with S < 0\nover weights with S ≥ 0")
        _legend(figure, axes.flat[0])
    return figure


def schedule(training: pd.DataFrame) -> Figure:
    """Figure 2.8: loss of networks pruned by schedule and of their unpruned twins, and the share pruned."""
    with _figure(2, 1, height=4.6, sharex=True, height_ratios=(3, 1)) as (figure, axes):
        for by in _in_order(training["pruned_by"], ("", "layer", "network")):
            rows = training[training["pruned_by"] == by]
            loss = rows.pivot_table(index="step", columns="seed", values="train_probe")
            _spread(axes[0, 0], loss, RUNS[by], PRUNED_BY[by], smooth=1)
            if by != "network":  # the same fractions, wherever they are taken from
                share = rows.pivot_table(index="step", columns="seed", values="pruned")
                axes[1, 0].step(share.index, share.mean(axis=1), where="post", color=RUNS[by])
        axes[0, 0].set(ylabel="loss in nats", yscale="log", title="loss on images trained on")
        axes[1, 0].set(ylabel="share", xlabel="step", ylim=(-0.03, 1), title="share of the weights pruned")
        axes[0, 0].legend(loc="upper right")
    return figure


def jumps(pruned: pd.DataFrame, twins: pd.DataFrame) -> Figure:
    """What each pruning of a schedule costs at once, by layer and over the network, on both sets."""
    with _figure(1, 2, height=2.9, sharey=True) as (figure, axes):
        for ax, name in zip(axes.flat, ("probe", "other"), strict=True):
            here = pruned[pruned["set"] == name]
            for shift, (by, rows) in enumerate(here.groupby("pruned_by")):
                jump = (rows["after"] - rows["before"]).groupby([rows["fraction"], rows["seed"]]).mean()
                jump = jump.unstack("seed")
                place = np.arange(len(jump)) + 0.16 * (shift - 0.5)
                for seed in jump:
                    ax.plot(place, jump[seed], "o", color=RUNS[by], markersize=5, alpha=0.75)
                ax.plot([], [], "o", color=RUNS[by], label=PRUNED_BY[by])
                ax.set_xticks(range(len(jump)), [f"{fraction:g}" for fraction in jump.index])
            changes = twins.sort_values("step").groupby("seed")[name].diff()
            ax.axhline(changes.quantile(0.99), color="black", linewidth=0.9, linestyle=(0, (2, 3)))
            ax.set(title=NAMES[name], xlabel="fraction pruned", yscale="symlog")
            ax.set_yscale("symlog", linthresh=0.01)
        axes.flat[0].set_ylabel("jump of the loss in nats")
        axes.flat[0].legend(loc="upper left")
    return figure


def removal(rows: pd.DataFrame, total: int) -> Figure:
    """Figure 2.11: parameters left and accuracy, as far as it falls by 8 points, when units are removed."""
    with _figure(1, 2, height=3.0) as (figure, axes):
        left, right = axes.flat
        for by, some in rows.groupby("pruned_by"):
            kept = some[some["carried"]].pivot_table(index="fnz", columns="seed", values="parameters")
            _spread(left, kept, RUNS[by], PRUNED_BY[by], smooth=1)
            for carried, style in {True: "-", False: (0, (3, 2))}.items():
                chosen = some[some["carried"] == carried]
                accuracy = chosen.pivot_table(index="fnz", columns="seed", values="test_accuracy")
                label = f"{PRUNED_BY[by]}, constant {'carried on' if carried else 'dropped'}"
                right.plot(
                    accuracy.index, 100 * accuracy.mean(axis=1), color=RUNS[by], linestyle=style, label=label
                )
        left.axhline(total, color="black", linewidth=0.9, linestyle=(0, (2, 3)))
        left.annotate("dense", (1, total), (-2, -11), **_AT_RIGHT)
        left.set(title="parameters left", xlabel="fnz", ylim=(0, 1.06 * total))
        top = 100 * rows["test_accuracy"].max()
        right.set(title="test accuracy in %", xlabel="fnz", ylim=(top - 8, top + 0.5))
        left.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
        right.legend(loc="center right", fontsize=8.5)
    return figure


def ranks(scores: np.ndarray, mark: bool = True) -> Figure:
    """A picture of a layer's weights, each coloured by its rank among all: (units, channels, height, width).

    Light is a low score (first to go), dark a high one; with `mark`, a ring marks a negative score. No text.
    """
    order = scores.ravel().argsort(kind="stable").argsort(kind="stable").reshape(scores.shape)
    negative = np.argwhere(_mosaic(scores) < 0) if mark and scores.shape[1] == 1 else None
    return _picture(_mosaic(order), "cividis_r", scores.size - 1, negative)


def magnitudes(values: np.ndarray) -> Figure:
    """Figures 2.9 and 2.10: sizes of weights, (units, channels, height, width). Light is large. No text.

    Of a convolution, a square is a filter, a column a unit and a row an incoming channel; a linear layer
    (height and width 1) is a matrix whose rows are units.
    """
    return _picture(_mosaic(np.abs(values)), "cividis", np.abs(values).max())


def samples(images: np.ndarray) -> Figure:
    """Figure 2.7: images (N, channels, height, width), of one channel or three, side by side. No text."""
    images = (images - images.min()) / (images.max() - images.min())
    if images.shape[1] == 1:
        return _picture(_mosaic(images), "gray_r", 1)
    return _picture(np.concatenate(images.transpose(0, 2, 3, 1), axis=1), None, 1)


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


def _mosaic(values: np.ndarray) -> np.ndarray:
    """(units, channels, height, width) as one picture with gaps between the squares, which are NaN."""
    units, channels, height, width = values.shape
    if height == width == 1:
        return values[:, :, 0, 0]
    gaps = ((0, 0), (0, 0), (0, 1), (0, 1))
    padded = np.pad(values.astype(float), gaps, constant_values=np.nan).transpose(1, 0, 2, 3)
    rows, columns = channels, units
    return padded.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


def _picture(values: np.ndarray, cmap: str | None, top: float, points: np.ndarray | None = None) -> Figure:
    height, width = values.shape[:2]
    inches = min(WIDTH / width, 2.4 / height, 0.16)  # a cell
    figure = Figure(figsize=(width * inches, height * inches))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(values, cmap=cmap, vmin=0, vmax=top or 1, interpolation="nearest", aspect="auto")
    if points is not None:
        x, y = points[:, 1], points[:, 0]
        ax.scatter(x, y, s=9, facecolors="none", edgecolors="#B0307A", linewidths=0.9)
    ax.set_axis_off()
    return figure


def _in_order(
    column: pd.Series, order: Sequence[str] = ("relu", "tanh", "own", "probe", "other")
) -> list[str]:
    present = set(column)
    return [name for name in order if name in present]


def _legend(figure: Figure, ax: Axes) -> None:
    """One for all panels, above them."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 5), handlelength=1.4)


def _spread(ax: Axes, values: pd.DataFrame, colour: str, label: str, smooth: int = SMOOTH) -> None:
    """The running mean over steps, averaged over the seeds (columns), and the band they span."""
    window = min(smooth, max(1, len(values) // 4))
    smooth = values.rolling(window, center=True, min_periods=1).mean()
    marker = "o" if len(smooth) == 1 else None  # a single measurement would be no line
    ax.plot(smooth.index, smooth.mean(axis=1), color=colour, label=label, marker=marker)
    if smooth.shape[1] > 1:
        ax.fill_between(smooth.index, smooth.min(axis=1), smooth.max(axis=1), color=colour, alpha=0.2, lw=0)
