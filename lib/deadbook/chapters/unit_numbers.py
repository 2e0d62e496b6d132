"""Numbers for the prose of chapter 4, from the tables of its runs; what a run lacks is missing or NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from deadbook import claims
from deadbook.analysis import measures, trials
from deadbook.analysis.measures import NAMES, in_seeds, second_half
from deadbook.chapters.page import joined, spread
from deadbook.claims.evidence import Evidence
from deadbook.figures.style import in_order as in_order  # for the notebook
from deadbook.figures.units import THESIS
from deadbook.runs import Run
from deadunits.counting import count

NEAR_ZERO = 0.4  # at smaller fractions the penalty with ReLU is near 0, and a ratio to it means little
DIVERGED = 20  # nats; guessing among ten classes costs 2.3
#: Claims whose outcome is shown at both widths: the value of their evidence, and what the thesis states.
AT_BOTH_WIDTHS = {
    "C4.3": ("fractions in that order", "MRP, MRS, norms"),
    "C4.4": ("share below 0", "now and then"),
    "C4.5": ("largest ratio", "up to 7"),
    "C4.6": ("random over MRS, tanh", "hardly above 1"),
    "C4.9": ("training loss", "0.046"),
    "C4.10": ("training loss", "0.053"),
    "C4.11": ("ReLU over tanh", "about 3"),
}


def nearest(fractions: Sequence[float], to: float) -> float:
    """The fraction that is nearest to another."""
    return min(fractions, key=lambda fraction: abs(fraction - to))


def named(layer: str) -> str:
    """A layer, as it is written: 'conv1', or 'layer 1'."""
    return f"layer {layer}" if layer.isdigit() else layer


def where(activation: str, layer: str) -> str:
    """A layer of a network, as it is written."""
    return f"{named(layer)} {'of' if activation == 'own' else 'with'} {NAMES[activation]}"


def diverged(run: Run) -> bool:
    """Whether its loss became NaN, infinite or larger than `DIVERGED` in the training."""
    return not measures.lasted(run, DIVERGED)


def sound(runs: Sequence[Run]) -> list[Run]:
    """Those that did not diverge."""
    return [run for run in runs if not diverged(run)]


def divergence(runs: Sequence[Run]) -> dict[str, int]:
    """How many runs diverged, of how many; empty: none did."""
    number = sum(map(diverged, runs))
    return {"diverged": number, "runs": len(runs), "limit": DIVERGED} if number else {}


def table(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """The same table of several runs, in which what was measured in a run that diverged is NaN."""

    def measured(run: Run) -> pd.DataFrame:
        frame = run.table(name)
        numbers = frame.select_dtypes("float").columns.drop("fraction", errors="ignore")
        return frame.assign(**dict.fromkeys(numbers, math.nan)) if diverged(run) else frame

    return pd.concat(map(measured, runs), ignore_index=True)


def reached(final: pd.DataFrame) -> pd.DataFrame:
    """Losses and accuracy at the end by activation: mean, lowest and highest seed."""
    by = final.groupby("activation")[["train_loss", "test_loss", "accuracy"]]
    return by_name(by.agg(spread)).rename(columns=lambda name: name.replace("_", " "))


def with_means(penalties: pd.DataFrame, on: str = "train_probe") -> pd.DataFrame:
    """Penalties of units that are replaced as in the thesis, on one set of images."""
    return penalties[(penalties["set"] == on) & (penalties["constant"] == "mean of h")]


def mean_costs(rows: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Mean penalty in the second half of the training: a row a run and layer, a column a scorer."""
    rows = second_half(rows[rows["fraction"] == fraction])
    by = ["activation", "layer", "scorer", "seed"]
    return rows.groupby(by, sort=False)["penalty"].mean().unstack("scorer")


def layer_costs(
    costs: pd.DataFrame, layer: str, activation: str, fraction: float, size: int
) -> dict[str, Any]:
    """What random choice costs in a layer, beside the four scores: with one activation, and over all runs."""
    by_run = costs.xs(layer, level="layer").dropna()
    activations = by_run.index.get_level_values("activation")
    if activation not in activations:  # all its runs diverged
        return {}
    mean, worse = (
        by_run[activations == activation].mean(),
        by_run["random"] > by_run[list(THESIS)].max(axis=1),
    )
    words = {"layer": where(activation, layer), "chosen": count(fraction, size), "size": size}
    words |= {"random": mean["random"], "mrp": mean["mrp"], "worse": int(worse.sum()), "runs": len(by_run)}
    return words | {"seeds": in_seeds(by_run.index.get_level_values("seed").nunique())}


def agreement(scores: pd.DataFrame, layer: str, fraction: float) -> str | None:
    """In what share of the measurements the four scores choose the same units: lowest and highest run."""
    rows = scores[scores["layer"] == layer]
    if not 0 < count(fraction, int(rows["unit"].max()) + 1) <= rows["unit"].max():  # nothing to choose
        return None
    by = rows.dropna(subset=list(THESIS)).groupby(["activation", "seed"])
    shares = [measures.same_choice(units, THESIS, fraction).mean() for _, units in by]
    return trials.span(pd.Series(shares, dtype=float), ".0%")


def extremes(values: pd.Series) -> dict[str, Any]:
    """The highest and the lowest of values by activation and layer, and where they are."""
    values = values.dropna()
    if values.empty:
        return {}
    best, worst = values.idxmax(), values.idxmin()
    ends = {"best": values[best], "best_where": where(*best)}
    return ends | ({"worst": values[worst], "worst_where": where(*worst)} if len(values) > 1 else {})


def cheapest(rows: pd.DataFrame, layer: str, activation: str) -> dict[str, Any]:
    """How often, counting seeds and fractions, MRP costs least of the four scores, MRS next, or a norm least.

    Means over the second half of the training. Where they are equal, none is cheaper.
    """
    rows = second_half(rows[(rows["layer"] == layer) & (rows["activation"] == activation)])
    means = rows.groupby(["fraction", "seed", "scorer"])["penalty"].mean().unstack("scorer")
    means = means[list(THESIS)].dropna()
    mrp, mrs, norms = means["mrp"], means["mrs"], means[["norm_l1", "norm_l2"]].min(axis=1)
    counts = {"mrp_first": (mrp < mrs) & (mrp < norms), "mrs_second": (mrp < mrs) & (mrs < norms)}
    counts["norm_first"] = (norms < mrp) & (norms < mrs)
    counts = {name: int(which.sum()) for name, which in counts.items()}
    return {"layer": where(activation, layer), "cases": len(means) or None} | counts


def lowered(penalties: pd.DataFrame, layer: str, activation: str, size: int) -> dict[str, Any]:
    """How often replacing the smallest fraction by MRS lowers the loss: lowest and highest seed, by set."""
    fractions = [fraction for fraction in sorted(penalties["fraction"].unique()) if count(fraction, size)]
    if not fractions:
        return {}
    values: dict[str, Any] = {"few": count(fractions[0], size), "size": size}
    for name, images in {"own": "train_probe", "other": "other"}.items():
        rows = with_means(penalties, images)
        rows = rows[(rows["layer"] == layer) & (rows["activation"] == activation)]
        rows = rows[(rows["fraction"] == fractions[0]) & (rows["scorer"] == "mrs")].dropna(subset="penalty")
        shares = (rows["penalty"] < 0).groupby(rows["seed"]).mean()
        values[name] = trials.span(shares.astype(float), ".0%")
    return values


def relu_beside_tanh(costs: pd.DataFrame, layer: str) -> dict[str, Any]:
    """What random choice costs in a layer, over what the choice by MRS costs, with both activations."""
    means = costs.xs(layer, level="layer").groupby("activation").mean()
    if not {"relu", "tanh"} <= set(means.index):
        return {}
    ratio = (means["random"] / means["mrs"]).where(means["mrs"] > 0)
    pays = "less" if ratio["tanh"] < ratio["relu"] else "more"
    words = {"layer": layer, "pays": pays if ratio.notna().all() else None}
    words |= {f"ratio_{name}": ratio[name] for name in ("relu", "tanh")}
    return words | {f"random_{name}": means["random"][name] for name in ("relu", "tanh")}


def tanh_over_relu(evidence: Sequence[Evidence]) -> dict[str, Any]:
    """Of the evidence on C4.5: in how many seeds the largest ratio is below 0.4; the largest after it."""
    ratios = [_ratios(by_seed) for by_seed in evidence]
    below = sum(max(by_fraction, key=by_fraction.get) < NEAR_ZERO for by_fraction in ratios)
    later = pd.Series(map(_largest_later, evidence), dtype=float)
    return {"below": below or None, "of": len(ratios), "later": later.mean()} if ratios else {}


def _largest_later(evidence: Evidence) -> float:
    return max((ratio for at, ratio in _ratios(evidence).items() if at >= NEAR_ZERO), default=math.nan)


def _ratios(evidence: Evidence) -> dict[float, float]:
    start = "tanh over ReLU at "
    values = evidence.values.items()
    return {float(name.removeprefix(start)): value for name, value in values if name.startswith(start)}


def estimates(scores: pd.DataFrame) -> pd.DataFrame:
    """By activation and layer: rank correlations with MRP over all measurements, and the ratio of the sums.

    The correlations are means over the seeds, of MRS also the lowest seed; the ratio of MRS to MRP is that
    of the sums over a layer in the second half of the training.
    """
    ranks = measures.unit_correlations(scores, ("mrs", "norm_l1", "norm_l2"))
    by_seed = ranks.groupby(["activation", "layer", "seed"], sort=False).mean()
    table = by_seed.groupby(["activation", "layer"], sort=False).mean()
    table["lowest"] = by_seed["mrs"].groupby(["activation", "layer"]).min()
    sums = second_half(scores).groupby(["activation", "layer"])[["mrs", "mrp"]].sum()
    table["ratio"] = (sums["mrs"] / sums["mrp"]).where(sums["mrp"] > 0)
    return table


def estimates_shown(table: pd.DataFrame) -> pd.DataFrame:
    """`estimates` with the names of a page."""
    columns = ["mrs", "lowest", "norm_l1", "norm_l2", "ratio"]
    return by_name(table[columns]).rename(columns={"lowest": "MRS, lowest seed", "ratio": "MRS over MRP"})


def predicting_and_pruning(table: pd.DataFrame, costs: pd.DataFrame) -> dict[str, Any]:
    """Where MRS ranks units more like MRP than both norms, and where its choice costs more than a norm's."""
    norms = table[["norm_l1", "norm_l2"]].max(axis=1)
    better = (table["mrs"] > norms)[table["mrs"].notna() & norms.notna()]
    means = costs.groupby(["activation", "layer"], sort=False).mean()
    costlier = means["mrs"] > means[["norm_l1", "norm_l2"]].min(axis=1)
    other = means.get("mean_activation", pd.Series(math.nan, index=means.index))
    quiet = int((other > means[["mrp", "mrs"]].max(axis=1)).sum())
    return {
        "predicts": int(better.sum()) if len(better) else None,
        "known": len(better),
        "places": len(means),
        "dearer": joined(where(*place) for place in means.index[costlier]),
        "no_dearer": None if costlier.any() or means["mrs"].isna().any() else "",
        "quiet": quiet if other.notna().any() else None,
    }


def stand_ins(rows: pd.DataFrame, fraction: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What replaces the units that MRS chooses: the table of mean penalties, and which one is cheapest.

    Args:
        rows: of `penalties`, by MRS, on one set.
    """
    rows = second_half(rows[rows["fraction"] == fraction])
    by = rows.groupby(["activation", "layer", "constant"], sort=False)
    table = by["penalty"].mean().unstack("constant")
    known = table.dropna(how="all")
    several = known[known.nunique(axis=1) > 1]  # where they differ
    lowest = several.idxmin(axis=1) if len(several) else pd.Series(dtype=object)
    carried = []
    if {"mean of h", "zero"} <= set(known):
        for name, layers in known.groupby("activation", sort=False):
            better, of = int((layers["mean of h"] < layers["zero"]).sum()), "of" if name == "own" else "with"
            carried.append(f"{better} of {len(layers)} layers {of} {NAMES[name]}")
    cheapest = joined(f"{constant} in {where(*place)}" for place, constant in lowest.items())
    return table, {"cheapest": cheapest, "carried": joined(carried)}


def by_name(table: pd.DataFrame) -> pd.DataFrame:
    """A table indexed by activation and layer, with names of activations, to be shown."""
    table = table.reset_index()
    table["activation"] = table["activation"].map(NAMES)
    return table.rename(columns=NAMES)


def at_both_widths(narrow: Sequence[Run], wide: Sequence[Run]) -> pd.DataFrame:
    """Outcomes of claims of 4.1 at both widths of fc1, on the seeds that both have: a row an outcome.

    Columns: `claim`, `thesis` (what it states), and of each width the number by seed (`narrow`, `wide`) and
    in which seeds the criterion holds (`narrow_met`, `wide_met`); both empty where it cannot be evaluated.
    """
    rows, seeds = [], {run.info["settings"]["seed"] for run in wide}
    narrow = [run for run in narrow if run.info["settings"]["seed"] in seeds]
    for name, (value, stated) in AT_BOTH_WIDTHS.items():
        row: dict[str, Any] = {"claim": name, "what": value, "thesis": stated}
        later = row | {"what": f"{value}, f at least {NEAR_ZERO:g}"}
        for width, runs in {"narrow": narrow, "wide": wide}.items():
            evidence = claims.verdict(name, runs).evidence if runs else []
            row[width] = [by_seed.values.get(value, math.nan) for by_seed in evidence]
            row[f"{width}_met"] = [by_seed.holds for by_seed in evidence]
            later[width] = list(map(_largest_later, evidence))
            enough = claims.CLAIMS["C4.5"].thresholds["ratio"]
            later[f"{width}_met"] = [ratio >= enough for ratio in later[width]]
        rows += [row, later] if name == "C4.5" else [row]
    return pd.DataFrame(rows)


def widths_shown(outcomes: pd.DataFrame, narrow: int, wide: int) -> pd.DataFrame:
    """`at_both_widths` as text: numbers as a mean with the lowest and the highest seed, and how often met."""
    shown = outcomes[["claim", "what", "thesis"]].copy()
    for name, units in (("narrow", narrow), ("wide", wide)):
        shown[f"{units} units"] = outcomes[name].map(spread)
        met = outcomes[f"{name}_met"].map(lambda seeds: f"{sum(seeds)} of {len(seeds)}" if seeds else "–")
        shown[f"{units}: criterion met"] = met
    return shown


def width_answer(outcomes: pd.DataFrame, narrow_units: int, wide_units: int) -> dict[str, Any]:
    """Which outcomes the runs of either width meet in 80% of the seeds: their names, and how many."""
    known = outcomes[outcomes["narrow_met"].map(len).gt(0) & outcomes["wide_met"].map(len).gt(0)]
    if known.empty:
        return {}
    words, met = {"outcomes": len(known), "seeds": in_seeds(int(known["wide_met"].map(len).max()))}, {}
    for name, units in {"narrow": narrow_units, "wide": wide_units}.items():
        seeds = known[f"{name}_met"]
        met[name] = seeds.map(lambda held: sum(held) >= claims.ENOUGH * len(held))
        words |= {name: f"{units}", f"{name}_number": int(met[name].sum())}
    names, (narrow, wide) = known["claim"] + " (" + known["what"] + ")", met.values()
    better = words["wide_number"] - words["narrow_number"]
    words["fits"] = (wide_units if better > 0 else narrow_units) if better else None
    words |= {"undecided": None if better else "", "neither": joined(names[~narrow & ~wide])}
    return words | {"narrow_only": joined(names[narrow & ~wide]), "wide_only": joined(names[wide & ~narrow])}


def schedule_jumps(pruned: Sequence[Run], twins: Sequence[Run]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The jump of the loss at each pruning by what stands for the units, and values for the prose.

    A jump is *visible* if in all seeds it is above the 99th percentile of the twin's changes from one
    measurement to the next; it is *made up for* if a later measurement is as low as the loss before.
    """
    rows = table(pruned, "pruned")
    rows = rows[rows["set"] == "train_probe"].assign(jump=rows["after"] - rows["before"])
    jumps = rows.groupby(["fraction", "removal"])["jump"].mean().unstack()
    carried = rows[rows["removal"] == "propagated"]
    losses = table(twins, "training").groupby("seed")["train_probe"]
    usual = losses.apply(lambda loss: loss.diff().quantile(0.99))
    above = (carried["jump"] > carried["seed"].map(usual)).groupby(carried["fraction"]).all()
    training, up = table(pruned, "training"), carried[carried["jump"] > 0]
    lowest = [
        training.loc[(training["seed"] == row.seed) & (training["step"] > row.step), "train_probe"].min()
        for row in up.itertuples()
    ]
    known = carried["jump"].notna().all()
    return jumps, {
        "seen": joined([f"{fraction:g}" for fraction in above.index[above]]),
        "unseen": joined([f"{fraction:g}" for fraction in above.index[~above]]) if known else None,
        "recovered": int((up["before"] >= lowest).sum()),
        "jumps": len(up) or None,
        "seeds": in_seeds(len(pruned)),
        "carried": int((jumps["propagated"] < jumps["bare"]).sum()),
        "prunings": len(jumps.dropna()) or None,
    }


def accuracies(small: pd.DataFrame, dense: pd.DataFrame) -> dict[str, Any]:
    """Mean test accuracies in percent of the networks without units and of their twins, where both are known.

    Args:
        small: rows of `final` of the compacted networks, by seed; `dense` those of the twins.
    """
    pairs = pd.DataFrame({"small": small["accuracy"], "dense": dense["test_accuracy"]}).dropna()
    if pairs.empty:
        return {}
    means = {f"{name}_accuracy": 100 * mean for name, mean in pairs.mean().items()}
    worse = int((pairs["small"] < pairs["dense"]).sum())
    return means | {"worse": worse, "of": len(pairs), "seeds": in_seeds(len(pairs))}


def differ(losses: pd.Series, others: pd.Series) -> str | None:
    """How much losses that were computed in two ways differ at most, in words; None: they are not known."""
    most = (losses - others).abs().max()
    if math.isnan(most):
        return None
    return f"differ by at most {most:.1g}" if most > 0 else "are identical"


def units_left(pruned: Run) -> str:
    """'4 of 8 in conv1, ...': how many units of each layer are left."""
    left = pruned.table("kept").groupby("layer", sort=False)["kept"].agg(["size", "sum"])
    return ", ".join(f"{row['sum']} of {row['size']} in {named(layer)}" for layer, row in left.iterrows())


def emptied(
    pruned: Run, by_weights: Sequence[Run], layers: Sequence[str], known: Sequence[str]
) -> dict[str, Any]:
    """How many units of some layers have no weights left, with units pruned and with weights pruned."""
    layers = [layer for layer in layers if layer in known]
    if not layers or not by_weights:
        return {}
    empty = {"by_units": pruned, "by_weights": by_weights[0]}
    counts = {name: sum(measures.empty_units(run, it) for it in layers) for name, run in empty.items()}
    return counts | {"all_units": sum(len(measures.weights(pruned, layer)) for layer in layers)}


def least_alike(correlations: pd.DataFrame) -> dict[str, Any]:
    """The lowest of correlations (a row a seed, a column a layer), and its layer."""
    lowest = correlations.min().dropna()
    return {"least": lowest.min(), "least_layer": named(lowest.idxmin())} if len(lowest) else {}


def file_sizes(timings: Sequence[Run]) -> pd.DataFrame:
    """Of the networks that were timed: parameters, and files and outputs in kB."""
    columns = {"bytes": "file", "onnx_bytes": "ONNX file", "activation_bytes": "outputs of all layers"}
    if not timings:
        return pd.DataFrame(columns=["network", "parameters", *columns.values()])
    table = timings[0].table("sizes")
    for name, title in columns.items():
        table[title] = (table[name] / 1000).where(table[name] > 0)  # no ONNX file without ONNX
    return table[["network", "parameters", *columns.values()]]


def speeds(timings: Sequence[Run]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Milliseconds for the largest batch by engine, and how much faster the smaller network is."""
    if not timings:
        return pd.DataFrame(), {}
    rows = timings[0].table("speeds")
    largest = rows[rows["batch"] == rows["batch"].max()].set_index(["engine", "network"])
    table = 1000 * largest["seconds"].unstack("network")
    over = largest["over_dense"]
    parameters = timings[0].table("sizes").set_index("network")["parameters"]
    share = parameters["compacted"] / parameters["dense"]
    return table[["dense", "masked", "compacted"]].reset_index(), {
        "faster_contiguous": 1 / over["PyTorch, contiguous", "compacted"],
        "faster_last": 1 / over["PyTorch, channels last", "compacted"],
        "faster_onnx": 1 / over.get(("ONNX Runtime", "compacted"), math.nan),
        "masked_slower": float(rows.loc[rows["network"] == "masked", "over_dense"].median()),
        "share": share,
        "timed": "",
        "less": "" if over.xs("compacted", level="network").min() > share else None,
    }


def means_that_cost(rows: pd.DataFrame) -> dict[str, Any]:
    """Of the points of the slider, those at which the carried means cost accuracy against bare removal.

    Args:
        rows: table `units` of `explorer`.
    """
    both = rows.set_index(["scorer", "fraction", "means"])["accuracy"].unstack("means")
    lost = 100 * (both[False] - both[True])
    lost = lost[[fraction > 0 for _, fraction in lost.index]]
    values = {"costly": int((lost > 0).sum()), "points": len(lost) or None}
    if values["costly"]:
        scorer, fraction = lost.idxmax()
        values |= {"most": lost.max(), "most_scorer": NAMES[scorer], "most_fraction": fraction}
    return values
