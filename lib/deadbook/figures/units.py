"""Figures of chapter 4; each is a function of a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deadbook.analysis.measures import NAMES, unit_correlations
from deadbook.figures.style import COLOURS, band, by_seed, in_order, panels, penalties_by_step, seen
from deadunits.counting import count

THESIS = ("mrp", "mrs", "norm_l1", "norm_l2")
CONSTANTS = {  # what replaces a unit: colour and label
    "mean of h": ("#0072B2", "mean of h"),
    "mean of a": ("#D55E00", "mean of a"),
    "median of h": ("#009E73", "median of h"),
    "zero": ("#6E6E6E", "0 (bare removal)"),
}


def worth(rows: pd.DataFrame, below: float = 0.05) -> Figure:
    """What each unit of a trained network is worth: MRP in descending order, a panel a layer, a line a seed.

    Args:
        rows: table `scores` of one measurement, of several seeds.
        below: units at most this times the mean of their layer are dead (Def. 3.2.2), and marked.
    """
    layers, floor = list(dict.fromkeys(rows["layer"])), 1e-6
    name = "change of the loss\nwithout it, in nats"
    with panels(1, len(layers), 2.9, ylabel=name, sharey=True) as (figure, axes):
        for ax, layer in zip(axes.flat, layers, strict=True):
            for _, units in rows[rows["layer"] == layer].groupby("seed"):
                penalty = np.sort(units["mrp"].to_numpy())[::-1]
                shown, place = np.maximum(penalty, floor), np.arange(1, len(penalty) + 1)
                dead = penalty <= below * penalty.mean()
                ax.plot(place, shown, color="#0072B2", linewidth=0.8, alpha=0.5)
                for which, colour in ((~dead, "#0072B2"), (dead, "#D55E00")):
                    ax.plot(place[which], shown[which], "o", color=colour, markersize=3.5)
            ax.set(yscale="log", ylim=(floor / 2, 10), title=f"{layer}, {len(penalty)} units")
            ax.set(xticks=[1, len(penalty) // 2, len(penalty)], xlabel="rank of the unit")
            ax.minorticks_off()
        axes.flat[0].set_yticks([1e-6, 1e-4, 1e-2, 1], ["0", "0.0001", "0.01", "1"])
    return figure


def unit_penalties(rows: pd.DataFrame, fraction: float, size: int) -> Figure:
    """Figures 4.1, 4.2 and 4.5: penalties over training, with random choice and without, a row a network.

    Args:
        rows: table `penalties` of one layer, judged on one set, with one constant.
        fraction: of the units that is pruned.
        size: how many units there are.
    """
    activations = in_order(rows["activation"])
    kinds = {"with random choice": ("random", *THESIS), "scores alone": THESIS}
    shape = (len(activations), 2, 2.5 * len(activations) + 0.4)
    with panels(*shape, "step", f"{rows['layer'].iloc[0]}: penalty in nats", sharex=True) as (figure, axes):
        for ax, (activation, kind) in zip(axes.flat, itertools.product(activations, kinds), strict=True):
            chosen = (rows["activation"] == activation) & (rows["fraction"] == fraction)
            penalties_by_step(ax, rows[chosen], kinds[kind])
            ax.set_title(f"{count(fraction, size)} of {size}, {NAMES[activation]}, {kind}")
    return figure


def by_fraction(rows: pd.DataFrame, size: int) -> Figure:
    """Figures 4.3, 4.4, E.1 and E.2: penalties over training by score, a panel a fraction of the units.

    Args:
        rows: table `penalties` of one layer and one activation, judged on one set, with one constant.
        size: how many units there are.
    """
    place = f"{rows['layer'].iloc[0]}, {NAMES[rows['activation'].iloc[0]]}"
    fractions = sorted(rows["fraction"].unique())
    lines = -(-len(fractions) // 3)
    shape = (lines, min(3, len(fractions)), 2.3 * lines + 0.4)
    with panels(*shape, "step", f"{place}:\npenalty in nats", sharex=True) as (figure, axes):
        for ax, fraction in zip(axes.flat, fractions, strict=False):
            penalties_by_step(ax, rows[rows["fraction"] == fraction], THESIS)
            ax.set_title(f"{count(fraction, size)} of {size} units")
            ax.xaxis.set_major_locator(MaxNLocator(2))
        for ax in axes.flat[len(fractions) :]:
            ax.set_axis_off()
    return figure


def unit_scores_compared(means: pd.DataFrame) -> Figure:
    """The mean penalty by score: a point a seed, a row of panels a network, a column a layer.

    Args:
        means: a row a seed, activation, layer and scorer, with the column `penalty`.
    """
    activations, layers = in_order(means["activation"]), list(dict.fromkeys(means["layer"]))
    scorers = ("random", "mean_activation", "taylor", *reversed(THESIS))
    order = [scorer for scorer in scorers if scorer in set(means["scorer"])]
    shape = (len(activations), len(layers), 2.2 * len(activations) + 0.4)
    with panels(*shape, "penalty in nats", sharey=True, sharex="col") as (figure, axes):
        for ax, (activation, layer) in zip(axes.flat, itertools.product(activations, layers), strict=True):
            rows = means[(means["activation"] == activation) & (means["layer"] == layer)]
            for place, scorer in enumerate(order):
                points = {"color": COLOURS[scorer], "markersize": 5, "alpha": 0.8, "clip_on": False}
                for seed, penalty in rows[rows["scorer"] == scorer].set_index("seed")["penalty"].items():
                    ax.plot(penalty, place, "o", **points, **seen(seed, rows["seed"]))
            ax.set_title(f"{layer}, {NAMES[activation]}")
            ax.set_xscale("symlog", linthresh=0.01)
            ax.set_xlim(left=min(0, ax.get_xlim()[0]))
            ax.grid(axis="x")
        for ax in axes[:, 0]:
            ax.set_yticks(range(len(order)), [NAMES[scorer] for scorer in order])
    return figure


def stand_ins(rows: pd.DataFrame) -> Figure:
    """What replaces the units that MRS chooses: mean penalty by fraction, a column a layer."""
    activations, layers = in_order(rows["activation"]), list(dict.fromkeys(rows["layer"]))
    shape = (len(activations), len(layers), 2.4 * len(activations) + 0.4)
    with panels(*shape, "fraction", "penalty in nats", sharex=True) as (figure, axes):
        for ax, (activation, layer) in zip(axes.flat, itertools.product(activations, layers), strict=True):
            chosen = (rows["activation"] == activation) & (rows["layer"] == layer)
            for constant, (colour, label) in CONSTANTS.items():
                penalty = by_seed(rows[chosen & (rows["constant"] == constant)], x="fraction")
                if len(penalty):
                    band(ax, penalty, colour, label, smooth=1)
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set_title(f"{layer}, {NAMES[activation]}")
    return figure


def estimates(scores: pd.DataFrame, layers: Sequence[str]) -> Figure:
    """How MRS follows MRP over training: rank correlation, and the ratio of their sums over a layer."""
    colours = dict(
        zip(layers, ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), strict=False)
    )
    correlations = unit_correlations(scores, ("mrs",))["mrs"]
    sums = scores.groupby(["seed", "activation", "layer", "step"])[["mrs", "mrp"]].sum()
    activations = in_order(scores["activation"])
    with panels(len(activations), 2, 2.3 * len(activations) + 0.4, "step", sharex=True) as (figure, axes):
        for (left, right), activation in zip(axes, activations, strict=True):
            for ax, values in ((left, correlations), (right, sums["mrs"] / sums["mrp"])):
                for layer, colour in colours.items():
                    by_layer = values.xs((activation, layer), level=("activation", "layer"))
                    band(ax, by_layer.unstack("seed"), colour, layer)
                ax.axhline(1, color="black", linewidth=0.9)
                ax.xaxis.set_major_locator(MaxNLocator(3))
            left.set(title=f"{NAMES[activation]}: rank correlation with MRP")
            left.set(ylim=(min(0, left.get_ylim()[0]), 1.05))
            right.set(title=f"{NAMES[activation]}: MRS over MRP, layer sums", ylim=(0, None))
    return figure


def without_units(rows: pd.DataFrame, scorer: str, fraction: float) -> Figure:
    """Accuracy over the fraction of units taken out, with and without their means, and parameters left.

    Args:
        rows: table `units` of `explorer`.
        scorer: whose lines are drawn; the others' are thin and grey.
        fraction: that is marked.
    """
    rows = rows.sort_values("fraction", kind="stable").assign(percent=100 * rows["accuracy"])
    colour = COLOURS[scorer]
    with panels(1, 2, 2.9, "fraction of units taken out") as (figure, axes):
        accuracies, sizes = axes.flat
        for name, points in rows[rows["means"]].groupby("scorer", sort=False):
            if name != scorer:
                accuracies.plot(points["fraction"], points["percent"], color="#B8B8B8", linewidth=1)
        for means, style, label in ((True, "-", "means propagated"), (False, "--", "bare removal")):
            points = rows[(rows["scorer"] == scorer) & (rows["means"] == means)]
            accuracies.plot(points["fraction"], points["percent"], style, color=colour, label=label)
            marked = points[points["fraction"] == fraction]
            accuracies.plot(marked["fraction"], marked["percent"], "o", color=colour, markersize=7)
        sizes.plot(points["fraction"], points["parameters"], color=colour)
        sizes.plot(marked["fraction"], marked["parameters"], "o", color=colour, markersize=7)
        sizes.set(ylim=(0, None), ylabel="parameters left")
        sizes.yaxis.set_major_formatter("{x:,.0f}")
        accuracies.set(ylabel="test accuracy in %")
    return figure


def speeds(rows: pd.DataFrame) -> Figure:
    """Wall time of a forward pass over the dense network's, by size of the batch and by engine."""
    engines = list(dict.fromkeys(rows["engine"]))
    colours = {"dense": "#6E6E6E", "masked": "#D55E00", "compacted": "#0072B2"}
    shape = (1, len(engines), 2.9, "images in a batch", "time over the dense\nnetwork's")
    with panels(*shape, sharey=True) as (figure, axes):
        for ax, engine in zip(axes.flat, engines, strict=True):
            times = rows[rows["engine"] == engine]
            batches = sorted(times["batch"].unique())
            for shift, (network, colour) in zip((-0.22, 0, 0.22), colours.items(), strict=True):
                median = times[times["network"] == network].groupby("batch")["over_dense"].median()
                ax.bar(np.arange(len(batches)) + shift, median, 0.2, color=colour, label=network)
            ax.axhline(1, color="black", linewidth=0.9)
            ax.set_xticks(range(len(batches)), [f"{batch:,}" for batch in batches])
            ax.set_title(engine)
    return figure
