"""Figures of chapter 2; each is a function of a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deadbook.analysis.measures import NAMES, SIGNED, rank_correlations, ratios_by_step, score_of
from deadbook.figures.style import (
    COLOURS,
    band,
    by_seed,
    in_order,
    mosaic,
    panels,
    penalties_by_step,
    picture,
    seen,
    title,
)

RUNS = {"": "#6E6E6E", "layer": "#0072B2", "network": "#D55E00"}  # colours by how a network was pruned
PRUNED_BY = {"": "not pruned", "layer": "by layer", "network": "over the network"}
FACTORS = {  # of the gradient (Eq. 2.4): colour and label
    "gradient": ("#D55E00", "gradient"),
    "by_image": ("#0072B2", "gradient of one image"),
    "output": ("#009E73", "output gradient of the unit"),
    "input": ("#6E6E6E", "input"),
}


def negative_share(scores: pd.DataFrame) -> Figure:
    """Figure 2.1: share of weights with a negative score over training, a panel an activation."""
    name = "share of weights with S < 0"
    with panels(1, scores["activation"].nunique(), 2.9, "step", name, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, scores.groupby("activation"), strict=True):
            for scorer in ("loss_change", "taylor1", "taylor2"):
                share = by_seed(rows.assign(negative=score_of(rows, scorer) < 0), "negative")
                band(ax, share, COLOURS[scorer], NAMES[scorer])
            ax.axhline(0.35, color="black", linewidth=0.9, linestyle=(0, (2, 3)), label="thesis: 0.35")
            ax.set(title=NAMES[activation], ylim=(0, 0.8))
    return figure


def penalties(
    rows: pd.DataFrame, scorers: Sequence[str], across: str, removed: Callable[[float], int]
) -> Figure:
    """Figures 2.2 and 2.3: penalties over training by scorer, a row a fraction, a column a value of `across`.

    Args:
        rows: table `penalties`.
        scorers: the scorers to compare.
        across: the column of the table that tells the panels of a row apart.
        removed: how many weights a fraction is.
    """
    fractions, columns = sorted(rows["fraction"].unique()), in_order(rows[across])
    name = "penalty in nats"
    if across != "activation":
        name += f", {' and '.join(map(NAMES.get, in_order(rows['activation'])))}"
    shape = (len(fractions), len(columns), 2.3 * len(fractions) + 0.3)
    # networks differ by a lot in their penalties, the sets of images do not
    shared = False if across == "activation" else "row"
    with panels(*shape, "step", name, sharey=shared, sharex=True) as (figure, axes):
        cells = itertools.product(fractions, columns)
        for ax, (fraction, column) in zip(axes.flat, cells, strict=True):
            chosen = (rows["fraction"] == fraction) & (rows[across] == column)
            penalties_by_step(ax, rows[chosen], scorers)
            ax.set_title(f"{removed(fraction):,} weights, {NAMES[column]}")
    return figure


def correlations(scores: pd.DataFrame) -> Figure:
    """How each score ranks the weights as the exact loss change does (Spearman), over training."""
    scorers = ("taylor1", "taylor2", "hessian", "diagonal", "magnitude")
    name = "rank correlation with\nthe exact loss change"
    with panels(1, scores["activation"].nunique(), 3.1, "step", name, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, scores.groupby("activation"), strict=True):
            there = {"taylor2", *rows.dropna(axis="columns", how="all")}
            known = [scorer for scorer in scorers if scorer in there]
            ranked = rows.groupby(["step", "seed"])[list(rows.columns)].apply(
                lambda weights, known=known: pd.Series(rank_correlations(weights, known))
            )
            for scorer in known:
                band(ax, ranked[scorer].unstack("seed"), COLOURS[scorer], NAMES[scorer])
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], ylim=(-1, 1))
    return figure


def signed_and_absolute(rows: pd.DataFrame) -> Figure:
    """Figure 2.5: penalty over training by signed and absolute scores of one fraction, a row a network."""
    activations, kinds = in_order(rows["activation"]), {"signed": "", "absolute": "_abs"}
    name = f"penalty in nats, f = {rows['fraction'].iloc[0]:g}"
    shape = (len(activations), 2, 2.5 * len(activations) + 0.3)
    with panels(*shape, "step", name, sharey="row", sharex=True) as (figure, axes):
        for ax, (activation, kind) in zip(axes.flat, itertools.product(activations, kinds), strict=True):
            scorers = [*(scorer + kinds[kind] for scorer in SIGNED), "magnitude"]
            penalties_by_step(ax, rows[rows["activation"] == activation], scorers)
            ax.set_title(f"{NAMES[activation]}, {kind} scores and magnitude")
    return figure


def penalty_by_scorer(rows: pd.DataFrame) -> Figure:
    """Figure 2.5 in one look: the mean penalty of each scorer by seed, and its deviation over training."""
    every = [scorer + end for scorer in (*SIGNED, "diagonal") for end in ("", "_abs")]
    order = [scorer for scorer in (*every, "magnitude", "random") if scorer in set(rows["scorer"])][::-1]
    activations = in_order(rows["activation"])
    shape = (len(activations), 2, 2.9 * len(activations))
    with panels(*shape, "penalty in nats", sharey=True) as (figure, axes):
        for line, activation in zip(axes, activations, strict=True):
            penalty = rows[rows["activation"] == activation].groupby(["scorer", "seed", "step"])["penalty"]
            by_run = penalty.mean().groupby(["scorer", "seed"])
            kinds = {"mean": by_run.mean(), "deviation": by_run.std()}
            for ax, (kind, values) in zip(line, kinds.items(), strict=True):
                for place, scorer in enumerate(order):
                    if scorer in values.index.get_level_values("scorer"):
                        name = scorer.removesuffix("_abs")
                        filled = name != scorer or scorer in ("magnitude", "random")
                        points = {"color": COLOURS[name], "markersize": 5}
                        points["markerfacecolor"] = COLOURS[name] if filled else "none"
                        ax.plot(values[scorer], [place] * len(values[scorer]), "o", **points)
                ax.set_title(f"{NAMES[activation]}, {kind}")
                ax.set_xlim(left=min(0, ax.get_xlim()[0]))
                ax.grid(axis="x")
            line[0].set_yticks(range(len(order)), map(title, order))
    return figure


def error_signals(signals: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Eq. 2.4 on the run: what weights with a negative loss change have of each factor, over the others'."""
    ratios = ratios_by_step(signals, scores)
    name = "weights with S < 0\nover weights with S ≥ 0"
    with panels(1, signals["activation"].nunique(), 3.1, "step", name, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, ratios.groupby("activation"), strict=True):
            for column, (colour, label) in FACTORS.items():
                band(ax, rows[column].droplevel("activation").unstack("seed"), colour, label, smooth=3)
            ax.axhline(1, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], ylim=(0, max(1.6, ax.get_ylim()[1])))
    return figure


def schedule(
    training: pd.DataFrame, labels: Mapping[str, str] = PRUNED_BY, of: str = "the weights"
) -> Figure:
    """Figures 2.8 and 4.6: loss of networks pruned by schedule and of their unpruned twins; share pruned.

    Args:
        training: table `training` of pruned runs and of their twins.
        labels: by how a run was pruned, "" for not at all.
        of: what the share is a share of.
    """
    known = in_order(training["pruned_by"], ("", "layer", "network"))
    with panels(2, 1, 4.6, "step", sharex=True, height_ratios=(3, 1)) as (figure, axes):
        loss, share = axes.flat
        for by in known:
            rows = training[training["pruned_by"] == by]
            band(loss, by_seed(rows, "train_probe"), RUNS[by], labels[by], smooth=1)
            if by != "network" or "layer" not in known:  # the same fractions, wherever they are taken from
                pruned = by_seed(rows, "pruned")
                share.step(pruned.index, pruned.mean(axis=1), where="post", color=RUNS[by])
        loss.set(ylabel="loss in nats", yscale="log", title="loss on images trained on")
        share.set(ylabel="share", ylim=(-0.03, 1), title=f"share of {of} pruned")
        loss.legend(loc="upper right")
    return figure


def survivors(ranks: np.ndarray, left: int) -> Figure:
    """A picture of a layer's weights, (units, channels, height, width): the best `left` of them.

    Dark is a high rank. No text.
    """
    shown = np.where(ranks < ranks.size - left, np.nan, ranks)
    return picture(mosaic(shown), "cividis_r", ranks.size - 1)


def without_weights(rows: pd.DataFrame, scorer: str, fraction: float) -> Figure:
    """Accuracy and loss over the fraction of weights taken out, a line a score; one of them marked.

    Args:
        rows: table `pruned` of `explorer`.
    """
    columns = {"accuracy": ("test accuracy in %", 100), "loss": ("loss in nats", 1)}
    with panels(1, 2, 2.9, "fraction taken out") as (figure, axes):
        for ax, (column, (label, factor)) in zip(axes.flat, columns.items(), strict=True):
            for name, points in rows.groupby("scorer", sort=False):
                values = factor * points.sort_values("fraction").set_index("fraction")[column]
                style = {"color": COLOURS[name.removesuffix("_abs")], "label": title(name)}
                style |= {"linestyle": "--" if name.endswith("_abs") else "-"}
                ax.plot(values.index, values, linewidth=3 if name == scorer else 1.2, **style)
                if name == scorer:
                    ax.plot(fraction, values[fraction], "o", color="black", markersize=7, zorder=5)
            ax.set_ylabel(label)
    return figure


def jumps(pruned: pd.DataFrame, twins: pd.DataFrame) -> Figure:
    """What each pruning of a schedule costs at once, by layer and over the network, on both sets."""
    shape = (1, 2, 2.9, "fraction pruned", "jump of the loss in nats")
    with panels(*shape, sharey=True) as (figure, axes):
        for ax, images in zip(axes.flat, ("probe", "other"), strict=True):
            prunings = pruned[pruned["set"] == images]
            prunings = prunings.assign(jump=prunings["after"] - prunings["before"])
            for shift, (by, rows) in enumerate(prunings.groupby("pruned_by")):
                jump = by_seed(rows, "jump", "fraction")
                place = np.arange(len(jump)) + 0.16 * (shift - 0.5)
                for seed in jump:
                    style = {"color": RUNS[by], "markersize": 5, "alpha": 0.75} | seen(seed, jump)
                    ax.plot(place, jump[seed], "o", **style)
                ax.plot([], [], "o", color=RUNS[by], label=PRUNED_BY[by])
                ax.set_xticks(range(len(jump)), [f"{fraction:g}" for fraction in jump.index])
            changes = twins.sort_values("step").groupby("seed")[images].diff()
            ax.axhline(changes.quantile(0.99), color="black", linewidth=0.9, linestyle=(0, (2, 3)))
            ax.set_title(NAMES[images])
            ax.set_yscale("symlog", linthresh=0.01)
        axes.flat[0].legend(loc="upper left")
    return figure


def removal(rows: pd.DataFrame, total: int) -> Figure:
    """Figure 2.11: parameters left and accuracy, as far as it falls by 8 points, when units are removed."""
    with panels(1, 2, 3.0, "fnz") as (figure, axes):
        left, right = axes.flat
        for by, networks in rows.groupby("pruned_by"):
            size = by_seed(networks[networks["carried"]], "parameters", "fnz")
            band(left, size, RUNS[by], PRUNED_BY[by], smooth=1)
            for carried, style in {True: "-", False: (0, (3, 2))}.items():
                values = by_seed(networks[networks["carried"] == carried], "test_accuracy", "fnz")
                values = 100 * values.mean(axis=1)
                right.plot(values.index, values, color=RUNS[by], linestyle=style)
        left.axhline(total, color="black", linewidth=0.9, linestyle=(0, (2, 3)))
        at_right = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
        left.annotate("dense", (1, total), (-2, -11), fontsize=8.5, **at_right)
        left.set(title="parameters left", ylim=(0, 1.06 * total))
        highest = 100 * rows["test_accuracy"].max()
        right.set(title="test accuracy in %, dashed: constant dropped", ylim=(highest - 8, highest + 0.5))
    return figure
