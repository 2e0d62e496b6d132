"""Figures of chapter 3; each is a function of a table, most of `trials.curves`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from deadbook.figures.style import STYLE, WIDTH, band, legend, panels
from deadunits.counting import BOUNDED, EDGES

KINDS = {
    "twin": ("#6E6E6E", "not attacked"),
    "attack": ("#D55E00", "attacked"),
    "control": ("#0072B2", "control"),
}
QUANTITIES = {  # columns of the table `units`: the name on the axis, and whether the axis is logarithmic
    "mrp": ("MRP in nats", False),
    "mrs": ("MRS in nats", False),
    "norm_out": ("outgoing\nweights", False),
    "gradient": ("output\ngradient", True),
    "norm_in": ("incoming\nweights", True),
    "weight_gradient": ("weight\ngradient", True),
    "minibatch": ("training\nloss", False),
}
UNIT = ("layer", "unit")
SERIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")  # attacks in one panel


NOTHING = "no measurements to show: the losses diverged, too few were made, or nothing was attacked"


def _or_nothing(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Of an empty table a figure that says so: the page refers to it by its number."""

    @functools.wraps(draw)
    def drawn(rows: pd.DataFrame | Mapping[str, pd.DataFrame], *others: object, **how: object) -> Figure:
        if isinstance(rows, Mapping):
            rows = {name: _drawable(table) for name, table in rows.items() if len(table)}
        else:
            rows = _drawable(rows)
        others = tuple(_drawable(one) if isinstance(one, pd.DataFrame) else one for one in others)
        return draw(rows, *others, **how) if len(rows) else _nothing()

    return drawn


def _drawable(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the numbers of a training that is about to diverge, which no axis can hold."""
    numbers = rows.select_dtypes("float")
    return rows.assign(**numbers.astype(float).where(numbers.abs() < 1e30)) if len(numbers.columns) else rows


def _nothing() -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6))
        figure.text(0.5, 0.5, NOTHING, ha="center", va="center")
    return figure


def lives(history: pd.DataFrame, quantities: Mapping[str, str]) -> Figure:
    """Section 3.2: what becomes of a few units; a panel a quantity, a line a unit.

    Args:
        history: a row a unit and step, with the columns `unit`, `step` and those of `quantities`, which says
            what their axes are called.
    """
    with panels(1, len(quantities), 3.0, sharex=True) as (figure, axes):
        for ax, (column, name) in zip(axes.flat, quantities.items(), strict=True):
            for unit, colour in zip(dict.fromkeys(history["unit"]), SERIES, strict=False):
                own = history[history["unit"] == unit]
                ax.plot(own["step"], own[column], color=colour, label=unit)
            ax.set_ylabel(name)
            ax.set_ylim(bottom=0)
        _steps(axes[0])
        legend(figure, axes.flat[0])
    return figure


@_or_nothing
def fates(
    rows: pd.DataFrame,
    losses: pd.DataFrame | None = None,
    quantities: Sequence[str] = tuple(QUANTITIES),
    by: Sequence[str] = UNIT,
) -> Figure:
    """Figures 3.1, 3.5 and 3.9: what becomes of attacked units; a row a quantity, a column a unit.

    Args:
        rows: from `trials.curves`, of several units and one kind of attack.
        losses: the same of the table `training`, for the row `minibatch`.
        by: what has a column of its own, the layer and the unit first; what is not named is averaged.
    """
    columns = _columns(rows, by)
    quantities = [one for one in quantities if one != "minibatch" or losses is not None]
    with panels(len(quantities), len(columns), 1.25 * len(quantities) + 0.5, sharex=True, sharey="row") as (
        figure,
        axes,
    ):
        for line, quantity in zip(axes, quantities, strict=True):
            for ax, key in zip(line, columns, strict=True):
                _lines(ax, _of(losses if quantity == "minibatch" else rows, key, by), quantity)
            _limits(line[0], quantity)
        for ax, title in zip(axes[0], columns.values(), strict=True):
            ax.set_title(title)
        _steps(axes[-1])
        figure.align_ylabels(axes[:, 0])
        legend(figure, axes[0, 0])
    return figure


@_or_nothing
def by_attack(
    rows: pd.DataFrame,
    by: str,
    losses: pd.DataFrame | None = None,
    quantities: Sequence[str] = ("mrp", "mrs", "gradient", "norm_in", "minibatch"),
) -> Figure:
    """Figures 3.3, 3.4, 3.7 and Appendix D: attacks that differ in one setting, mean and range over seeds.

    Args:
        rows: from `trials.curves`.
        by: what differs, `start` or `multiplier`.
        losses: the same of the table `training`.
    """
    units, values = _columns(rows), sorted(rows[by].unique())
    quantities = [one for one in quantities if one != "minibatch" or losses is not None]
    name = {"start": "from step {:,.0f}", "multiplier": "times {:,g}"}[by]
    with panels(len(quantities), len(units), 1.45 * len(quantities) + 0.5, sharex=True) as (figure, axes):
        for line, quantity in zip(axes, quantities, strict=True):
            for ax, unit in zip(line, units, strict=True):
                own = _of(losses if quantity == "minibatch" else rows, unit)
                band(ax, _by_seed(own[own["kind"] == "twin"], quantity), *KINDS["twin"], smooth=1)
                for value, colour in zip(values, SERIES, strict=False):
                    mine = _by_seed(own[(own["kind"] == "attack") & (own[by] == value)], quantity)
                    band(ax, mine, colour, name.format(value), smooth=1, alpha=0.1)
                _limits(ax, quantity)  # each its own: units of different layers differ by a lot
                usual = own[quantity].quantile(0.99)
                if own[quantity].max() > 3 * usual:  # a spike would leave the rest no room
                    ax.set_ylim(top=1.4 * usual)
            for ax in line[1:]:
                ax.set_ylabel("")
        for ax, title in zip(axes[0], units.values(), strict=True):
            ax.set_title(title)
        _steps(axes[-1])
        figure.align_ylabels(axes[:, 0])
        legend(figure, axes[0, 0])
    return figure


@_or_nothing
def effects(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """The ratio of final MRPs, attacked over not attacked, over a setting: a point a seed, a cross at 0.

    Args:
        tables: from `trials.ratios`; a panel each, by what differs: `start`, `multiplier` or `unit`.
    """
    with panels(1, len(tables), 2.9, sharey=True) as (figure, axes):
        for ax, (by, rows) in zip(axes.flat, tables.items(), strict=True):
            rows = rows[rows["kind"] == "attack"]
            colours = dict(zip(dict.fromkeys(rows["layer"]), SERIES[::3], strict=False))
            parts = [(rows[rows["layer"] == layer], colour, layer) for layer, colour in colours.items()]
            values = sorted(rows[by].unique())
            _dots(ax, parts, lambda own, by=by, values=values: own[by].map(values.index))
            ax.set_xticks(
                range(len(values)),
                [f"{value:,g}" if by == "multiplier" else f"{value:,.0f}" for value in values],
            )
            ax.set_xlabel({"start": "step of the first attack"}.get(by, by))
        axes.flat[0].set_ylabel("final MRP over\nthe twin's")
        legend(figure, axes.flat[0])
    return figure


@_or_nothing
def beside_twins(rows: pd.DataFrame) -> Figure:
    """The ratio of final MRPs, of attacked units and of their controls, over their twins': a point a seed.

    Args:
        rows: from `trials.ratios`, of several units and one kind of attack.
    """
    titles = _columns(rows)
    units = list(titles)
    with panels(1, 1, 2.6) as (figure, axes):
        ax = axes[0, 0]
        parts = [(rows[rows["kind"] == kind], *KINDS[kind]) for kind in ("attack", "control")]
        _dots(ax, parts, lambda own: pd.Series(map(units.index, _keys(own)), own.index, dtype=float))
        ax.set_xticks(range(len(units)), titles.values())
        ax.set_ylabel("final MRP over\nthe twin's")
        legend(figure, ax)
    return figure


@_or_nothing
def ridges(values: pd.DataFrame, activation: str, what: str) -> Figure:
    """Figures 3.2, 3.6, 3.8 and 3.10: how a unit's values are spread, from early (below) to late (above).

    Heights are square roots of shares, so that what is spread thin shows beside what is piled up.

    Args:
        values: from `trials.curves` of the table `values`; a column a unit, start and seed.
        activation: of the network; tells the bins.
        what: `output` (before the nonlinearity) or `activation` (what the next layer gets).
    """
    own = values[values["what"] == what]
    bounded, centres = _bins(activation, what)
    by = (*UNIT, "start", "seed")
    columns = _columns(own, by)
    steps = _thinned(sorted(own["step"].unique()), 10)
    kinds = [kind for kind in KINDS if (own["kind"] == kind).any()]
    low, high = (centres[own["bin"].min()], centres[own["bin"].max()])
    with panels(len(kinds), len(columns), 2.5 * len(kinds) + 0.2, sharex=True, sharey=True) as (figure, axes):
        for line, kind in zip(axes, kinds, strict=True):
            for ax, (key, title) in zip(line, columns.items(), strict=True):
                here = _of(own[own["kind"] == kind], key, by).drop_duplicates(["step", "bin"])
                for place, step in reversed(list(enumerate(steps))):
                    _ridge(ax, centres, here[here["step"] == step], KINDS[kind], place)
                ax.grid(False)
                ax.set_title(title)
            every = 1 if len(steps) < 6 else 3
            line[0].set_yticks(range(0, len(steps), every), [f"{step:,}" for step in steps[::every]])
            line[0].set_ylabel(f"step ({KINDS[kind][1]})")
        for ax in axes[-1]:
            _values_axis(ax, bounded, low, high)
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
    own = values[values["what"] == "output"]
    bounded, centres = _bins(activation, "output")
    quantities = ("mrp", "mrs", "minibatch")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
        axes = figure.subplot_mosaic([["values", one] for one in quantities], width_ratios=[1.1, 1])
        for kind in ("twin", "attack"):
            here = own[(own["kind"] == kind) & (own["step"] == step)].drop_duplicates("bin")
            _ridge(axes["values"], centres, here, KINDS[kind], 0)
        low, high = centres[own["bin"].min()], centres[own["bin"].max()]
        _values_axis(axes["values"], bounded, low, high)
        axes["values"].set(title=f"outputs at step {step:,}", yticks=[], ylim=(0, 1.7))
        axes["values"].grid(False)
        for quantity in quantities:
            ax = axes[quantity]
            _lines(ax, losses if quantity == "minibatch" else rows, quantity)
            ax.axvline(step, color="black", linewidth=0.9)
            _limits(ax, quantity)
            ax.tick_params(labelbottom=quantity == quantities[-1])
        _steps([axes[quantities[-1]]])
        figure.align_ylabels([axes[one] for one in quantities])
        legend(figure, axes["mrp"])
    return figure


@_or_nothing
def rank_agreement(correlations: pd.DataFrame) -> Figure:
    """Section 3.7: how scores rank units against MRP; a point a run, a column a network.

    Args:
        correlations: a row a run and layer with the columns `network`, `layer`, and one for each score.
    """
    networks, layers = (list(dict.fromkeys(correlations[one])) for one in ("network", "layer"))
    scores = {
        "mrs": ("#D55E00", "MRS"),
        "norm_in": ("#009E73", "incoming weights"),
        "gradient": ("#0072B2", "output gradient"),
    }
    with panels(1, len(networks), 2.9, sharey=True) as (figure, axes):
        for ax, network in zip(axes.flat, networks, strict=True):
            here = correlations[correlations["network"] == network]
            for shift, (score, (colour, label)) in zip((-0.2, 0, 0.2), scores.items(), strict=True):
                place = here["layer"].map(layers.index) + shift
                ax.plot(place, here[score], "o", color=colour, alpha=0.5, markersize=4, label=label)
            ax.axhline(0, color="black", linewidth=0.9)
            ax.set_xticks(range(len(layers)), layers)
            ax.set_title(network)
        axes.flat[0].set_ylabel("mean rank correlation\nwith MRP")
        legend(figure, axes.flat[0])
    return figure


@_or_nothing
def mrs_over_mrp(rows: pd.DataFrame) -> Figure:
    """Section 3.7: the estimate MRS over the exact MRP, a point a unit; a column a network, a colour a layer.

    Args:
        rows: units of several runs at one time, with the columns `network`, `layer`, `mrp` and `mrs`.
    """
    with panels(1, rows["network"].nunique(), 3.1, sharex=True, sharey=True) as (figure, axes):
        top = rows[["mrp", "mrs"]].max(axis=None)
        ends = (top / 1e6, 2 * top)
        for ax, (network, here) in zip(axes.flat, rows.groupby("network", sort=False), strict=True):
            for (layer, own), colour in zip(here.groupby("layer", sort=False), SERIES[::2], strict=False):
                x, y = (own[one].clip(lower=ends[0]) for one in ("mrp", "mrs"))
                ax.plot(x, y, "o", color=colour, alpha=0.5, markersize=4, mew=0, label=layer)
            ax.plot(ends, ends, color="black", linewidth=0.9)
            ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=network, xlabel="MRP in nats")
        axes.flat[0].set_ylabel("MRS in nats")
        legend(figure, axes.flat[0])
    return figure


@_or_nothing
def half_time(rows: pd.DataFrame, below: float) -> Figure:
    """Section 3.2: units at the end of the training over the same at half-time, a row a way to be useless.

    Args:
        rows: a row a unit of a run, with the columns `network`, `what`, `half` and `end`: a quantity divided
            by its layer's mean at that time.
        below: where the threshold is.
    """
    networks, kinds = (list(dict.fromkeys(rows[one])) for one in ("network", "what"))
    low = below / 100
    with panels(len(kinds), len(networks), 2.6 * len(kinds) + 0.2, sharex=True, sharey=True) as (
        figure,
        axes,
    ):
        for ax, network in zip(axes[0], networks, strict=True):
            ax.set_title(network)
        for line, kind in zip(axes, kinds, strict=True):
            for ax, network in zip(line, networks, strict=True):
                own = rows[(rows["network"] == network) & (rows["what"] == kind)]
                x, y = own["half"].clip(lower=low), own["end"].clip(lower=low)
                ax.plot(x, y, "o", color="#0072B2", alpha=0.25, markersize=3, mew=0)
                ax.axvline(below, color="black", linewidth=0.9)
                ax.axhline(below, color="black", linewidth=0.9)
                ax.set(xscale="log", yscale="log")
            line[0].set_ylabel(f"{kind}\nat the end")
        for ax in axes[-1]:
            ax.set_xlabel("at half-time")
    return figure


def _keys(rows: pd.DataFrame, by: Sequence[str] = UNIT) -> Iterator[tuple]:
    return zip(*(rows[one] for one in by), strict=True)


def _columns(rows: pd.DataFrame, by: Sequence[str] = UNIT) -> dict[tuple, str]:
    """What has a column of its own in a figure, in the order of the rows, and its title."""
    words = {"start": ", from {:,}", "seed": ", seed {}"}
    words = {one: words[one] for one in by if one in words and rows[one].nunique() > 1}
    return {
        key: "{}, unit {}".format(*key) + "".join(words[one].format(key[by.index(one)]) for one in words)
        for key in dict.fromkeys(_keys(rows, by))
    }


def _of(rows: pd.DataFrame, key: tuple, by: Sequence[str] = UNIT) -> pd.DataFrame:
    return rows[np.logical_and.reduce([rows[one] == value for one, value in zip(by, key, strict=True)])]


def _dots(
    ax: Axes, parts: Sequence[tuple[pd.DataFrame, str, str]], place: Callable[[pd.DataFrame], pd.Series]
) -> None:
    """Ratios side by side by part and seed, because many lie at 0; exactly there they are crosses.

    Args:
        parts: rows of `trials.ratios`, their colour and their name.
        place: where on the axis they belong.
    """
    seeds = sorted(set().union(*(rows["seed"] for rows, *_ in parts)))
    slots = len(parts) * len(seeds)
    size = 5 if slots < 5 else 4
    for number, (rows, colour, name) in enumerate(parts):
        slot = number * len(seeds) + rows["seed"].map(seeds.index) - (slots - 1) / 2
        x, dead = place(rows) + 0.6 * slot / slots, rows["ratio"] == 0
        for marker, some, label, more in (("o", ~dead, name, 0), ("X", dead, None, 2)):
            if some.any():  # an empty line that is not clipped would take its room at the corner
                how = {"color": colour, "label": label, "markersize": size + more, "clip_on": False}
                ax.plot(x[some], rows["ratio"][some], marker, **how)
    ax.axhline(1, color="black", linewidth=0.9)
    ax.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    ax.set_ylim(0, max(2, ax.get_ylim()[1]))
    ax.set_yticks([0, 0.1, 0.3, 1, 2], ["0", "0.1", "0.3", "1", "2"])


def _by_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    return rows.groupby(["step", "seed"])[column].mean().unstack("seed")


def _lines(ax: Axes, own: pd.DataFrame, quantity: str) -> None:
    """What becomes of one unit: a line for itself, its twin and its control, as far as they are there."""
    for kind, (colour, label) in KINDS.items():
        if (own["kind"] == kind).any():
            band(ax, _by_seed(own[own["kind"] == kind], quantity), colour, label, smooth=1)


def _bins(activation: str, what: str) -> tuple[bool, np.ndarray]:
    """Whether values of that kind are from -1 to 1, and where the centres of their bins are drawn."""
    bounded = what == "activation" and activation == "tanh"
    edges = BOUNDED if bounded else np.arcsinh(EDGES)
    return bounded, (edges[:-1] + edges[1:]) / 2


def _ridge(ax: Axes, centres: np.ndarray, rows: pd.DataFrame, kind: tuple[str, str], place: float) -> None:
    """A histogram that stands at a height: square roots of shares, the highest is 1.6 high."""
    counts = rows.set_index("bin")["count"]
    share = counts.reindex(range(len(centres)), fill_value=0).to_numpy(float)
    share = np.sqrt(share / max(share.max(), 1))
    colour, label = kind
    ax.fill_between(centres, place, place + 1.6 * share, color=colour, alpha=0.35, lw=0)
    ax.plot(centres, place + 1.6 * share, color=colour, linewidth=0.9, label=label)


def _limits(ax: Axes, quantity: str) -> None:
    """The axis of a row, once all its lines are there: they share it."""
    name, logarithmic = QUANTITIES[quantity]
    ax.set_ylabel(name)
    if logarithmic:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        low = max(low, high / 3000)  # a dead unit's gradient would stretch the axis without end
        ax.set_ylim(low, high)
        finest = (1, 1.5, 2, 3, 4, 6, 8)
        ticks = {100: (1,), 15: (1, 3), 5: (1, 2, 5)}  # the wider the axis, the fewer
        chosen = next((subs for span, subs in ticks.items() if high > span * low), finest)
        ax.yaxis.set_major_locator(LogLocator(subs=chosen, numticks=12))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    elif quantity != "minibatch":
        ax.set_ylim(bottom=0)


def _steps(line: Sequence[Axes]) -> None:
    for ax in line:
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(3))


def _thinned(steps: list[int], number: int) -> list[int]:
    every = -(-len(steps) // number)
    return steps[::-1][::every][::-1]


def _values_axis(ax: Axes, bounded: bool, low: float, high: float) -> None:
    if bounded:
        ax.set_xticks([-1, 0, 1])
        return
    marks = [-1000, -100, -10, -1, 0, 1, 10, 100, 1000]
    shown = [mark for mark in marks if low - 0.3 <= np.arcsinh(mark) <= high + 0.3] or [0]
    ax.set_xticks(np.arcsinh(shown), [f"{mark:,}" for mark in shown])
    ax.set_xlim(low - 0.3, high + 0.3)
