"""The thesis's claims, the criteria that decide them, and verdicts computed from result tables.

A criterion is a small function of the runs of one seed: it returns the `Evidence` of that seed on one set of
images (`probe`, on which the weights were scored, or `other`), or None where there is nothing to judge. They
were fixed before anything was measured; whoever disagrees changes one here and builds the book again.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadunits.measures import (
    NAMES,
    SIGNED,
    chosen_removal,
    empty_units,
    mean_penalties,
    rank_correlations,
)
from deadunits.runs import Run

if TYPE_CHECKING:
    import pandas as pd

ENOUGH = 0.8  # share of the seeds in which a criterion is to hold
FULL = 5  # seeds; with fewer a verdict is provisional


@dataclass(frozen=True)
class Evidence:
    """What one seed says: the numbers, whether the criterion holds, whether the direction does."""

    values: Mapping[str, float]
    holds: bool
    directs: bool


Case = Sequence[Run]  # the runs of one seed
Allowed = tuple[Any, ...]  # the values of a setting that a claim speaks of


@dataclass(frozen=True)
class Claim:
    """A claim of the thesis and what decides it."""

    id: str
    text: str
    where: str
    criterion: str
    direction: str
    evidence: Callable[[Case, str], Evidence | None]
    experiment: str
    setting: Mapping[str, Allowed]  # the claim is judged in these settings only


@dataclass(frozen=True, repr=False)
class Verdict:
    """The word on a claim, and what it rests on."""

    claim: Claim
    word: str  # reproduced, partly, not reproduced, not testable or not judged
    note: str
    evidence: Sequence[Evidence]
    other: Verdict | None = field(default=None)  # the same criterion, evaluated on other images
    differs: Sequence[str] = ()  # settings in which the runs are not the claim's

    def __str__(self) -> str:
        return f"{self.word} ({self.note})"

    def __repr__(self) -> str:
        return f"{self.claim.id}: {self}. {self.measured()}"

    def measured(self) -> str:
        """Each number as its mean over the seeds, with the lowest and the highest, and how often it holds."""
        if not self.evidence:
            return "no measurement that the criterion could be evaluated on"
        parts = []
        for name in self.evidence[0].values:
            values = [one.values[name] for one in self.evidence]
            spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
            parts.append(f"{name}: {sum(values) / len(values):.3g}{spread}")
        held = sum(one.holds for one in self.evidence)
        return f"{'; '.join(parts)}. The criterion holds in {held} of {_seeds(len(self.evidence))}"

    def _repr_html_(self) -> str:
        claim, css = self.claim, self.word.replace(" ", "-")
        rows = {
            "Criterion": claim.criterion,
            "Measured": self.measured(),
        }
        if self.other and self.other.evidence:
            rows["On other images"] = self.other.measured()
            if self.other.word != self.word:
                rows["On other images"] += f"; the verdict there would be: {self.other.word}"
        if self.word == "partly":
            rows["Partly"] = f"the direction holds: {claim.direction}"
        if self.word == "not judged":
            spoken_of = {name: claim.setting[name] for name in self.differs}
            rows["Why not judged"] = "the criterion speaks of " + _words(spoken_of)
        items = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items())
        return (
            f'<div class="verdict verdict-{css}"><p class="verdict-head">'
            f'<span class="verdict-id">{claim.id}</span> <span class="verdict-word">{self.word}</span> '
            f'<span class="verdict-note">{html.escape(self.note)}</span></p>'
            f'<p class="verdict-claim">{html.escape(claim.text)} '
            f'<span class="verdict-where">(thesis, {html.escape(claim.where)})</span></p>'
            f"<dl>{items}</dl></div>"
        )


def verdict(claim_id: str, runs: Sequence[Run]) -> Verdict:
    """Judge a claim by runs, several a seed where it compares them; those of other kinds are left out."""
    claim = CLAIMS[claim_id]
    chosen = [run for run in runs if run.info["experiment"] == claim.experiment]
    spoken_of = [run for run in chosen if run.info["settings"]["activation"] in claim.setting["activation"]]
    settings = [run.info["settings"] for run in spoken_of or chosen]
    differs = [
        name
        for name, allowed in claim.setting.items()
        if any(one.get(name) not in allowed for one in settings)
    ]
    datasets = sorted({Path(one["dataset"]).name for one in settings})
    seeds = sorted({one["seed"] for one in settings})
    cases = [[run for run in spoken_of if run.info["settings"]["seed"] == seed] for seed in seeds]
    on_probe, on_other = (
        [claim.evidence(case, name) if case else None for case in cases] for name in ("probe", "other")
    )
    return judge(claim, on_probe, differs, datasets, judge(claim, on_other, differs, datasets))


def judge(
    claim: Claim,
    evidence: Sequence[Evidence | None],
    differs: Sequence[str],
    datasets: Sequence[str],
    other: Verdict | None = None,
) -> Verdict:
    """The rules. Reproduced: the criterion holds in at least 80% of the seeds; partly: the direction does."""
    eligible = [one for one in evidence if one is not None]
    seeds = _seeds(len(evidence))
    if differs:
        return Verdict(claim, "not judged", f"{', '.join(datasets)}, {seeds}", eligible, other, differs)
    note = seeds if len(evidence) >= FULL else f"provisional, {seeds}"
    if not eligible:
        word = "not testable"
    elif sum(one.holds for one in eligible) >= ENOUGH * len(eligible):
        word = "reproduced"
    elif sum(one.directs for one in eligible) >= ENOUGH * len(eligible):
        word = "partly"
    else:
        word = "not reproduced"
    return Verdict(claim, word, note, eligible, other)


def negative_share(case: Case, on: str) -> Evidence | None:
    """C2.1: the share of weights of conv1 whose exact loss change is negative, over training."""
    scores = case[0].table("scores").query("set == @on")
    share = (scores["loss_change"] < 0).groupby(scores["step"]).mean()
    late, last = share[share.index > 500], share.index.max()
    if late.empty:
        return None
    second = share[(share.index > last / 4) & (share.index <= last / 2)].mean()
    fourth = share[share.index > last * 3 / 4].mean()
    mean, drift = float(late.mean()), float(fourth - second)
    return Evidence(
        values={"mean share": mean, "last quarter minus second": drift},
        holds=0.25 <= mean <= 0.45 and abs(drift) < 0.10,
        directs=mean > 0.15,
    )


def two_lowest(case: Case, on: str) -> Evidence | None:
    """C2.2: the penalty of removing the hundredth of conv1 (2 weights) of lowest loss change."""
    penalty = _penalty(case, on, 0.01, "loss_change")
    if penalty.empty:
        return None
    below = float((penalty < 0).mean())
    return Evidence(
        values={"share below 0": below, "mean penalty in nats": float(penalty.mean())},
        holds=below >= 0.9,
        directs=bool(penalty.mean() < 0),
    )


def ten_lowest(case: Case, on: str) -> Evidence | None:
    """C2.3: the penalty of removing a twentieth of conv1 (10 weights), early and late."""
    penalty = _penalty(case, on, 0.05, "loss_change")
    early, late = penalty[penalty.index <= 500], penalty[penalty.index > _last_epoch(case)]
    if early.empty or late.empty:
        return None
    return Evidence(
        values={
            "mean over the first 500 steps": float(early.mean()),
            "late median": float(late.median()),
            "late mean": float(late.mean()),
        },
        holds=bool(early.mean() < 0 < late.median()),
        directs=bool(late.mean() > early.mean()),
    )


def worse_than_random(case: Case, on: str) -> Evidence | None:
    """C2.4: how often, late, ten weights chosen by loss change cost more than one random draw of ten."""
    exact, draw = (_penalty(case, on, 0.05, scorer) for scorer in ("loss_change", "random"))
    late = exact.index > _last_epoch(case)
    if not late.any():
        return None
    worse = float((exact[late] > draw[late]).mean())
    return Evidence(values={"share worse": worse}, holds=worse >= 0.05, directs=worse > 0)


def approximations(case: Case, on: str) -> Evidence | None:
    """C2.5: what choosing by an approximation costs beyond choosing by the loss change, late and early."""
    exact = _penalty(case, on, 0.05, "loss_change")
    late, early = exact.index > _last_epoch(case), exact.index <= _first_epoch(case)
    if not late.any() or not early.any():
        return None
    values = {}
    for scorer in ("taylor1", "taylor2", "hessian"):
        excess = _penalty(case, on, 0.05, scorer) - exact
        values[f"{NAMES[scorer]}, late minus early"] = float(excess[late].mean() - excess[early].mean())
    grew = [value > 0 for value in values.values()]
    return Evidence(values=values, holds=all(grew), directs=grew[0])


def best_ranking(case: Case, on: str) -> Evidence | None:
    """C2.6: which approximation ranks the weights most like the loss change, at both ends of the training."""
    scores = case[0].table("scores").query("set == @on")
    if scores.empty:
        return None
    values, best = {}, []
    for when, step in {"first": scores["step"].min(), "last": scores["step"].max()}.items():
        now = scores[scores["step"] == step]
        rank = rank_correlations(now, ("taylor1", "taylor2", "hessian"))
        values |= {f"{NAMES[scorer]}, {when}": value for scorer, value in rank.items()}
        best.append(max(rank, key=rank.get) == "taylor1")
    return Evidence(values=values, holds=all(best), directs=any(best))


def absolute_or_signed(case: Case, on: str) -> Evidence | None:
    """C2.7: mean penalty at f = 0.8 by absolute scores over that by signed ones."""
    values, better = {}, {}
    for activation in ("relu", "tanh"):
        for scorer in SIGNED:
            signed, absolute = (
                _penalty(case, on, 0.8, name, activation).mean() for name in (scorer, f"{scorer}_abs")
            )
            if math.isnan(signed):  # no such run, or no such fraction
                return None
            values[f"{NAMES[activation]}, {NAMES[scorer]}, absolute minus signed"] = float(absolute - signed)
            better[activation, scorer] = absolute < signed
    relu = sum(better["relu", scorer] for scorer in SIGNED)
    return Evidence(values=values, holds=all(better.values()), directs=relu >= 3)


def magnitude_best(case: Case, on: str) -> Evidence | None:
    """C2.8: whether magnitude has the lowest mean penalty at f = 0.8, and the steadiest."""
    values, holds, directs = {}, True, False
    absolute = [f"{scorer}_abs" for scorer in SIGNED]
    for activation in ("relu", "tanh"):
        found = {
            scorer: _penalty(case, on, 0.8, scorer, activation)
            for scorer in ("magnitude", *SIGNED, *absolute)
        }
        if found["magnitude"].empty:
            return None
        for what, of in {"mean": lambda one: one.mean(), "deviation": lambda one: one.std()}.items():
            of_each = {scorer: of(one) for scorer, one in found.items()}
            own, best_other = of_each.pop("magnitude"), min(of_each.values())
            values[f"{NAMES[activation]}, {what} of magnitude over the best other's"] = float(
                own / best_other
            )
            holds = holds and bool(own < best_other)
        if activation == "relu":
            median = {scorer: found[scorer].median() for scorer in ("magnitude", *absolute)}
            directs = min(median, key=median.get) == "magnitude"
    return Evidence(values=values, holds=holds, directs=directs)


def cost_in_passes(case: Case, on: str) -> Evidence | None:
    """C2.9: what second-order scores cost, and how that grows with the network; a machine's figures."""
    if on != "probe":
        return None
    costs = case[0].table("costs")
    second = costs[costs["scorer"].isin(["taylor2", "hessian"])].set_index(["scorer", "widths"])
    if 2 not in costs["widths"].to_numpy():
        return None
    a_weight = (second["seconds"] / second["weights"]).unstack("widths")
    passes, growth = float(second["passes"].max()), float((a_weight[2] / a_weight[1]).max())
    return Evidence(
        values={"passes": passes, "time a weight when all widths double": growth},
        holds=passes <= 7 and growth <= 1.5,
        directs=passes <= 10,
    )


def jumps(case: Case, on: str) -> Evidence | None:
    """C2.10: what pruning by schedule costs at each step of it, and whether training makes up for it."""
    pruned, twin = _pruned(case), _twin(case)
    if pruned is None or twin is None:
        return None
    rows = pruned.table("pruned").query("set == @on").set_index("fraction")
    jump = (rows["after"] - rows["before"]).sort_index()
    usual = float(twin.table("training")[on].diff().dropna().quantile(0.99))
    final = [run.table("final")["train_loss"][0] for run in (pruned, twin)]
    gap = float(final[0] - final[1])
    values = {f"jump at {fraction:g}": float(value) for fraction, value in jump.items()}
    values |= {"99th percentile of the twin's changes": usual, "final training loss minus the twin's": gap}
    small, large = jump[jump.index < 0.8], jump[jump.index >= 0.8]
    return Evidence(
        values=values,
        holds=bool((small < 0.1).all() and (large > usual).all() and abs(gap) <= 0.05),
        directs=jump.is_monotonic_increasing and abs(gap) <= 0.1,
    )


def empty_filters(case: Case, on: str) -> Evidence | None:
    """C2.11: how many filters of conv1 have lost all their weights."""
    pruned = _pruned(case)
    if on != "probe" or pruned is None:
        return None
    empty = empty_units(pruned, "conv1")
    return Evidence(values={"empty filters of conv1": empty}, holds=empty >= 2, directs=empty >= 1)


def half_the_network(case: Case, on: str) -> Evidence | None:
    """C2.12: how small the network gets within 0.3 points of the masked one."""
    pruned, twin = _pruned(case), _twin(case)
    if pruned is None or twin is None:
        return None
    best = chosen_removal(pruned, on)
    if best is None:
        return None
    masked, dense = (run.table("final")["test_accuracy"][0] for run in (pruned, twin))
    lost = 100 * float(masked - best["test_accuracy"])
    return Evidence(
        values={
            "share of the parameters left": best["share"],
            "points of accuracy below the masked network": lost,
            "points below the dense twin": 100 * float(dense - best["test_accuracy"]),
        },
        holds=best["share"] <= 0.5 and lost <= 0.3,
        directs=best["share"] <= 0.7 and lost <= 0.3,
    )


def same_on_all_sets(case: Case, on: str) -> Evidence | None:
    """C2.13: whether the scorers' order by mean penalty at f = 0.8 depends on the images."""
    if on != "probe":
        return None
    means = mean_penalties(case[0].table("penalties"))
    if means.shape[1] < 3:
        return None
    ranks = means.rank()
    pairs = [float(ranks[a].corr(ranks[b])) for a, b in itertools.combinations(means.columns, 2)]
    same = means.idxmin().nunique() == 1
    return Evidence(
        values={"lowest rank correlation": min(pairs), "same best scorer (1 yes, 0 no)": float(same)},
        holds=min(pairs) >= 0.9 and same,
        directs=min(pairs) >= 0.7,
    )


def _penalty(case: Case, on: str, fraction: float, scorer: str, activation: str | None = None) -> pd.Series:
    """Penalties of weights scored on `probe` and judged on `on`, by step; of random ones the first draw."""
    import pandas as pd

    runs = [run for run in case if activation is None or run.info["settings"]["activation"] == activation]
    if not runs:
        return pd.Series(dtype=float)
    rows = runs[0].table("penalties")
    chosen = (rows["scorer"] == scorer) & (rows["fraction"] == fraction) & (rows["draw"] == 0)
    chosen &= (rows["scored_on"] == "probe") & (rows["set"] == on)
    return rows[chosen].set_index("step")["penalty"]


def _last_epoch(case: Case) -> float:
    """The step at which the last epoch begins."""
    training = case[0].table("training")
    return training["step"].max() / training["epoch"].max() * (case[0].info["settings"]["epochs"] - 1)


def _first_epoch(case: Case) -> float:
    """The step at which the first epoch ends."""
    training = case[0].table("training")
    return training["step"].max() / training["epoch"].max()


def _pruned(case: Case) -> Run | None:
    """The run pruned layer by layer, as the thesis did."""
    return next((run for run in case if run.by == "layer"), None)


def _twin(case: Case) -> Run | None:
    """The run with the same seed and no pruning."""
    return next((run for run in case if run.by == ""), None)


def _seeds(number: int) -> str:
    return f"{number} seed{'s' if number != 1 else ''}"


def _words(setting: Mapping[str, Allowed]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {' or '.join(map(str, of))}" for name, of in setting.items())


_MNIST = {
    "dataset": ("mnist",),
    "image_size": (0,),
    "network": ("small_cnn",),
    "probe_size": (1000,),
}
_TRAINED = _MNIST | {"lr": (0.01,), "batch_size": (32,), "measure_every": (50,)}
_SCORED = _TRAINED | {"layers": (["conv1"],), "epochs": (5,)}
_RELU, _TANH = ({"activation": (name,)} for name in ("relu", "tanh"))
_BOTH = {"activation": ("relu", "tanh")}
_SCHEDULED = (
    _TRAINED
    | _RELU
    | {
        "layers": (["conv1", "conv2", "fc1", "fc2"],),
        "epochs": (10,),
        "schedule": ([[2, 0.2], [3, 0.5], [4, 0.8], [5, 0.9]], []),
    }
)

CLAIMS = {
    claim.id: claim
    for claim in (
        Claim(
            id="C2.1",
            text="About 35% of the weights of conv1 have a negative exact loss change, all through training.",
            where="2.1.1, Fig. 2.1",
            criterion="the mean share after step 500 is 0.25 to 0.45, and its means in the second and in the "
            "last quarter of training differ by less than 0.10",
            direction="mean share above 0.15",
            evidence=negative_share,
            experiment="saliency",
            setting=_SCORED | _RELU,
        ),
        Claim(
            id="C2.2",
            text="With tanh, removing the 2 weights of conv1 with the lowest loss change lowers the loss, "
            "all through training.",
            where="2.1.2, Fig. 2.2a",
            criterion="the penalty is below 0 in at least 90% of the measurements",
            direction="mean penalty below 0",
            evidence=two_lowest,
            experiment="saliency",
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.3",
            text="With tanh, removing the 10 weights of lowest loss change lowers the loss early and raises "
            "it late.",
            where="2.1.3, Fig. 2.2b",
            criterion="the mean penalty over the first 500 steps is below 0 and the median over the last "
            "epoch above 0",
            direction="the mean over the last epoch is above that over the first 500 steps",
            evidence=ten_lowest,
            experiment="saliency",
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.4",
            text="With tanh, late in training, choosing those 10 by loss change can be worse than at random.",
            where="2.1.2, Fig. 2.2b",
            criterion="worse than one random draw in at least 5% of the last epoch's measurements",
            direction="worse at least once",
            evidence=worse_than_random,
            experiment="saliency",
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.5",
            text="With tanh, Taylor 1, Taylor 2 and Hessian scores stand in for the loss change early in "
            "training, and badly late.",
            where="2.1.4, Fig. 2.3",
            criterion="with 10 weights removed, the mean penalty minus the loss change scorer's own is "
            "larger in the last epoch than in the first, for all three",
            direction="so for Taylor 1",
            evidence=approximations,
            experiment="saliency",
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.6",
            text="Of the three, Taylor 1 ranks the weights most like the loss change.",
            where="2.1.4, Fig. 2.4",
            criterion="the highest rank correlation (Spearman) at the first and at the last measurement",
            direction="at one of the two",
            evidence=best_ranking,
            experiment="saliency",
            setting=_SCORED | _RELU,
        ),
        Claim(
            id="C2.7",
            text="Absolute scores prune better than signed ones when 160 of 200 weights go, with ReLU and "
            "with tanh.",
            where="2.1.5, Fig. 2.5",
            criterion="a lower mean penalty for Taylor 1, Taylor 2, Hessian and loss change, in both "
            "networks",
            direction="for three of the four, with ReLU",
            evidence=absolute_or_signed,
            experiment="saliency",
            setting=_SCORED | _BOTH,
        ),
        Claim(
            id="C2.8",
            text="Magnitude is the best score when 160 of 200 weights go, and the steadiest.",
            where="2.1.6, Fig. 2.5",
            criterion="the lowest mean and the lowest standard deviation of the penalty among magnitude, the "
            "four signed and the four absolute scores, in both networks",
            direction="the lowest median among magnitude and the absolute scores, with ReLU",
            evidence=magnitude_best,
            experiment="saliency",
            setting=_SCORED | _BOTH,
        ),
        Claim(
            id="C2.9",
            text="Second-order scores cost 6 to 7 backpropagations, and grow with the network as they do.",
            where="Table 2.1",
            criterion="at most 7 forward-and-backward passes, and at most 1.5 times the time a weight when "
            "all widths double",
            direction="at most 10 passes",
            evidence=cost_in_passes,
            experiment="costs",
            setting=_MNIST | _RELU,
        ),
        Claim(
            id="C2.10",
            text="Pruned by schedule to 90%, the network hardly pays for fractions up to 0.5; its loss jumps "
            "at 0.8 and 0.9, and training recovers it.",
            where="2.2, Fig. 2.8",
            criterion="the jump is below 0.1 at 0.2 and 0.5; at 0.8 and 0.9 it is above the 99th percentile "
            "of the twin's changes in 50 steps; the final training loss is within 0.05 of the twin's",
            direction="jumps in the order of the fractions, and the final training loss within 0.1",
            evidence=jumps,
            experiment="weight_pruning",
            setting=_SCHEDULED,
        ),
        Claim(
            id="C2.11",
            text="The pruned weights gather in units: whole filters are left empty.",
            where="2.2, Fig. 2.9 and 2.10",
            criterion="at least 2 of the 8 filters of conv1 are empty (by chance: 6%)",
            direction="at least 1 (by chance: 42%)",
            evidence=empty_filters,
            experiment="weight_pruning",
            setting=_SCHEDULED,
        ),
        Claim(
            id="C2.12",
            text="Removing those units halves the dense network at no loss of accuracy.",
            where="2.2, Fig. 2.11",
            criterion="at most 50% of the parameters, within 0.3 points of the masked network's test "
            "accuracy, with fnz chosen on the images scored on (the gap to the dense twin is told)",
            direction="at most 70% of the parameters",
            evidence=half_the_network,
            experiment="weight_pruning",
            setting=_SCHEDULED,
        ),
        Claim(
            id="C2.13",
            text="Which images one scores on makes no difference.",
            where="2.1, footnote",
            criterion="the scorers' mean penalties with 160 weights removed are in the same order (Spearman "
            "at least 0.9 between any two of the three sets), with the same best scorer",
            direction="at least 0.7",
            evidence=same_on_all_sets,
            experiment="saliency",
            setting=_SCORED | _RELU,
        ),
    )
}
