"""Figures of chapter 5, what the thesis leaves open, and of the ledger; each is a function of a table."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deadbook.analysis.measures import NAMES
from deadbook.figures.style import band, by_seed, in_order, or_nothing, panels

ON = {"probe": "#0072B2", "other": "#D55E00", "train_probe": "#009E73"}
GROUP = {"group": ("#0072B2", "group score"), "magnitude": ("#009E73", "magnitude")}
NETWORKS = {"relu": "#0072B2", "tanh": "#D55E00", "own": "#009E73"}
COUNTS = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")  # of images scored on, few to many
ARMS = {"wait": "#6E6E6E", "new incoming": "#0072B2", "ReDo": "#D55E00", "new outgoing": "#009E73"}
FAINT = 0.35


@or_nothing
def removed(rows: pd.DataFrame) -> Figure:
    """Change of the loss by the number of weights removed at the end, a panel a network, a line a seed."""
    rows = rows[rows["step"] == rows.groupby(["activation", "seed"])["step"].transform("max")]
    kinds = in_order(rows["activation"])
    with panels(1, len(kinds), 3.2, "weights removed", "change of the loss in nats") as (figure, axes):
        for ax, activation in zip(axes.flat, kinds, strict=True):
            of = rows[rows["activation"] == activation]
            for (on, way, seed), line in of.groupby(["set", "way", "seed"]):
                again = way == "rescored"
                name = NAMES[on] if again and seed == rows["seed"].min() else None
                style = {"color": ON[on], "linestyle": "-" if again else (0, (2, 2)), "linewidth": 1.2}
                ax.plot(line["removed"], line["change"], label=name, **style)
            gain = -of.loc[of["way"] == "rescored", "change"].min()
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], ylim=(-1.3 * gain, 2 * gain) if gain > 0 else (None, None))
    return figure


@or_nothing
def by_lambda(rows: pd.DataFrame) -> Figure:
    """Rank correlation with the loss change by the weight of the second order, a panel an estimate."""
    kinds = list(dict.fromkeys(rows["second order"]))
    label = "rank correlation with\nthe exact loss change"
    with panels(1, len(kinds), 3, "λ", label, sharey=True) as (figure, axes):
        for ax, kind in zip(axes.flat, kinds, strict=True):
            for activation in in_order(rows["activation"]):
                colour = NETWORKS[activation]
                of = rows[(rows["second order"] == kind) & (rows["activation"] == activation)]
                if len(of):
                    band(ax, by_seed(of, "correlation", "lambda"), colour, NAMES[activation], smooth=1)
            ax.axvline(0.5, color="black", linewidth=0.9, linestyle=(0, (2, 3)))
            ax.set_title(kind)
    return figure


@or_nothing
def group_scores(rows: pd.DataFrame) -> Figure:
    """Penalty on the other images over training, by the group's score and by magnitude."""
    rows, kinds = rows[rows["set"] == "other"], in_order(rows["activation"])
    with panels(1, len(kinds), 2.9, "step", "penalty in nats", sharey=True) as (figure, axes):
        for ax, activation in zip(axes.flat, kinds, strict=True):
            for scorer, (colour, name) in GROUP.items():
                of = rows[(rows["activation"] == activation) & (rows["scorer"] == scorer)]
                band(ax, by_seed(of), colour, name, smooth=1)
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], ylim=(min(0, ax.get_ylim()[0]), None))
    return figure


@or_nothing
def averaged_scores(rows: pd.DataFrame) -> Figure:
    """Penalty over training of the first seed by the number of images scored on, averaged or not."""
    rows, scorers = rows[rows["seed"] == rows["seed"].min()], list(dict.fromkeys(rows["scorer"]))
    shape = (len(scorers), 2, 2.4 * len(scorers) + 0.3)
    with panels(*shape, "step", "penalty in nats", sharex=True, sharey="row") as (figure, axes):
        for ax, (scorer, averaged) in zip(axes.flat, itertools.product(scorers, (False, True)), strict=True):
            of = rows[(rows["scorer"] == scorer) & (rows["averaged"] == averaged)]
            for colour, (images, line) in zip(COUNTS, of.groupby("images"), strict=False):
                style = {"color": colour, "linewidth": 1, "marker": "o" if len(line) < 10 else None}
                ax.plot(line["step"], line["penalty"], label=f"{images:,} images", markersize=3, **style)
            name = NAMES[scorer.removesuffix("_abs")]
            ax.set_title(f"{name}, {'mean of the last ten' if averaged else 'each measurement'}")
    return figure


@or_nothing
def constants(rows: pd.DataFrame) -> Figure:
    """Mean penalty of half of a layer's units by what replaces them: a point a seed."""
    layers, kinds = list(dict.fromkeys(rows["layer"])), in_order(rows["activation"])
    order = rows.groupby("constant")["penalty"].median().sort_values(ascending=False).index
    shape = (len(kinds), len(layers), 2.5 * len(kinds) + 0.4)
    with panels(*shape, "penalty in nats", sharey=True) as (figure, axes):
        for ax, (activation, layer) in zip(axes.flat, itertools.product(kinds, layers), strict=True):
            of = rows[(rows["activation"] == activation) & (rows["layer"] == layer)]
            means = of.groupby(["constant", "seed"])["penalty"].mean().unstack()
            best = means.mean(axis=1).idxmin() if len(means) else None
            for place, constant in enumerate(order):
                if constant in means.index:
                    colour = "#0072B2" if constant == best else "#6E6E6E"
                    ax.plot(means.loc[constant], [place] * means.shape[1], "o", color=colour, markersize=5)
            ax.set_xscale("symlog", linthresh=0.01)
            ax.set_title(f"{layer}, {NAMES[activation]}")
            ax.grid(axis="x")
        for ax in axes[:, 0]:
            ax.set_yticks(range(len(order)), order)
    return figure


@or_nothing
def others_beside(rows: pd.DataFrame, below: float) -> Figure:
    """What becomes of the other units of a layer by what becomes of the attacked one, a point an attack."""
    x, y = rows["ratio"].clip(1e-3), rows["others"] / rows["twin_others"]
    dead = rows["mrp"] < below * rows["mean_mrp"]
    kinds = ((dead, "#D55E00", "x", "ends dead"), (~dead, "#0072B2", "o", "does not"))
    labels = "MRP of the attacked unit over its twin's", "summed MRP of the others\nover their twins'"
    with panels(1, 1, 3.6, *labels) as (figure, axes):
        ax = axes[0, 0]
        for chosen, colour, marker, name in kinds:
            ax.plot(x[chosen], y[chosen], marker, color=colour, label=name, markersize=5)
        ax.axhline(1, color="black", linewidth=0.9)
        ax.set_xscale("log")
    return figure


@or_nothing
def dead_by_rescaling(rows: pd.DataFrame, below: float) -> Figure:
    """The share of units that end dead by the factor on their incoming weights, attacked or not."""
    dead = (rows["mrp"] < below * rows["mean_mrp"]).rename("dead")
    share = dead.groupby([rows["attacked"], rows["c"], rows["seed"]]).mean()
    label = "c: incoming weights and bias times c, outgoing over c"
    with panels(1, 1, 3.2, label, "share that ends dead") as (figure, axes):
        ax, factors = axes[0, 0], sorted(rows["c"].unique())
        for shift, attacked, colour in ((-0.12, True, "#D55E00"), (0.12, False, "#6E6E6E")):
            means = [share[attacked, c].mean() for c in factors]
            places = np.arange(len(factors)) + shift
            ax.bar(places, means, 0.22, color=colour, label="attacked" if attacked else "not attacked")
            for place, c in zip(places, factors, strict=True):
                ax.plot([place] * len(share[attacked, c]), share[attacked, c], ".", color="black")
        ax.set_xticks(range(len(factors)), [f"{c:g}" for c in factors])
    return figure


@or_nothing
def revived(rows: pd.DataFrame, alive: float) -> Figure:
    """MRP of units that were dead, over their layer's mean, by what was done: faint units, bold medians."""
    rows = rows[rows["set"] == "probe"].assign(relative=rows["mrp"] / rows["mean_mrp"])
    with panels(1, len(ARMS), 2.8, "steps since", "MRP over the layer's mean", sharey=True) as (figure, axes):
        for ax, (arm, colour) in zip(axes.flat, ARMS.items(), strict=True):
            of = rows[rows["arm"] == arm]
            for _, line in of.groupby(["seed", "unit"]):
                ax.plot(line["step"], line["relative"], color=colour, linewidth=0.7, alpha=FAINT)
            median = of.groupby("step")["relative"].median()
            ax.plot(median.index, median, color=colour, linewidth=2.4)
            ax.axhline(alive, color="black", linewidth=0.9, linestyle=(0, (2, 3)))
            ax.set_title(arm)
            ax.set_yscale("symlog", linthresh=0.05)
    return figure


def confirmed(rows: pd.DataFrame) -> Figure:
    """The share of the seeds in which each criterion holds, of the seen seeds and of the fresh ones."""
    label, height = "share of the seeds in which the criterion holds", 0.22 * len(rows) + 0.9
    with panels(1, 1, height, label) as (figure, axes):
        ax, places = axes[0, 0], np.arange(len(rows))[::-1]
        ax.hlines(places, rows["seen"], rows["fresh"], color="#B8B8B8", linewidth=1.5)
        points = {"linestyle": "none", "marker": "o", "color": "#0072B2", "clip_on": False}
        ax.plot(rows["seen"], places, markerfacecolor="none", markersize=9, label="seeds 0 to 4", **points)
        ax.plot(rows["fresh"], places, markersize=5, label="seeds 5 to 9", **points)
        ax.axvline(0.8, color="black", linewidth=0.9, linestyle=(0, (2, 3)))
        ax.set_yticks(places, [f"{row.claim}, {row.outcome}" for row in rows.itertuples()])
        ax.set_xlim(0, 1)
    return figure
