"""Numbers and words of chapters 1 and 2, from the tables of their runs; what a run does not have is missing.

Frames have a row (activation, seed), which a page shows as a mean with the lowest and the highest seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from deadbook.analysis import measures
from deadbook.analysis.measures import NAMES, SIGNED, second_half, steady
from deadbook.chapters.page import joined, spread
from deadbook.runs import Run
from deadunits.counting import count


def network_words(network: str) -> str:
    """What is trained, in words, by the parameter `network`."""
    small = "a small convolutional network (two convolutional layers of 8 and 16 units, a hidden layer of 64)"
    return small if network == "small_cnn" else f"the network `{network}`"


def listed(names: Iterable[str]) -> str | None:
    """Names in a sentence: "`conv1`, `conv2` and `fc1`"."""
    return joined(f"`{name}`" for name in names)


def spreads(by_seed: pd.DataFrame, form: str = "{:.2f}") -> pd.DataFrame:
    """`spread` of each column, a row a network; the rows of `by_seed` are (activation, seed).

    A column in which nothing is known is left out.
    """
    known = by_seed.dropna(axis="columns", how="all")
    rows = known.groupby("activation").agg(spread, form)
    return rows.rename(index=NAMES).rename_axis("network").reset_index()


def by_network(by_seed: pd.Series, form: str) -> str | None:
    """Means over seeds in a sentence: "44% (ReLU) and 36% (tanh)"; the index is (activation, seed)."""
    known = by_seed.dropna()
    if known.empty:  # its index may have no names
        return None
    means = known.groupby("activation").mean()
    return joined(f"{form.format(steady(mean))} ({NAMES[name]})" for name, mean in means.items())


def removed(run: Run, fraction: float) -> int:
    """How many weights a fraction of those of each layer is."""
    sizes = run.table("weights")[["units", "channels", "height", "width"]].prod(axis=1)
    return sum(count(fraction, int(size)) for size in sizes)


def negative_shares(scores: pd.DataFrame) -> pd.DataFrame:
    """In percent, a row (activation, seed): how many weights have S < 0 in the second half of the training.

    exact, taylor1: by these scores on the images scored on; again: of the exact ones, how many have S < 0 on
    the other images too; expected: how many would, were the two sets independent.
    """
    by, on = ["activation", "seed"], ["activation", "seed", "step", "layer", "weight"]
    scored = second_half(scores[scores["set"] == "probe"])
    scored = scored.assign(exact=scored["loss_change"] < 0, taylor1=scored["taylor1"] < 0)
    other = scores.loc[scores["set"] == "other", [*on, "loss_change"]]
    pairs = scored.merge(other, on=on, suffixes=("", "_other"))
    pairs = pairs.assign(negative=pairs["exact"], again=pairs["loss_change_other"] < 0)
    columns = {
        "exact": scored.groupby(by)["exact"].mean(),
        "taylor1": scored.groupby(by)["taylor1"].mean(),
        "again": pairs[pairs["negative"]].groupby(by)["again"].mean(),
        "expected": pairs.groupby(by)["again"].mean(),
    }
    return 100 * pd.DataFrame(columns, dtype=float)


def curved(shares: pd.DataFrame) -> str | None:
    """Why the exact score is negative less often than Taylor 1, if it is in all runs."""
    why = (
        "The removal of a weight costs its first-order part plus, where the loss is curved upwards, "
        "something positive. So the exact change is negative less often than Taylor 1."
    )
    return why if (shares["exact"] < shares["taylor1"]).all() else None


def has_kernels(run: Run) -> bool:
    """Whether the first of the layers looked at is a convolution with a window of more than a pixel."""
    first = run.table("weights").iloc[0]
    return bool(first["height"] * first["width"] > 1)


def lowest(ratios: pd.DataFrame, labels: Mapping[str, str]) -> tuple[float, str]:
    """The lowest mean over the seeds, and what of which network it is; NaN: there is none."""
    if ratios.empty:
        return float("nan"), ""
    means = ratios.groupby("activation").mean().stack()
    activation, name = means.idxmin()
    return float(means.min()), f"{labels[name]}, {NAMES[activation]}"


def second_order_helps(ranked: pd.DataFrame) -> bool:
    """Whether the diagonal ranks better than Taylor 1, and Taylor 2 worse, in each network that has it.

    Args:
        ranked: from `mean_correlations`.
    """
    if "diagonal" not in ranked:
        return False
    known = ranked.dropna(subset="diagonal").groupby("activation").mean()
    better, worse = known["diagonal"] > known["taylor1"], known["taylor2"] < known["taylor1"]
    return len(known) > 0 and bool((better & worse).all())


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over the seeds: a row a scorer; with all widths doubled too, where that was timed."""
    medians = rows.groupby(["scorer", "widths"], sort=False).median(numeric_only=True).reset_index()
    table = medians[medians["widths"] == 1].assign(milliseconds=1000 * medians["seconds"])
    double = medians[medians["widths"] == 2].set_index("scorer")["passes"]
    if len(double):
        table["passes, widths doubled"] = table["scorer"].map(double)
    columns = ("scorer", "weights", "milliseconds", "passes", "passes, widths doubled")
    return table[[name for name in columns if name in table]]


def lowered(penalties: pd.DataFrame, name: Callable[[float], int]) -> pd.DataFrame:
    """How often removing the weights of lowest loss change lowers the loss, and by how much it changes.

    Args:
        penalties: rows of a table `penalties`.
        name: how many weights a fraction is.
    """
    rows = penalties[penalties["scorer"] == "loss_change"]
    by = ["activation", "fraction", "set"]
    by_seed = rows.groupby([*by, "seed"])["penalty"]
    by_seed = by_seed.agg(below=lambda penalty: 100 * (penalty < 0).mean(), mean="mean").groupby(by)
    forms = {"below": "{:.0f}%", "mean": "{:.4f}"}
    table = pd.DataFrame({name: by_seed[name].agg(spread, form) for name, form in forms.items()})
    table = table.reset_index().replace({"activation": NAMES, "set": NAMES})
    table["fraction"] = table["fraction"].map(name)
    table.columns = ["network", "weights removed", "judged on", "loss went down in", "mean penalty in nats"]
    return table


def together(penalties: pd.DataFrame, fraction: float) -> dict[str, float]:
    """What removing the weights of lowest loss change does in one network; {}: it was not measured.

    below_probe, below_other: in how many percent of the measurements the loss falls; probe, other: the mean
    change on these images, in thousandths of a nat; random: that of random weights, on the other images.
    """
    rows = penalties[penalties["fraction"] == fraction]
    if rows.empty:
        return {}
    by = rows.groupby(["scorer", "set"])["penalty"]
    below, mean = 100 * by.agg(lambda penalty: (penalty < 0).mean()), 1000 * by.mean()
    values = {"random": float(mean["random", "other"])}
    for images in ("probe", "other"):
        values[f"below_{images}"] = float(below["loss_change", images])
        values[images] = float(mean["loss_change", images])
    return values


def cheaper_at_random(means: pd.DataFrame | None) -> tuple[int, int]:
    """In how many cases (network, seed and score) random weights cost less, and how many cases there are.

    Args:
        means: from `penalties_by_scorer`, of signed scores; None: nothing was measured.
    """
    if means is None:
        return 0, 0
    scores = means[[name for name in (*SIGNED, "diagonal") if name in means]]
    return int(scores.gt(means["random"], axis=0).sum(axis=None)), int(scores.notna().sum(axis=None))


def all_negative(scores: pd.DataFrame, number: int) -> bool:
    """Whether at each measurement at least so many weights have S < 0."""
    negative = (scores["loss_change"] < 0).groupby([scores["activation"], scores["seed"], scores["step"]])
    return bool((negative.sum() >= number).all())


def penalties_by_scorer(penalties: pd.DataFrame) -> pd.DataFrame:
    """Mean penalty over measurements and draws: a row (activation, seed), a column a scorer."""
    return penalties.groupby(["activation", "seed", "scorer"])["penalty"].mean().unstack("scorer")


def against_chance(penalties: pd.DataFrame) -> dict[str, int]:
    """In how many cases (network, seed and one of the four scores) signed scores do worse than random ones.

    worse; cases; better: those in which the absolute scores do better than the signed; best: networks and
    seeds in which magnitude has the lowest mean of all scores; networks: how many there are of them.
    """
    means = penalties_by_scorer(penalties)
    signed = means[[name for name in SIGNED if name in means and f"{name}_abs" in means]]
    absolute = means[[f"{name}_abs" for name in signed]].set_axis(signed.columns, axis="columns")
    return {
        "cases": signed.size,
        "worse": int(signed.gt(means["random"], axis=0).sum(axis=None)),
        "better": int((absolute < signed).sum(axis=None)),
        "networks": len(means),
        "best": int((means.idxmin(axis="columns") == "magnitude").sum()),
    }


def signed_and_absolute(penalties: pd.DataFrame) -> pd.DataFrame:
    """`penalties_by_scorer` as a table: a row a score; of each network the signed and the absolute one."""
    means = penalties_by_scorer(penalties)
    scorers = [name for name in (*SIGNED, "diagonal", "magnitude", "random") if name in means]
    table = pd.DataFrame({"score": [NAMES[name] for name in scorers]})
    for activation, by_seed in means.groupby("activation"):
        for kind, ending in (("signed", ""), ("absolute", "_abs")):
            names = [name if name in ("magnitude", "random") else name + ending for name in scorers]
            cells = [spread(by_seed[name], "{:.2f}") if name in by_seed else "–" for name in names]
            table[f"{NAMES[activation]}, {kind}"] = cells
    return table


def left_over(signals: pd.DataFrame) -> pd.DataFrame:
    """In percent, a row (activation, seed): the size of the mean gradient over that of one image's.

    silent: the share of images and units whose output gradient is zero everywhere.
    """
    if signals.empty:
        return pd.DataFrame(columns=["silent", "left_over"])
    means = signals.groupby(["activation", "seed"])[["silent", "gradient", "by_image"]].mean()
    return 100 * means[["silent"]].assign(left_over=means["gradient"] / means["by_image"])


def without_diverged(final: pd.DataFrame) -> pd.DataFrame:
    """Table `final` with no accuracy where the loss is NaN: all images would count as the first class."""
    final = final.copy()
    final.loc[~np.isfinite(final["test_loss"]), [name for name in final if "accuracy" in name]] = np.nan
    return final


def jumps(pruned: pd.DataFrame) -> pd.DataFrame:
    """How much the loss rises at each pruning, on the images scored on: a row a fraction."""
    rows = pruned[pruned["set"] == "probe"]
    rows = rows.assign(jump=rows["after"] - rows["before"])
    table = rows.groupby(["fraction", "pruned_by"])["jump"].agg(spread, "{:.3f}").unstack("pruned_by")
    return table.rename(columns={"layer": "by layer", "network": "over the network"}).reset_index()


def left_by_layer(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """`measures.layers_after` over the seeds: a row a layer and a way of pruning."""
    forms = {"weights left": "{:.0%}", "units without weights": "{:.1f}"}
    forms["twin's largest tenth kept"] = "{:.0%}"
    by = table.assign(pruned=table["pruned_by"].map(labels)).groupby(["pruned", "layer", "of"], sort=False)
    left = pd.DataFrame({name: by[name].agg(spread, form) for name, form in forms.items()})
    left.insert(2, "of", left.index.get_level_values("of"))
    return left.droplevel("of").reset_index()


def where_left(table: pd.DataFrame, layers: Sequence[str], by_layer: Sequence[Run]) -> dict[str, float | str]:
    """Where the weights are that pruning left; shares in percent.

    empty, fewest: units of the first layer without weights, mean over the seeds and in the lowest seed;
    chance: of two or more; kept: of the twin's largest tenth; left: of all weights; most, least: of the
    layer that keeps most, or least, when pruned over the network (with several layers).
    """
    values: dict[str, float | str] = {"layer": layers[0]}
    pruned = table[table["pruned_by"] == "layer"]
    if len(pruned):
        first = pruned[pruned["layer"] == layers[0]]
        sizes = measures.weights(by_layer[0], layers[0])
        chance = measures.chance_of_two_empty(len(sizes), sizes[0].size, int(np.count_nonzero(sizes)))
        empty = first["units without weights"]
        values |= {"empty": float(empty.mean()), "fewest": float(empty.min()), "chance": 100 * chance}
        values |= {"units": int(first["of"].iloc[0]), "left": 100 * float(pruned["weights left"].mean())}
        values["kept"] = 100 * float(pruned["twin's largest tenth kept"].mean())
    shares = table[table["pruned_by"] == "network"].groupby("layer")["weights left"].mean().mul(100)
    if len(shares) > 1:
        values |= {"most_layer": shares.idxmax(), "most": float(shares.max())}
        values |= {"least_layer": shares.idxmin(), "least": float(shares.min())}
    return values


def removed_units(removal: pd.DataFrame, by_layer: Sequence[Run], twins: Sequence[Run]) -> dict[str, float]:
    """What is left without the units that pruning by layer has emptied; shares and accuracies in percent.

    zero: without those that have no weights at all; picked: the smallest network within 0.3 points.
    """
    zero = removal[(removal["fnz"] == 0) & (removal["pruned_by"] == "layer")]
    if zero.empty:
        return {}
    total = measures.parameters(twins[0])
    share = 100 * zero[zero["carried"]]["parameters"] / total
    values = {"zero_share": share.mean(), "zero_least": share.min(), "zero_most": share.max()}
    for name, carried in (("zero_carried", True), ("zero_dropped", False)):
        values[name] = 100 * zero[zero["carried"] == carried]["test_accuracy"].mean()
    chosen = [measures.chosen_removal(run, twin=twin) for run, twin in zip(by_layer, twins, strict=True)]
    masked = [run.table("final")["test_accuracy"][0] for run in by_layer]
    picked = [best | {"masked": of} for best, of in zip(chosen, masked, strict=True) if best]
    values |= {"picked": len(picked), "seeds": len(by_layer)}
    names = {"picked_share": "share", "picked_accuracy": "test_accuracy", "picked_masked": "masked"}
    if picked:
        values |= {name: 100 * np.mean([best[of] for best in picked]) for name, of in names.items()}
    return values


def at_once(
    explored: Run, fractions: Sequence[float], schedule: Sequence[Sequence[float]]
) -> dict[str, float | None]:
    """Test accuracies in percent when weights are removed all at once, at the fractions that were run.

    middle: the one nearest to a half; few: nearest to a tenth, above 0, if signed scores do worse there than
    magnitude; most: nearest to the end of the schedule, or the largest.
    """
    accuracy = explored.table("pruned").set_index(["scorer", "fraction"])["accuracy"].mul(100)
    end = schedule[-1][1] if schedule else max(fractions)
    middle, most = (min(fractions, key=lambda fraction: abs(fraction - to)) for to in (0.5, end))
    values = {"middle": 100 * middle, "most": 100 * most, "most_magnitude": accuracy["magnitude", most]}
    names = {"magnitude": "magnitude", "taylor": "taylor1_abs", "random": "random"}
    values |= {name: accuracy[scorer, middle] for name, scorer in names.items()}
    few = min(filter(None, fractions), key=lambda fraction: abs(fraction - 0.1), default=None)
    if few is not None and accuracy["taylor1", few] < accuracy["magnitude", few]:
        values |= {"few": 100 * few, "signed": accuracy["taylor1", few]}
    return values


def nearest(sizes: Sequence[float], size: float) -> float:
    """Of the sizes that were measured, the one nearest by ratio."""
    return min(sizes, key=lambda measured: max(measured / size, size / measured))


def walk(rows: pd.DataFrame, at: float, larger: float, far: float) -> dict[str, float]:
    """Chapter 1: how far off the expansions are at the last measurement, in percent and in nats.

    Args:
        rows: table `expansion`.
        at: a size of the step along the gradient.
        larger: another one.
        far: a size of the step towards zero weights.
    """
    last = rows[rows["step"] == rows["step"].max()].set_index("size")
    along = last[last["direction"] == "gradient"]
    errors = along[["first", "second"]].sub(along["exact"], axis=0).div(along["exact"], axis=0).abs()
    errors = 100 * errors.groupby("size").median()
    values = {"end": int(rows["step"].max()), "at": at, "far": far}
    if larger != at:
        values["larger"] = larger
    for name, size in (("at", at), ("larger", larger)):
        values |= {f"{order}_{name}": float(errors[order].get(size, np.nan)) for order in errors}
    lowers = along[along["exact"] < 0].reset_index().groupby("seed")["size"].max()
    values |= {"lowers": len(lowers), "lowers_least": lowers.min(), "lowers_most": lowers.max()}
    emptied = last[(last["direction"] == "removal") & (last.index == far)]
    return values | {f"far_{order}": float(emptied[order].mean()) for order in ("exact", "first", "second")}


def descents(rows: pd.DataFrame, expansion: pd.DataFrame, at: float, least: float) -> dict[str, float]:
    """Chapter 1: how often, and by how much, a step along a minibatch's gradient lowers the loss at the end.

    Args:
        rows: table `descent`.
        expansion: table `expansion`.
        at: a size of the step.
        least: the smallest one.
    """
    last = rows[rows["step"] == rows["step"].max()].set_index("size")
    share = 100 * (last[["minibatch", "all"]] < 0).groupby("size").mean()
    values = {"least": least, "at": at}
    for name, size in (("least", least), ("at", at)):
        if size in share.index:
            values |= {f"own_{name}": share["minibatch"][size], f"all_{name}": share["all"][size]}
    change = 1000 * last.loc[last.index == at, "all"]
    along = (expansion["direction"] == "gradient") & (expansion["size"] == at)
    full = expansion[along & (expansion["step"] == expansion["step"].max())]["exact"]
    return values | {"mean_at": change.mean(), "error_at": change.sem(), "full_at": 1000 * full.mean()}
