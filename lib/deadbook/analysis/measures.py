"""Numbers read off the tables of runs, which criteria, figures and chapters share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from deadbook.runs import Run
from deadunits.counting import count

CACHED: list[Callable] = []  #: functions of a run that keep what they found, with `cache_clear`
CONFIRMATION = range(5, 10)  # the seeds that verdicts come from; all others are exploration
SIGNED = ("taylor1", "taylor2", "hessian", "loss_change")  # the thesis's scores that have a sign
NAMES = {
    "loss_change": "exact loss change",
    "taylor1": "Taylor 1",
    "taylor2": "Taylor 2",
    "hessian": "Hessian",
    "diagonal": "diagonal",
    "magnitude": "magnitude",
    "random": "random",
    "mrp": "MRP",
    "mrs": "MRS",
    "norm_l1": "L1 norm",
    "norm_l2": "L2 norm",
    "taylor": "Taylor",
    "taylor_squared": "Taylor, squared",
    "mean_activation": "mean activation",
    "pass": "a forward and a backward pass",
    "relu": "ReLU",
    "tanh": "tanh",
    "own": "your network",
    "probe": "images scored on",
    "other": "other images",
    "train_probe": "images trained on",
}


def cached(function: Callable) -> Callable:
    """Keeps what a function of a run and other hashable arguments returns: nobody may change it."""
    CACHED.append(lru_cache(maxsize=4096)(function))
    return CACHED[-1]


@cached
def rows(run: Run, name: str, **wanted: Any) -> pd.DataFrame:
    """The rows of a run's table that have these values."""
    table = run.table(name)
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


@cached
def lasted(run: Run, limit: float = math.inf) -> bool:
    """Whether a run did not diverge: its losses are finite and below so many nats to the end."""
    tables = [run.table(name) for name in ("final", "training") if run.has(name)]
    if tables and "diverged" in tables[0]:
        return not tables[0]["diverged"].iloc[0]
    losses = [table.filter(regex="loss|^(minibatch|probe|other|train_probe|all)$") for table in tables]
    return all((loss.abs() < limit).all(axis=None) for loss in losses)  # of NaN false


def diverged(runs: Iterable[Run]) -> str | None:
    """The runs whose loss became NaN (or infinite), in words; None: there are none."""
    names = []
    for run in runs:
        if not lasted(run):
            settings, pruned = run.info["settings"], f" pruned by {run.by}" if run.by else ""
            names.append(f"{NAMES[settings['activation']]}{pruned}, seed {settings['seed']}")
    return "; ".join(names) or None


def rows_of(runs: Iterable[Run], name: str, column: str) -> pd.DataFrame:
    """A table of the runs that have it, without the rows whose `column` is NaN or infinite (divergence)."""
    tables = [table for table in (run.table(name) for run in runs if run.has(name)) if len(table)]
    every = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({column: []})
    return every[np.isfinite(every[column].astype(float))]


def last_epoch(rows: pd.DataFrame) -> pd.DataFrame:
    """The measurements in the last epoch of the training."""
    return rows[rows["epoch"] > rows["epoch"].max() - 1]


@cached
def final_units(run: Run, on: str) -> pd.DataFrame:
    """Means over the last epoch, by (layer, unit); `mean_`: the layer's; `others`: MRP of its other units."""
    units = rows(run, "units", set=on) if run.has("units") else pd.DataFrame()
    if units.empty:
        return pd.DataFrame()
    names = [name for name in ("mrp", "gradient", "norm_in", "norm_out") if name in units]
    means = last_epoch(units).groupby(["layer", "unit"])[names].mean()
    by_layer = means.groupby("layer")
    means["others"] = by_layer["mrp"].transform("sum") - means["mrp"]
    return means.join(by_layer[names].transform("mean").add_prefix("mean_"))


def spearman(a: pd.Series, b: pd.Series) -> float:
    """Spearman's rank correlation, of series that are indexed alike; nan where one is constant."""
    x, y = (ranks - ranks.mean() for ranks in (a.rank().to_numpy(), b.rank().to_numpy()))
    scale = ((x @ x) * (y @ y)) ** 0.5
    return float(x @ y / scale) if scale > 0 else math.nan


def lowest_shared(before: pd.Series, after: pd.Series) -> float:
    """The share of the lower half of `before` that is in the lower half of `after`; indexed alike."""
    half = len(before) // 2
    low, still = (set(values.sort_values(kind="stable").index[:half]) for values in (before, after))
    return len(low & still) / half if half else float("nan")


def peaks(penalty: pd.Series, after: int, times: float = 2, window: int = 11) -> float:
    """Share of the measurements after a step above so many times the centred running median."""
    usual = penalty.rolling(window, center=True, min_periods=window // 2 + 1).median()
    late = penalty.index > after
    return float((penalty[late] > times * usual[late]).mean())


#: Quantiles of Student's t, two-sided, by its degrees of freedom from 1 on.
STUDENT = {
    0.95: (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262),
    0.9: (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833),
}


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The t interval of a mean; of fewer than two numbers nan."""
    if len(values) < 2:
        return float("nan"), float("nan")
    quantile = STUDENT[level][min(len(values) - 2, 8)]
    half = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def second_half(rows: pd.DataFrame) -> pd.DataFrame:
    """The measurements in the second half of the training."""
    return rows[rows["step"] > rows["step"].max() / 2]


def mean_penalties(penalties: pd.DataFrame, fraction: float = 0.8) -> pd.DataFrame:
    """Mean penalty of the thesis's scorers (rows) by the set scored and judged on (columns)."""
    thesis = ["magnitude", *SIGNED, *(f"{scorer}_abs" for scorer in SIGNED)]
    rows = penalties[(penalties["fraction"] == fraction) & (penalties["scored_on"] == penalties["set"])]
    common = set.intersection(*(set(steps) for _, steps in rows.groupby("set")["step"])) if len(rows) else ()
    rows = rows[rows["step"].isin(list(common)) & rows["scorer"].isin(thesis)]
    return rows.groupby(["scorer", "set"])["penalty"].mean().unstack("set")


def rank_correlations(scores: pd.DataFrame, scorers: Iterable[str]) -> dict[str, float]:
    """Spearman's correlation of each score with the exact loss change, over the weights of a table."""
    return {scorer: spearman(score_of(scores, scorer), scores["loss_change"]) for scorer in scorers}


def with_second_order(rows: pd.DataFrame, second: Sequence[float], times: float) -> float:
    """Mean over steps of Spearman's correlation of Taylor 1 + times * second with the loss change."""
    ranks = pd.DataFrame({"a": rows["taylor1"] + times * second, "b": rows["loss_change"]})
    ranks = ranks.groupby(rows["step"]).rank()
    ranks -= ranks.groupby(rows["step"]).transform("mean")
    products = {"ab": ranks["a"] * ranks["b"], "aa": ranks["a"] ** 2, "bb": ranks["b"] ** 2}
    sums = pd.DataFrame(products).groupby(rows["step"]).sum()
    return float((sums["ab"] / np.sqrt(sums["aa"] * sums["bb"])).mean())


def by_lambda(scores: pd.DataFrame, lambdas: Sequence[float]) -> pd.DataFrame:
    """`with_second_order` in the last epoch by lambda, of row sums and of the diagonal if it is there."""
    rows = []
    for (activation, seed), of in scores.groupby(["activation", "seed"]) if len(scores) else ():
        last = last_epoch(of)
        seconds = {"row sums": last["hessian"]}
        if "diagonal" in last and last["diagonal"].notna().all():
            seconds["diagonal"] = 2 * (last["diagonal"] - last["taylor1"])
        about = {"activation": activation, "seed": seed}
        rows += [
            about | {"second order": name, "lambda": at, "correlation": with_second_order(last, second, at)}
            for name, second in seconds.items()
            for at in lambdas
        ]
    return pd.DataFrame(rows)


def score_of(scores: pd.DataFrame, scorer: str) -> pd.Series:
    """A column of a table `scores`; the thesis's Taylor 2 is the sum of two of them."""
    return scores["taylor1"] + scores["hessian"] if scorer == "taylor2" else scores[scorer]


def parameters(run: Run) -> int:
    """Weights and biases of the network; of layers that are not pruned only the unpruned twin knows."""
    if not run.by and run.has("removal"):
        return int(run.table("removal")["parameters"].max())
    return len(run.table("values")) + int(run.table("weights")["units"].sum())


def chosen_removal(
    pruned: Run, on: str = "probe", twin: Run | None = None, points: float = 0.3
) -> dict[str, float] | None:
    """The smallest network within so many points of the masked one on `on`, with its share of the parameters.

    None: there is no such network, or the training diverged. With a twin, layers that were not pruned count.
    """
    removal = pruned.table("removal") if pruned.has("removal") else None
    if removal is None or diverged([pruned]):
        return None
    every = parameters(twin if twin is not None and twin.has("removal") else pruned)
    enough = pruned.table("final")[f"{on}_accuracy"][0] - points / 100
    left = removal[removal["carried"] & (removal[f"{on}_accuracy"] >= enough - 1e-9)]
    if left.empty:
        return None
    best = left.sort_values(["parameters", "fnz"]).iloc[0].to_dict()
    return best | {"share": best["parameters"] / every}


def mean_correlations(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over measurements of `rank_correlations`: a row (activation, seed), a column a scorer."""
    if scores.empty:
        return pd.DataFrame()
    scorers = ("taylor1", "taylor2", "hessian", "diagonal", "magnitude")
    known = [scorer for scorer in scorers if scorer == "taylor2" or scorer in scores]
    by = scores.groupby(["activation", "seed", "step"])[list(scores.columns)]
    found = by.apply(lambda one: pd.Series(rank_correlations(one, known)))
    return found.groupby(["activation", "seed"]).mean()


def crowding(scores: pd.DataFrame, fraction: float) -> tuple[float, float]:
    """In how many units the weights of lowest loss change sit, on average, and random ones would.

    Args:
        scores: rows of a table `scores` with one layer, whose units have the same number of weights.
        fraction: of the weights to look at.
    """
    size = int(scores["weight"].max()) + 1
    units = int(scores["units"].iloc[0])
    fan_in, removed = size // units, count(fraction, size)
    lowest = scores.sort_values("loss_change").groupby(["seed", "step"]).head(removed)
    crowded = (lowest["weight"] // fan_in).groupby([lowest["seed"], lowest["step"]]).nunique()
    return float(crowded.mean()), units * (1 - comb(size - fan_in, removed) / comb(size, removed))


def signal_ratios(signals: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over measurements of `ratios_by_step`: a row (activation, seed)."""
    ratios = ratios_by_step(signals, scores)
    return ratios if ratios.empty else ratios.groupby(["activation", "seed"]).mean()


def ratios_by_step(signals: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Means of the factors of Eq. 2.4 over weights with S < 0, divided by those over the others."""
    factors = ["gradient", "by_image", "output", "input"]
    if signals.empty:
        return pd.DataFrame(columns=factors)
    on = ["activation", "seed", "step", "layer", "weight"]
    rows = signals.merge(scores[[*on, "loss_change"]], on=on)
    rows["negative"] = rows["loss_change"] < 0
    by = ["activation", "seed", "step"]
    negative, others = (
        rows[rows["negative"] == which].groupby(by)[factors].mean() for which in (True, False)
    )
    return negative / others


def unit_correlations(
    scores: pd.DataFrame,
    scorers: Sequence[str],
    by: Sequence[str] = ("seed", "activation", "layer", "step"),
) -> pd.DataFrame:
    """Spearman's correlation of each score with MRP over the units of a layer: a row a measurement.

    Args:
        by: the columns that tell one measurement of a layer from another.
    """
    groups = scores.groupby(list(by))
    group, names = groups.ngroup().to_numpy(), ["mrp", *scorers]

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, values, groups.ngroups)

    centred = {}
    for name, ranks in groups[names].rank().items():
        there, values = ranks.notna().to_numpy(), ranks.fillna(0).to_numpy()
        means = sums(values) / np.maximum(sums(there), 1)
        centred[name] = np.where(there, values - means[group], 0)
    squares = {name: sums(values**2) for name, values in centred.items()}
    squares["mrp"][squares["mrp"] == 0] = np.nan  # undefined where all units are alike
    with np.errstate(invalid="ignore"):
        found = {
            name: sums(centred[name] * centred["mrp"]) / (squares[name] * squares["mrp"]) ** 0.5
            for name in scorers
        }
    return pd.DataFrame(found, index=groups.size().index)


def same_choice(scores: pd.DataFrame, scorers: Sequence[str], fraction: float) -> pd.Series:
    """Whether all scorers prune the same units, by step; rows of one layer and one run."""
    scores = scores.sort_values("unit", ignore_index=True)
    by_step = scores.groupby("step")
    number = by_step["unit"].transform("size").map(lambda units: count(fraction, units))
    chosen = by_step[list(scorers)].rank(method="first", na_option="bottom").le(number, axis=0)
    return chosen.eq(chosen[scorers[0]], axis=0).all(axis=1).groupby(scores["step"]).all()


def surviving_correlations(pruned: Run, twin: Run) -> dict[str, float]:
    """Pearson's correlation of the sizes of the weights left with the twin's, in layers that both have."""
    found, known = {}, set(twin.table("weights")["layer"])
    for layer in pruned.table("weights")["layer"]:
        if layer not in known:
            continue
        own, other = np.abs(weights(pruned, layer)), np.abs(weights(twin, layer))
        left = own != 0  # between units that stay
        found[layer] = float(np.corrcoef(own[left], other[left])[0, 1]) if left.sum() > 1 else float("nan")
    return found


def weights(run: Run, layer: str) -> np.ndarray:
    """The weights of a layer at the end of a run: (units, channels, height, width)."""
    shape = run.table("weights").set_index("layer").loc[layer, ["units", "channels", "height", "width"]]
    values = run.table("values").query("layer == @layer").sort_values("weight")["value"]
    return values.to_numpy().reshape(shape.to_numpy(int))


def empty_units(run: Run, layer: str) -> int:
    """How many units of a layer have no weights left."""
    return int((weights(run, layer) == 0).all((1, 2, 3)).sum())


def chance_of_two_empty(units: int, size: int, left: int) -> float:
    """How likely at least two units of `size` weights are empty if `left` of all weights stay, at random.

    By inclusion and exclusion over the sets of k units that are empty.
    """
    n = units * size  # in whole numbers: with 64 units the terms of the sum reach 1e18 and cancel out
    sums = [comb(units, k) * comb(n - k * size, left) for k in range(units + 1)]
    return sum((-1) ** k * (k - 1) * sums[k] for k in range(2, units + 1)) / comb(n, left)


def largest_kept(run: Run, twin: Run, layer: str, top: float = 0.1) -> float:
    """Share of the twin's largest tenth of a layer's weights that the pruned run still has."""
    sizes = np.abs(weights(twin, layer))
    return float((weights(run, layer)[sizes >= np.quantile(sizes, 1 - top)] != 0).mean())


def layers_after(pruned: Iterable[Run], twins: Iterable[Run], layers: Iterable[str]) -> pd.DataFrame:
    """A row a layer and a pruned run: what is left of its weights and units, against its twin."""
    return pd.DataFrame(
        {
            "pruned_by": run.by,
            "layer": layer,
            "weights left": float((weights(run, layer) != 0).mean()),
            "units without weights": empty_units(run, layer),
            "of": len(weights(run, layer)),
            "twin's largest tenth kept": largest_kept(run, twin, layer),
        }
        for run, twin in zip(pruned, twins, strict=True)
        for layer in layers
    )


def steady(value: float) -> float:
    """To nine significant digits, before it is rounded to be shown.

    A share or a rank correlation often lies just between two numbers (0.975 as a whole percentage), where the
    last digits, which differ between processors, would decide.
    """
    return float(f"{value:.9g}")


def in_seeds(number: int) -> str:
    """A number of seeds in words."""
    return f"{number} seed{'s' if number != 1 else ''}"
