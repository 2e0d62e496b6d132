"""Figures of chapter 4; each is a function of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deadbook.analysis.measures import NAMES, unit_correlations
from deadbook.figures.style import COLOURS, band, in_order, legend, panels
from deadunits.counting import count

THESIS = ("mrp", "mrs", "norm_l1", "norm_l2")
CONSTANTS = {  # what stands for a unit: colour and label
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
    with panels(1, len(layers), 2.9, sharey=True) as (figure, axes):
        for ax, layer in zip(axes.flat, layers, strict=True):
            for _, own in rows[rows["layer"] == layer].groupby("seed"):
                penalty = np.sort(own["mrp"].to_numpy())[::-1]
                shown, place = np.maximum(penalty, floor), np.arange(1, len(penalty) + 1)
                dead = penalty <= below * penalty.mean()
                ax.plot(place, shown, color="#0072B2", linewidth=0.8, alpha=0.5)
                for which, colour in ((~dead, "#0072B2"), (dead, "#D55E00")):
                    ax.plot(place[which], shown[which], "o", color=colour, markersize=3.5)
            ax.set(yscale="log", ylim=(floor / 2, 10), title=f"{layer}, {len(penalty)} units")
            ax.set_xticks([1, len(penalty) // 2, len(penalty)])
            ax.set_xlabel("rank of the unit")
            ax.minorticks_off()
        axes.flat[0].set_ylabel("change of the loss\nwithout it, in nats")
        axes.flat[0].set_yticks([1e-6, 1e-4, 1e-2, 1], ["0", "0.0001", "0.01", "1"])
    return figure


def unit_penalties(rows: pd.DataFrame, fraction: float, size: int) -> Figure:
    """Figures 4.1, 4.2 and 4.5: penalties over training, with random choice and without, a row a network.

    Args:
        rows: table `penalties` of one layer, judged on one set, with one constant.
        fraction: of the units that goes.
        size: how many units there are.
    """
    activations = in_order(rows["activation"])
    with panels(len(activations), 2, 2.5 * len(activations) + 0.4, sharex=True) as (figure, axes):
        for line, activation in zip(axes, activations, strict=True):
            here = rows[(rows["activation"] == activation) & (rows["fraction"] == fraction)]
            for ax, scorers in zip(line, (("random", *THESIS), THESIS), strict=True):
                for scorer in scorers:
                    penalty = _by_seed(here[here["scorer"] == scorer])
                    band(ax, penalty, COLOURS[scorer], NAMES[scorer])
                ax.axhline(0, color="black", linewidth=0.9)
                kind = "with random choice" if "random" in scorers else "scores alone"
                ax.set_title(f"{count(fraction, size)} of {size}, {NAMES[activation]}, {kind}")
            line[0].set_ylabel(f"{rows['layer'].iloc[0]}: penalty in nats")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        legend(figure, axes[0, 0])
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
    with panels(lines, min(3, len(fractions)), 2.3 * lines + 0.4, sharex=True) as (figure, axes):
        for ax, fraction in zip(axes.flat, fractions, strict=False):
            for scorer in THESIS:
                penalty = _by_seed(rows[(rows["fraction"] == fraction) & (rows["scorer"] == scorer)])
                band(ax, penalty, COLOURS[scorer], NAMES[scorer])
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set_title(f"{count(fraction, size)} of {size} units")
            ax.xaxis.set_major_locator(MaxNLocator(2))
        for ax in axes.flat[len(fractions) :]:
            ax.set_axis_off()
        for line in axes:
            line[0].set_ylabel(f"{place}:\npenalty in nats")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        legend(figure, axes[0, 0])
    return figure


def unit_scores_compared(means: pd.DataFrame) -> Figure:
    """The mean penalty by score: a point a seed, a row of panels a network, a column a layer.

    Args:
        means: a row a seed, activation, layer and scorer, with the column `penalty`.
    """
    activations, layers = in_order(means["activation"]), list(dict.fromkeys(means["layer"]))
    order = [
        name for name in (*THESIS, "taylor", "mean_activation", "random") if name in set(means["scorer"])
    ]
    with panels(len(activations), len(layers), 2.2 * len(activations) + 0.4, sharey=True, sharex="col") as (
        figure,
        axes,
    ):
        for line, activation in zip(axes, activations, strict=True):
            for ax, layer in zip(line, layers, strict=True):
                here = means[(means["activation"] == activation) & (means["layer"] == layer)]
                for place, scorer in enumerate(reversed(order)):
                    own = here[here["scorer"] == scorer]["penalty"]
                    points = {"color": COLOURS[scorer], "markersize": 5, "alpha": 0.8, "clip_on": False}
                    ax.plot(own, [place] * len(own), "o", **points)
                ax.set_title(f"{layer}, {NAMES[activation]}")
                ax.set_xscale("symlog", linthresh=0.01)
                ax.set_xlim(left=min(0, ax.get_xlim()[0]))
                ax.grid(axis="x")
            line[0].set_yticks(range(len(order)), [NAMES[name] for name in order][::-1])
        for ax in axes[-1]:
            ax.set_xlabel("penalty in nats")
    return figure


def stand_ins(rows: pd.DataFrame) -> Figure:
    """What stands for the units that MRS chooses: mean penalty by fraction, a column a layer."""
    activations, layers = in_order(rows["activation"]), list(dict.fromkeys(rows["layer"]))
    with panels(len(activations), len(layers), 2.4 * len(activations) + 0.4, sharex=True) as (figure, axes):
        for line, activation in zip(axes, activations, strict=True):
            for ax, layer in zip(line, layers, strict=True):
                here = rows[(rows["activation"] == activation) & (rows["layer"] == layer)]
                for constant, (colour, label) in CONSTANTS.items():
                    mine = here[here["constant"] == constant]
                    penalty = mine.groupby(["fraction", "seed"])["penalty"].mean().unstack("seed")
                    if len(penalty):
                        band(ax, penalty, colour, label, smooth=1)
                ax.axhline(0, color="black", linewidth=0.9)
                ax.set_title(f"{layer}, {NAMES[activation]}")
            line[0].set_ylabel("penalty in nats")
        for ax in axes[-1]:
            ax.set_xlabel("fraction")
        legend(figure, axes[0, 0])
    return figure


def estimates(scores: pd.DataFrame, layers: Sequence[str]) -> Figure:
    """How MRS follows MRP over training: rank correlation, and the ratio of their sums over a layer."""
    colours = dict(
        zip(layers, ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), strict=False)
    )
    correlations = unit_correlations(scores, ("mrs",))["mrs"]
    by = ["seed", "activation", "layer", "step"]
    sums = scores.groupby(by)[["mrs", "mrp"]].sum()
    activations = in_order(scores["activation"])
    with panels(len(activations), 2, 2.3 * len(activations) + 0.4, sharex=True) as (figure, axes):
        for line, activation in zip(axes, activations, strict=True):
            for ax, values in zip(line, (correlations, sums["mrs"] / sums["mrp"]), strict=True):
                for layer, colour in colours.items():
                    own = values.xs((activation, layer), level=("activation", "layer")).unstack("seed")
                    band(ax, own, colour, layer)
                ax.axhline(1, color="black", linewidth=0.9)
            line[0].set(
                title=f"{NAMES[activation]}: rank correlation with MRP",
                ylim=(min(0, line[0].get_ylim()[0]), 1.05),
            )
            line[1].set(title=f"{NAMES[activation]}: MRS over MRP, layer sums", ylim=(0, None))
        for ax in axes[-1]:
            ax.set_xlabel("step")
        legend(figure, axes[0, 0])
    return figure


def without_units(rows: pd.DataFrame, scorer: str, fraction: float) -> Figure:
    """Accuracy over the fraction of units taken out, with and without their means, and parameters left.

    Args:
        rows: table `units` of `explorer`.
        scorer: whose lines are drawn; the others' are thin and grey.
        fraction: that is marked.
    """
    with panels(1, 2, 2.9) as (figure, axes):
        accuracies, sizes = axes.flat
        for one, own in rows[rows["means"]].groupby("scorer", sort=False):
            if one != scorer:
                own = own.sort_values("fraction")
                accuracies.plot(own["fraction"], 100 * own["accuracy"], color="#B8B8B8", linewidth=1)
        for means, style, label in ((True, "-", "means propagated"), (False, "--", "bare removal")):
            own = rows[(rows["scorer"] == scorer) & (rows["means"] == means)].sort_values("fraction")
            colour = COLOURS[scorer]
            accuracies.plot(own["fraction"], 100 * own["accuracy"], style, color=colour, label=label)
            at = own[own["fraction"] == fraction]
            accuracies.plot(at["fraction"], 100 * at["accuracy"], "o", color=colour, markersize=7)
        sizes.plot(own["fraction"], own["parameters"], color=colour)
        sizes.plot(at["fraction"], at["parameters"], "o", color=colour, markersize=7)
        sizes.set(ylim=(0, None), ylabel="parameters left")
        sizes.yaxis.set_major_formatter("{x:,.0f}")
        accuracies.set(ylabel="test accuracy in %")
        for ax in axes.flat:
            ax.set_xlabel("fraction of units taken out")
        legend(figure, accuracies)
    return figure


def speeds(rows: pd.DataFrame) -> Figure:
    """Wall time of a forward pass over the dense network's, by size of the batch and by engine."""
    engines = list(dict.fromkeys(rows["engine"]))
    colours = {"dense": "#6E6E6E", "masked": "#D55E00", "compacted": "#0072B2"}
    with panels(1, len(engines), 2.9, sharey=True) as (figure, axes):
        for ax, engine in zip(axes.flat, engines, strict=True):
            here = rows[rows["engine"] == engine]
            batches = sorted(here["batch"].unique())
            for shift, (network, colour) in zip((-0.22, 0, 0.22), colours.items(), strict=True):
                mine = here[here["network"] == network].groupby("batch")["over_dense"]
                place = np.arange(len(batches)) + shift
                ax.bar(place, mine.median(), 0.2, color=colour, label=network)
            ax.axhline(1, color="black", linewidth=0.9)
            ax.set_xticks(range(len(batches)), [f"{batch:,}" for batch in batches])
            ax.set(title=engine, xlabel="images in a batch")
        axes.flat[0].set_ylabel("time over the dense\nnetwork's")
        legend(figure, axes.flat[0])
    return figure


def _by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby(["step", "seed"])["penalty"].mean().unstack("seed")
