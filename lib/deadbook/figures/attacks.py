"""Figures of chapter 3; each is a function of a table, most of `trials.curves`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from deadbook.figures.style import STYLE, WIDTH, by_seed, legend, or_nothing, panels
from deadbook.histograms import BOUNDED, EDGES

KINDS = {
    "twin": ("#6E6E6E", "not attacked"),
    "attack": ("#D55E00", "attacked"),
    "control": ("#0072B2", "control"),
}
QUANTITIES = {  # columns of the table `units` and the mean loss of minibatches: the name on the axis
    "mrp": "MRP",
    "mrs": "MRS",
    "gradient": "output\ngradient",
    "norm_in": "incoming\nweights",
    "minibatch": "training\nloss",
}
UNIT = ("layer", "unit")
SERIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")  # attacks in one panel
RATIO = "final MRP over\nthe twin's"
SHOWN = ("mrp", "mrs", "gradient", "norm_in")  # of attacked units, divided by the twin's
FLOOR = 0.01  # of such ratios, as they are drawn


def units_over_time(history: pd.DataFrame, quantities: Mapping[str, str]) -> Figure:
    """Section 3.2: what becomes of a few units; a panel a quantity, a line a unit.

    Args:
        history: a row a unit and step, with the columns `unit`, `step` and those of `quantities`, which says
            what their axes are called.
    """
    with panels(1, len(quantities), 3.0, sharex=True) as (figure, axes):
        for ax, (column, name) in zip(axes.flat, quantities.items(), strict=True):
            for unit, colour in zip(dict.fromkeys(history["unit"]), SERIES, strict=False):
                rows = history[history["unit"] == unit]
                ax.plot(rows["step"], rows[column], color=colour, label=unit)
            ax.set_ylabel(name)
            ax.set_ylim(bottom=0)
        _steps(axes[0])
    return figure


def plane(x: np.ndarray, y: np.ndarray, moments: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Section 3.2: points of two classes in the plane, and where units switch; a panel a moment.

    Args:
        x: points (N, 2).
        y: labels (N,), 0 or 1.
        moments: by title, incoming weights (units, 2) and biases (units,).
    """
    x, y = np.asarray(x), np.asarray(y)
    names = "first input", "second input"
    with panels(1, len(moments), 2.8, *names, moments, sharey=True, sharex=True) as (figure, axes):
        for ax, (weights, biases) in zip(axes.flat, moments.values(), strict=True):
            for label, marker, colour in ((0, "o", "#D55E00"), (1, "s", "#0072B2")):
                ax.plot(*x[y == label].T, marker, color=colour, markersize=3)
            ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
            for unit, (weight, bias) in enumerate(zip(np.asarray(weights), np.asarray(biases), strict=True)):
                foot = -bias * weight / (weight @ weight)  # of the perpendicular from 0
                style = {"color": "black", "linestyle": ("-", "--")[unit % 2], "label": f"unit {unit}"}
                ax.axline(foot, foot + weight[::-1] * (1, -1), **style)
    return figure


@or_nothing
def attacked_units(rows: pd.DataFrame, quantities: Sequence[str] = SHOWN, by: Sequence[str] = UNIT) -> Figure:
    """Figures 3.1, 3.5 and 3.9: what becomes of attacked units, a column a unit.

    Above the MRP as it is; below, a row a quantity, what units are divided by their twins at that step.

    Args:
        rows: from `trials.curves`, of several units and one kind of attack.
        by: what has a column of its own, the layer and the unit first; what is not named is averaged.
    """
    columns, relative = _columns(rows, by), _over_twins(rows, quantities)
    shape = (1 + len(quantities), len(columns), 1.35 * len(quantities) + 1.9)
    with panels(*shape, titles=columns.values(), sharex=True, sharey="row") as (figure, axes):
        for ax, key in zip(axes[0], columns, strict=True):
            _lines(ax, _of(rows, key, by), "mrp")
        axes[0, 0].set_ylabel("MRP in nats")
        axes[0, 0].set_ylim(bottom=0)
        for line, quantity in zip(axes[1:], quantities, strict=True):
            for ax, key in zip(line, columns, strict=True):
                _lines(ax, _of(relative, key, by), quantity)
            _ratios_axis(line, quantity)
        _steps(axes[-1])
        figure.align_ylabels(axes[:, 0])
    return figure


@or_nothing
def by_attack(rows: pd.DataFrame, by: str, quantities: Sequence[str] = SHOWN) -> Figure:
    """Figures 3.3, 3.4, 3.7: attacks that differ in one setting, divided by their twins at that step.

    Args:
        rows: from `trials.curves`.
        by: what differs, `start` or `multiplier`.
    """
    units, relative = _columns(rows), _over_twins(rows, quantities)
    values, name = sorted(rows[by].unique()), {"start": "from step {:,.0f}", "multiplier": "times {:,g}"}[by]
    shape = (len(quantities), len(units), 1.6 * len(quantities) + 0.5)
    with panels(*shape, titles=units.values(), sharex=True, sharey="row") as (figure, axes):
        for line, quantity in zip(axes, quantities, strict=True):
            for ax, unit in zip(line, units, strict=True):
                runs = _of(relative, unit)
                for value, colour in zip(values, SERIES, strict=False):
                    _seeds(ax, by_seed(runs[runs[by] == value], quantity), colour, name.format(value))
            _ratios_axis(line, quantity)
        _steps(axes[-1])
        figure.align_ylabels(axes[:, 0])
    return figure


@or_nothing
def effects(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """The ratio of final MRPs, attacked over not attacked, over a setting: a point a seed, a cross at 0.

    Args:
        tables: from `trials.ratios`; a panel each, by what differs: `start`, `multiplier` or `unit`.
    """
    with panels(1, len(tables), 2.9, ylabel=RATIO, sharey=True) as (figure, axes):
        for ax, (by, rows) in zip(axes.flat, tables.items(), strict=True):
            rows = rows[rows["kind"] == "attack"]
            values = sorted(rows[by].unique())
            rows = rows.assign(place=rows[by].map(values.index))
            colours = dict(zip(dict.fromkeys(rows["layer"]), SERIES[::3], strict=False))
            _dots(ax, [(rows[rows["layer"] == layer], colour, layer) for layer, colour in colours.items()])
            form = "{:,g}" if by == "multiplier" else "{:,.0f}"
            ax.set_xticks(range(len(values)), map(form.format, values))
            ax.set_xlabel({"start": "step of the first attack"}.get(by, by))
    return figure


@or_nothing
def beside_twins(rows: pd.DataFrame) -> Figure:
    """The ratio of final MRPs, of attacked units and of their controls, over their twins': a point a seed.

    Args:
        rows: from `trials.ratios`, of several units and one kind of attack.
    """
    titles = _columns(rows)
    rows = rows.assign(place=[list(titles).index(key) for key in _keys(rows)])
    with panels(1, 1, 2.6, ylabel=RATIO) as (figure, axes):
        _dots(axes[0, 0], [(rows[rows["kind"] == kind], *KINDS[kind]) for kind in ("attack", "control")])
        axes[0, 0].set_xticks(range(len(titles)), titles.values())
    return figure


@or_nothing
def ridges(values: pd.DataFrame, activation: str, what: str) -> Figure:
    """Figures 3.2, 3.6, 3.8 and 3.10: how a unit's values are spread, from early (below) to late (above).

    Heights are square roots of shares, so that what is spread thin shows beside what is piled up.

    Args:
        values: from `trials.curves` of the table `values`; a column a unit, start and seed.
        activation: of the network; tells the bins.
        what: `output` (before the nonlinearity) or `activation` (what the next layer gets).
    """
    values, by = values[values["what"] == what], (*UNIT, "start", "seed")
    bounded, centres = _bins(activation, what)
    columns = _columns(values, by)
    steps = sorted(values["step"].unique())
    steps = steps[::-1][:: -(-len(steps) // 10)][::-1]  # ten at most, the last one among them
    kinds = [kind for kind in KINDS if (values["kind"] == kind).any()]
    low, high = (centres[values["bin"].min()], centres[values["bin"].max()])
    shape = (len(kinds), len(columns), 2.5 * len(kinds) + 0.2)
    with panels(*shape, sharex=True, sharey=True) as (figure, axes):
        for line, kind in zip(axes, kinds, strict=True):
            for ax, (key, title) in zip(line, columns.items(), strict=True):
                rows = _of(values[values["kind"] == kind], key, by).drop_duplicates(["step", "bin"])
                for place, step in reversed(list(enumerate(steps))):
                    _ridge(ax, centres, rows[rows["step"] == step], KINDS[kind][0], place)
                ax.grid(False)
                ax.set_title(title)
            every = 1 if len(steps) < 6 else 3
            line[0].set_yticks(range(0, len(steps), every), [f"{step:,}" for step in steps[::every]])
            line[0].set_ylabel(f"step ({KINDS[kind][1]})")
        for ax in axes[-1]:
            _values_axis(ax, bounded, low, high)
            ax.set_xlabel(what)
    return figure


def attack_scene(
    rows: pd.DataFrame, losses: pd.DataFrame, values: pd.DataFrame, step: int, activation: str
) -> Figure:
    """An attacked unit at one step: its outputs on the left, its curves with that step on the right.

    Args:
        rows: from `trials.curves`, of one unit and one seed; `losses` and `values` are its other two tables.
        step: one at which `values` were kept.
        activation: of the network; tells the bins.
    """
    values = values[values["what"] == "output"]
    bounded, centres = _bins(activation, "output")
    tables = {"mrp": rows, "mrs": rows, "minibatch": losses}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
        axes = figure.subplot_mosaic([["values", quantity] for quantity in tables], width_ratios=[1.1, 1])
        left, *right = axes.values()
        for kind in ("twin", "attack"):
            chosen = (values["kind"] == kind) & (values["step"] == step)
            _ridge(left, centres, values[chosen].drop_duplicates("bin"), KINDS[kind][0], 0)
        _values_axis(left, bounded, centres[values["bin"].min()], centres[values["bin"].max()])
        left.set(title=f"outputs at step {step:,}", yticks=[], ylim=(0, 1.7))
        left.grid(False)
        for ax, (quantity, table) in zip(right, tables.items(), strict=True):
            _lines(ax, table, quantity)
            ax.axvline(step, color="black", linewidth=0.9)
            ax.set_ylabel(QUANTITIES[quantity] + (" in nats" if table is rows else ""))
            ax.set_ylim(bottom=0 if table is rows else None)
            ax.tick_params(labelbottom=ax is right[-1])
        _steps(right[-1:])
        figure.align_ylabels(right)
        legend(figure, right[0])
    return figure


@or_nothing
def rank_agreement(correlations: pd.DataFrame) -> Figure:
    """Section 3.7: how scores rank units against MRP; a point a run, a column a network.

    Args:
        correlations: a row a run and layer with the columns `network`, `layer`, and one for each score.
    """
    networks, layers = (list(dict.fromkeys(correlations[name])) for name in ("network", "layer"))
    scores = {
        "mrs": ("#D55E00", "MRS"),
        "norm_in": ("#009E73", "incoming weights"),
        "gradient": ("#0072B2", "output gradient"),
    }
    name = "mean rank correlation\nwith MRP"
    with panels(1, len(networks), 2.9, ylabel=name, titles=networks, sharey=True) as (figure, axes):
        for ax, network in zip(axes.flat, networks, strict=True):
            rows = correlations[correlations["network"] == network]
            for shift, (score, (colour, label)) in zip((-0.2, 0, 0.2), scores.items(), strict=True):
                place = rows["layer"].map(layers.index) + shift
                ax.plot(place, rows[score], "o", color=colour, alpha=0.5, markersize=4, label=label)
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set_xticks(range(len(layers)), layers)
    return figure


@or_nothing
def mrs_over_mrp(rows: pd.DataFrame) -> Figure:
    """Section 3.7: the estimate MRS over the exact MRP, a point a unit; a column a network, a colour a layer.

    Args:
        rows: units of several runs at one time, with the columns `network`, `layer`, `mrp` and `mrs`.
    """
    highest = rows[["mrp", "mrs"]].max(axis=None)
    ends = (highest / 1e6, 2 * highest)
    shape = (1, rows["network"].nunique(), 3.1, "MRP in nats", "MRS in nats")
    with panels(*shape, sharex=True, sharey=True) as (figure, axes):
        for ax, (network, units) in zip(axes.flat, rows.groupby("network", sort=False), strict=True):
            for (layer, points), colour in zip(units.groupby("layer", sort=False), SERIES[::2], strict=False):
                x, y = (points[name].clip(lower=ends[0]) for name in ("mrp", "mrs"))
                ax.plot(x, y, "o", color=colour, alpha=0.5, markersize=4, mew=0, label=layer)
            ax.plot(ends, ends, color="black", linewidth=0.9)
            ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=network)
    return figure


@or_nothing
def half_time(rows: pd.DataFrame, below: float) -> Figure:
    """Section 3.2: units at the end of the training over the same at half-time, a row a way to be useless.

    Args:
        rows: a row a unit of a run, with the columns `network`, `what`, `half` and `end`: a quantity divided
            by its layer's mean at that time.
        below: where the threshold is.
    """
    networks, kinds = (list(dict.fromkeys(rows[name])) for name in ("network", "what"))
    low, cells = below / 100, itertools.product(kinds, networks)
    shape = (len(kinds), len(networks), 2.6 * len(kinds) + 0.2, "at half-time")
    with panels(*shape, titles=networks, sharex=True, sharey=True) as (figure, axes):
        for ax, (kind, network) in zip(axes.flat, cells, strict=True):
            units = rows[(rows["network"] == network) & (rows["what"] == kind)]
            x, y = units["half"].clip(lower=low), units["end"].clip(lower=low)
            ax.plot(x, y, "o", color="#0072B2", alpha=0.4, markersize=3, mew=0)
            ax.axvline(below, color="black", linewidth=0.9)
            ax.axhline(below, color="black", linewidth=0.9)
            ax.set(xscale="log", yscale="log")
        for ax, kind in zip(axes[:, 0], kinds, strict=True):
            ax.set_ylabel(f"{kind}\nat the end")
    return figure


def _over_twins(rows: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """Attacked units and controls at each step, divided by the twin of the same seed."""
    key = [*UNIT, "start", "multiplier", "seed", "step"]
    twins = rows[rows["kind"] == "twin"].drop_duplicates(key).set_index(key)[list(quantities)]
    others = rows[rows["kind"] != "twin"].set_index(key)
    ratios = others[list(quantities)] / twins.reindex(others.index).replace(0, np.nan)
    return others.assign(**ratios.clip(lower=FLOOR)).reset_index()


def _keys(rows: pd.DataFrame, by: Sequence[str] = UNIT) -> Iterator[tuple]:
    return zip(*(rows[name] for name in by), strict=True)


def _columns(rows: pd.DataFrame, by: Sequence[str] = UNIT) -> dict[tuple, str]:
    """What has a column of its own in a figure, in the order of the rows, and its title."""
    words = {"start": ", from {:,}", "seed": ", seed {}"}
    words = {name: words[name] for name in by if name in words and rows[name].nunique() > 1}
    return {
        key: "{}, unit {}".format(*key) + "".join(words[name].format(key[by.index(name)]) for name in words)
        for key in dict.fromkeys(_keys(rows, by))
    }


def _of(rows: pd.DataFrame, key: tuple, by: Sequence[str] = UNIT) -> pd.DataFrame:
    return rows[np.logical_and.reduce([rows[name] == value for name, value in zip(by, key, strict=True)])]


def _dots(ax: Axes, parts: Sequence[tuple[pd.DataFrame, str, str]]) -> None:
    """Ratios side by side by part and seed, because many lie at 0; exactly there they are crosses.

    Args:
        parts: rows of `trials.ratios` with their `place` on the axis, their colour and their name.
    """
    seeds = sorted(set().union(*(rows["seed"] for rows, *_ in parts)))
    slots = len(parts) * len(seeds)
    size = 5 if slots < 5 else 4
    for number, (rows, colour, name) in enumerate(parts):
        slot = number * len(seeds) + rows["seed"].map(seeds.index) - (slots - 1) / 2
        x, dead = rows["place"] + 0.6 * slot / slots, rows["ratio"] == 0
        for marker, which, label, larger in (("o", ~dead, name, 0), ("X", dead, None, 2)):
            if which.any():  # an empty line that is not clipped would take its room at the corner
                style = {"color": colour, "label": label, "markersize": size + larger, "clip_on": False}
                ax.plot(x[which], rows["ratio"][which], marker, **style)
    ax.axhline(1, color="black", linewidth=0.9)
    ax.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    ax.set_ylim(0, max(2, ax.get_ylim()[1]))
    ax.set_yticks([0, 0.1, 0.3, 1, 2], ["0", "0.1", "0.3", "1", "2"])


def _lines(ax: Axes, rows: pd.DataFrame, quantity: str) -> None:
    """What becomes of one unit: itself, its twin and its control, as far as they are there."""
    for kind, (colour, label) in KINDS.items():
        if (rows["kind"] == kind).any():
            _seeds(ax, by_seed(rows[rows["kind"] == kind], quantity), colour, label)


def _seeds(ax: Axes, values: pd.DataFrame, colour: str, label: str) -> None:
    """The median over the seeds (columns), and faintly each seed."""
    marker = "o" if len(values) == 1 else None  # a single measurement would be no line
    ax.plot(values.index, values.median(axis=1), color=colour, label=label, marker=marker)
    if values.shape[1] > 1:
        ax.plot(values.index, values, color=colour, linewidth=0.6, alpha=0.45)


def _bins(activation: str, what: str) -> tuple[bool, np.ndarray]:
    """Whether values of that kind are from -1 to 1, and where the centres of their bins are drawn."""
    bounded = what == "activation" and activation == "tanh"
    edges = BOUNDED if bounded else np.arcsinh(EDGES)
    return bounded, (edges[:-1] + edges[1:]) / 2


def _ridge(ax: Axes, centres: np.ndarray, rows: pd.DataFrame, colour: str, place: float) -> None:
    """A histogram that stands at a height: square roots of shares, the highest is 1.6 high."""
    counts = rows.set_index("bin")["count"]
    share = counts.reindex(range(len(centres)), fill_value=0).to_numpy(float)
    share = np.sqrt(share / max(share.max(), 1))
    ax.fill_between(centres, place, place + 1.6 * share, color=colour, alpha=0.35, lw=0)
    ax.plot(centres, place + 1.6 * share, color=colour, linewidth=0.9)


def _ratios_axis(line: Sequence[Axes], quantity: str) -> None:
    """The axis of a row of ratios to the twin, once all its lines are there: they share it."""
    line[0].set_ylabel(f"{QUANTITIES[quantity]}\nover twin's")
    line[0].set_yscale("log")
    low, high = line[0].get_ylim()
    line[0].set_ylim(max(min(low, 0.5), 0.8 * FLOOR), max(high, 2))
    fine = (1, 1.5, 2, 3, 5, 7) if high < 8 * low else (1, 3)
    line[0].yaxis.set_major_locator(LogLocator(subs=fine, numticks=12))
    line[0].yaxis.set_major_formatter("{x:g}")
    line[0].yaxis.set_minor_locator(NullLocator())
    for ax in line:
        ax.axhline(1, color=KINDS["twin"][0], linewidth=0.9)


def _steps(line: Sequence[Axes]) -> None:
    for ax in line:
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(3))


def _values_axis(ax: Axes, bounded: bool, low: float, high: float) -> None:
    if bounded:
        ax.set_xticks([-1, 0, 1])
        return
    marks = [-1000, -100, -10, -1, 0, 1, 10, 100, 1000]
    shown = [mark for mark in marks if low - 0.3 <= np.arcsinh(mark) <= high + 0.3] or [0]
    ax.set_xticks(np.arcsinh(shown), [f"{mark:,}" for mark in shown])
    ax.set_xlim(low - 0.3, high + 0.3)
