"""Figures of chapter 2; each is a function of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deadbook.analysis.measures import NAMES, SIGNED, rank_correlations, ratios_by_step, score_of
from deadbook.figures.style import COLOURS, band, in_order, legend, mosaic, panels, picture, title

RUNS = {"": "#6E6E6E", "layer": "#0072B2", "network": "#D55E00"}  # colours by how a network was pruned
PRUNED_BY = {"": "not pruned", "layer": "by layer", "network": "over the network"}
FACTORS = {  # of the gradient (Eq. 2.4): colour and label
    "gradient": ("#D55E00", "gradient"),
    "by_image": ("#0072B2", "gradient of one image"),
    "output": ("#009E73", "output gradient of the unit"),
    "input": ("#6E6E6E", "input"),
}
_AT_RIGHT = {
    "xycoords": ("axes fraction", "data"),
    "textcoords": "offset points",
    "ha": "right",
    "fontsize": 8.5,
}


def negative_share(scores: pd.DataFrame) -> Figure:
    """Figure 2.1: share of weights with a negative score over training, a panel an activation."""
    with panels(1, scores["activation"].nunique(), height=2.9, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, scores.groupby("activation"), strict=True):
            for scorer in ("loss_change", "taylor1", "taylor2"):
                negative = score_of(rows, scorer) < 0
                share = negative.groupby([rows["step"], rows["seed"]]).mean().unstack("seed")
                band(ax, share, COLOURS[scorer], NAMES[scorer])
            ax.axhline(0.35, color="black", linewidth=0.9, linestyle=(0, (2, 3)), label="thesis: 0.35")
            ax.set(title=NAMES[activation], xlabel="step", ylim=(0, 0.8))
        axes.flat[0].set_ylabel("share of weights with S < 0")
        legend(figure, axes.flat[0])
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
    networks = (
        "" if across == "activation" else f", {' and '.join(map(NAMES.get, in_order(rows['activation'])))}"
    )
    with panels(len(fractions), len(columns), 2.3 * len(fractions) + 0.3, sharey="row", sharex=True) as (
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
                        band(ax, penalty, COLOURS[scorer], NAMES[scorer])
                ax.axhline(0, color="black", linewidth=0.9)
                ax.set_title(f"{removed(fraction):,} weights, {NAMES[name]}")
            line[0].set_ylabel(f"penalty in nats{networks}")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        legend(figure, axes[0, 0])
    return figure


def correlations(scores: pd.DataFrame) -> Figure:
    """How each score ranks the weights as the exact loss change does (Spearman), over training."""
    scorers = ("taylor1", "taylor2", "hessian", "diagonal", "magnitude")
    with panels(1, scores["activation"].nunique(), height=3.1, sharey=True) as (figure, axes):
        for ax, (activation, rows) in zip(axes.flat, scores.groupby("activation"), strict=True):
            known = [one for one in scorers if one == "taylor2" or (one in rows and rows[one].notna().any())]
            found = rows.groupby(["step", "seed"])[list(rows.columns)].apply(
                lambda one, known=known: pd.Series(rank_correlations(one, known))
            )
            for scorer in known:
                band(ax, found[scorer].unstack("seed"), COLOURS[scorer], NAMES[scorer])
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], xlabel="step", ylim=(-1, 1))
        axes.flat[0].set_ylabel("rank correlation with\nthe exact loss change")
        legend(figure, axes.flat[0])
    return figure


def signed_and_absolute(rows: pd.DataFrame) -> Figure:
    """Figure 2.5: penalty over training by signed and absolute scores of one fraction, a row a network."""
    activations = in_order(rows["activation"])
    with panels(len(activations), 2, height=2.5 * len(activations) + 0.3, sharey="row", sharex=True) as (
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
                    band(ax, penalty, COLOURS[scorer], NAMES[scorer])
                ax.axhline(0, color="black", linewidth=0.9)
                ax.set_title(f"{NAMES[activation]}, {kind} scores and magnitude")
            line[0].set_ylabel(f"penalty in nats, f = {rows['fraction'].iloc[0]:g}")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        legend(figure, axes[0, 0])
    return figure


def penalty_by_scorer(rows: pd.DataFrame) -> Figure:
    """Figure 2.5 in one look: the mean penalty of each scorer by seed, and its deviation over training."""
    every = [*(f"{one}{end}" for one in (*SIGNED, "diagonal") for end in ("", "_abs")), "magnitude", "random"]
    order = [scorer for scorer in every if scorer in set(rows["scorer"])]
    activations = in_order(rows["activation"])
    with panels(len(activations), 2, height=2.9 * len(activations), sharey=True) as (figure, axes):
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
    with panels(1, signals["activation"].nunique(), height=3.1, sharey=True) as (figure, axes):
        for ax, (activation, here) in zip(axes.flat, ratios.groupby("activation"), strict=True):
            for column, (colour, label) in FACTORS.items():
                by_seed = here[column].droplevel("activation").unstack("seed")
                band(ax, by_seed, colour, label, smooth=3)
            ax.axhline(1, color="black", linewidth=0.9)
            ax.set(title=NAMES[activation], xlabel="step")
            ax.set_ylim(0, max(1.6, ax.get_ylim()[1]))
        axes.flat[0].set_ylabel("weights with S < 0\nover weights with S ≥ 0")
        legend(figure, axes.flat[0])
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
    with panels(2, 1, height=4.6, sharex=True, height_ratios=(3, 1)) as (figure, axes):
        for by in in_order(training["pruned_by"], ("", "layer", "network")):
            rows = training[training["pruned_by"] == by]
            loss = rows.pivot_table(index="step", columns="seed", values="train_probe")
            band(axes[0, 0], loss, RUNS[by], labels[by], smooth=1)
            if by != "network" or "layer" not in set(
                training["pruned_by"]
            ):  # the same fractions, wherever they are taken from
                share = rows.pivot_table(index="step", columns="seed", values="pruned")
                axes[1, 0].step(share.index, share.mean(axis=1), where="post", color=RUNS[by])
        axes[0, 0].set(ylabel="loss in nats", yscale="log", title="loss on images trained on")
        axes[1, 0].set(ylabel="share", xlabel="step", ylim=(-0.03, 1), title=f"share of {of} pruned")
        axes[0, 0].legend(loc="upper right")
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
    with panels(1, 2, 2.9) as (figure, axes):
        for ax, column, name in zip(
            axes.flat, ("accuracy", "loss"), ("test accuracy in %", "loss in nats"), strict=True
        ):
            for one, own in rows.groupby("scorer", sort=False):
                values = own.sort_values("fraction").set_index("fraction")[column] * (
                    100 if column == "accuracy" else 1
                )
                chosen = one == scorer
                ax.plot(
                    values.index,
                    values,
                    color=COLOURS[one.removesuffix("_abs")],
                    linestyle="--" if one.endswith("_abs") else "-",
                    linewidth=3 if chosen else 1.2,
                    label=title(one),
                )
                if chosen:
                    ax.plot(fraction, values[fraction], "o", color="black", markersize=7, zorder=5)
            ax.set(xlabel="fraction taken out", ylabel=name)
        legend(figure, axes.flat[0])
    return figure


def jumps(pruned: pd.DataFrame, twins: pd.DataFrame) -> Figure:
    """What each pruning of a schedule costs at once, by layer and over the network, on both sets."""
    with panels(1, 2, height=2.9, sharey=True) as (figure, axes):
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
    with panels(1, 2, height=3.0) as (figure, axes):
        left, right = axes.flat
        for by, some in rows.groupby("pruned_by"):
            kept = some[some["carried"]].pivot_table(index="fnz", columns="seed", values="parameters")
            band(left, kept, RUNS[by], PRUNED_BY[by], smooth=1)
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
