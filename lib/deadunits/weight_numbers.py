"""Numbers and words that chapter 2 says, from the tables of its runs; what a run does not have is missing.

Frames have a row (activation, seed), which a page shows as a mean with the lowest and the highest seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from deadunits.counting import count
from deadunits.measures import NAMES, SIGNED, second_half
from deadunits.runs import Run


def network_words(network: str) -> str:
    """What is trained, in words, by the parameter `network`."""
    if network == "small_cnn":
        return (
            "a small convolutional network (two convolutional layers of 8 and 16 units, a hidden layer of 64)"
        )
    return f"the network `{network}`"


def listed(names: Iterable[str]) -> str:
    """Names in a sentence: "`conv1`, `conv2` and `fc1`"."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def spread(values: pd.Series, form: str = "{:.2f}") -> str:
    """A mean over seeds and, in brackets, the lowest and the highest; a dash: nothing is known."""
    known = [float(value) for value in values if np.isfinite(value)]
    if not known:
        return "–"
    mean, low, high = (
        re.sub(r"^-(0(?:\.0+)?)(?![\d.])", r"\1", form.format(value))  # no "-0"
        for value in (np.mean(known), min(known), max(known))
    )
    return f"{mean} ({low} to {high})" if len(known) > 1 else mean


def spreads(by_seed: pd.DataFrame, form: str = "{:.2f}") -> pd.DataFrame:
    """`spread` of each column, a row a network; the rows of `by_seed` are (activation, seed).

    A column in which nothing is known is left out.
    """
    known = by_seed.dropna(axis="columns", how="all")
    rows = known.groupby("activation").agg(lambda values: spread(values, form))
    return rows.rename(index=NAMES).rename_axis("network").reset_index()


def by_network(by_seed: pd.Series, form: str) -> str | None:
    """Means over seeds in a sentence: "44% (ReLU) and 36% (tanh)"; the index is (activation, seed)."""
    known = by_seed.dropna()
    if known.empty:
        return None
    means = known.groupby("activation").mean()
    return " and ".join(f"{form.format(mean)} ({NAMES[name]})" for name, mean in means.items()) or None


def removed(run: Run, fraction: float) -> int:
    """How many weights a fraction of those of each layer is."""
    sizes = run.table("weights").eval("units * channels * height * width")
    return sum(count(fraction, int(size)) for size in sizes)


def negative_shares(scores: pd.DataFrame) -> pd.DataFrame:
    """In percent, a row (activation, seed): how many weights have S < 0 in the second half of the training.

    exact, taylor1: by these scores on the images scored on; again: of the exact ones, how many have S < 0 on
    the other images too; expected: how many would, were the two sets independent.
    """
    by, on = ["activation", "seed"], ["activation", "seed", "step", "layer", "weight"]
    late = second_half(scores[scores["set"] == "probe"])
    other = scores.loc[scores["set"] == "other", [*on, "loss_change"]]
    pairs = late.merge(other, on=on, suffixes=("", "_other"))
    pairs = pairs.assign(negative=pairs["loss_change"] < 0, again=pairs["loss_change_other"] < 0)
    columns = {
        "exact": (late["loss_change"] < 0).groupby([late[name] for name in by]).mean(),
        "taylor1": (late["taylor1"] < 0).groupby([late[name] for name in by]).mean(),
        "again": pairs[pairs["negative"]].groupby(by)["again"].mean(),
        "expected": pairs.groupby(by)["again"].mean(),
    }
    return 100 * pd.DataFrame(columns, dtype=float)


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
    return len(known) > 0 and bool(
        (known["diagonal"] > known["taylor1"]).all() and (known["taylor2"] < known["taylor1"]).all()
    )


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
    found = rows.groupby([*by, "seed"])["penalty"].agg([lambda one: 100 * (one < 0).mean(), "mean"])
    found.columns = ["below", "mean"]
    table = found.groupby(by).agg(
        {"below": lambda one: spread(one, "{:.0f}%"), "mean": lambda one: spread(one, "{:.4f}")}
    )
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
    below, mean = 100 * by.agg(lambda one: (one < 0).mean()), 1000 * by.mean()
    found = {f"below_{name}": float(below["loss_change", name]) for name in ("probe", "other")}
    found |= {name: float(mean["loss_change", name]) for name in ("probe", "other")}
    return found | {"random": float(mean["random", "other"])}


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
    for activation, own in means.groupby("activation"):
        for kind, ending in (("signed", ""), ("absolute", "_abs")):
            names = [name if name in ("magnitude", "random") else name + ending for name in scorers]
            cells = [spread(own[name]) if name in own else "–" for name in names]
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
