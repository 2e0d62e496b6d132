"""The thesis's claims, and verdicts on them, computed from result tables by the criteria."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deadbook.analysis import trials
from deadbook.analysis.measures import in_seeds, steady
from deadbook.claims import attack_criteria, criteria
from deadbook.claims.criteria import Case, Evidence
from deadbook.runs import Run

ENOUGH = 0.8  # share of the seeds in which a criterion is to hold
FULL = 5  # seeds; with fewer a verdict is provisional


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
    experiments: Sequence[str]  # whose runs it is judged by
    setting: Mapping[str, Allowed]  # the claim is judged in these settings only
    scored_on: str = "probe"  # the images on which weights or units were scored
    also: Mapping[str, Mapping[str, Allowed]] = field(default_factory=dict)  # settings of one experiment
    pooled: bool = False  # judged once, by the runs of all seeds together
    figure: str = ""  # the label of the figure that shows it; "": none does


@dataclass(frozen=True, repr=False)
class Verdict:
    """The word on a claim, and what it rests on."""

    claim: Claim
    word: str  # reproduced, partly, not reproduced, not testable or not judged
    note: str
    evidence: Sequence[Evidence]
    other: Verdict | None = field(default=None)  # the same criterion, evaluated on other images
    differs: Mapping[str, Allowed] = field(default_factory=dict)  # what the claim speaks of, the runs do not

    def __str__(self) -> str:
        return f"{self.word} ({self.note})"

    def __repr__(self) -> str:
        return f"{self.claim.id}: {self}. {'; '.join(self.measured())}"

    def measured(self) -> list[str]:
        """Each number as its mean over the seeds, with the lowest and the highest, and how often it holds."""
        if not self.evidence:
            return ["no measurement that the criterion could be evaluated on"]
        parts = []
        most_first = sorted(self.evidence, key=lambda one: -len(one.values))  # so names stay in order
        for name in dict.fromkeys(name for one in most_first for name in one.values):
            values = [one.values[name] for one in self.evidence if name in one.values]
            spread = f" ({_number(min(values))} to {_number(max(values))})" if len(values) > 1 else ""
            parts.append(f"{name}: {_number(sum(values) / len(values))}{spread}")
        held = sum(one.holds for one in self.evidence)
        if self.claim.pooled:
            return [*parts, f"All seeds together: the criterion {'holds' if held else 'does not hold'}"]
        return [*parts, f"The criterion holds in {held} of {in_seeds(len(self.evidence))}"]

    def _repr_html_(self) -> str:
        claim, css = self.claim, self.word.replace(" ", "-")
        rows = {"Criterion": [claim.criterion], "Measured": self.measured()}
        if self.other and self.other.evidence:
            rows["On other images"] = self.other.measured()
            if self.other.word != self.word:
                rows["On other images"].append(f"The verdict there would be: {self.other.word}")
        if self.word == "partly":
            rows["Partly"] = [f"the direction holds: {claim.direction}"]
        if self.word == "not judged":
            rows["Why not judged"] = ["the criterion speaks of " + _words(self.differs)]
        items = "".join(
            f"<dt>{name}</dt><dd>{'<br>'.join(map(html.escape, lines))}</dd>" for name, lines in rows.items()
        )
        return (
            f'<div class="verdict verdict-{css}"><p class="verdict-head">'
            f'<span class="verdict-id">{claim.id}</span> <span class="verdict-word">{self.word}</span> '
            f'<span class="verdict-note">{html.escape(self.note)}</span></p>'
            f'<p class="verdict-claim">{html.escape(claim.text)} '
            f'<span class="verdict-where">(thesis, {html.escape(claim.where)})</span></p>'
            f"<dl>{items}</dl></div>"
        )


def verdict(claim_id: str, runs: Sequence[Run]) -> Verdict:
    """Judge a claim by runs, several a seed where it compares them.

    Those of other experiments and networks are left out, and attacks that came after the claims were fixed
    (`trials.late`); of other widths if there are some of its own.
    """
    claim = CLAIMS[claim_id]
    chosen = [run for run in runs if run.info["experiment"] in claim.experiments and not trials.late(run)]
    network = {name: claim.setting[name] for name in ("activation", "batch_norm") if name in claim.setting}
    spoken_of = [
        run
        for run in chosen
        if all(run.info["settings"][name] in allowed for name, allowed in network.items())
    ]
    widths = claim.setting.get("widths", ())
    spoken_of = [run for run in spoken_of if run.info["settings"].get("widths") in widths] or spoken_of
    settings = [run.info["settings"] for run in spoken_of or chosen]
    differs = {
        name: allowed
        for name, allowed in claim.setting.items()
        if any(name in one and one[name] not in allowed for one in settings)
    }
    for experiment, own in claim.also.items():
        of = [run.info["settings"] for run in spoken_of or chosen if run.info["experiment"] == experiment]
        differs |= {
            f"{experiment}: {name}": allowed
            for name, allowed in own.items()
            if any(name in one and one[name] not in allowed for one in of)
        }
    datasets = sorted({Path(one["dataset"]).name for one in settings})
    seeds = sorted({one["seed"] for one in settings})
    cases = [[run for run in spoken_of if run.info["settings"]["seed"] == seed] for seed in seeds]
    cases = [spoken_of] if claim.pooled else cases
    on_own, on_other = (
        [claim.evidence(case, name) if case else None for case in cases]
        for name in (claim.scored_on, "other")
    )
    number = len(seeds) if claim.pooled else 0
    few = fewest(spoken_of)
    other = judge(claim, on_other, differs, datasets, number=number, few=few)
    return judge(claim, on_own, differs, datasets, other, number, few)


def fewest(runs: Sequence[Run]) -> tuple[int, str]:
    """Of the networks that a claim compares, the one with the fewest seeds: how many, and its name."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        setting = run.info["settings"]
        name = "batch normalisation" if setting.get("batch_norm") else setting["activation"]
        seeds.setdefault(name, set()).add(setting["seed"])
    return min(((len(of), name) for name, of in seeds.items()), default=(0, ""))


def judge(
    claim: Claim,
    evidence: Sequence[Evidence | None],
    differs: Mapping[str, Allowed],
    datasets: Sequence[str],
    other: Verdict | None = None,
    number: int = 0,
    few: tuple[int, str] = (FULL, ""),
) -> Verdict:
    """The rules. Reproduced: the criterion holds in at least 80% of the seeds; partly: the direction does.

    A seed with a measure that is nan, as after a training that diverged, is left out.

    Args:
        number: that of the seeds, where they are pooled in one evidence.
        few: `fewest`; a verdict is provisional if one of the networks that it rests on has few seeds.
    """
    eligible = [one for one in evidence if one is not None and one.measured]
    number = number or len(eligible) or len(evidence)
    seeds = in_seeds(number)
    if differs:
        return Verdict(claim, "not judged", f"{', '.join(datasets)}, {seeds}", eligible, other, differs)
    note = seeds if min(number, few[0]) >= FULL else f"provisional, {seeds}"
    if few[0] < number:
        note += f", {few[0]} of {few[1]}"
    if not eligible:
        word = "not testable"
    elif sum(one.holds for one in eligible) >= ENOUGH * len(eligible):
        word = "reproduced"
    elif sum(one.directs for one in eligible) >= ENOUGH * len(eligible):
        word = "partly"
    else:
        word = "not reproduced"
    return Verdict(claim, word, note, eligible, other)


def _number(value: float) -> str:
    value = steady(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


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

_UNITS = {
    name: allowed for name, allowed in _TRAINED.items() if name not in ("measure_every", "probe_size")
} | {
    "probe_size": (1000,),
    "widths": ([8, 16, 64],),
    "layers": (["conv1", "conv2", "fc1"],),
    "epochs": (10,),
    "measure_every": (100,),
    "draws": (10,),
}
_SCHEDULES = ("layers", "schedule")  # each experiment has its own
_UNIT_SCHEDULED = {name: allowed for name, allowed in _SCHEDULED.items() if name not in _SCHEDULES}
_BESIDE_WEIGHTS = {
    "unit_pruning": {
        "layers": (["conv1", "conv2", "fc1"],),
        "schedule": ([[2, 0.1], [3, 0.2], [4, 0.4], [5, 0.6]],),
        "scorer": ("mrs",),
    },
    "weight_pruning": {name: _SCHEDULED[name] for name in _SCHEDULES},
}

_ATTACKED = {
    name: allowed for name, allowed in _TRAINED.items() if name not in ("dataset", "measure_every")
} | {
    "dataset": ("cifar10",),
    "measure_every": (375,),
    "layers": (["conv1", "conv2", "fc1"],),
    "epochs": (10,),
}
_NORMED = _ATTACKED | _RELU | {"batch_norm": (True,)}
_BOUNDED = _ATTACKED | _TANH | {"batch_norm": (False,), "epochs": (30,)}
_ALL_ATTACKED = _ATTACKED | _BOTH | {"batch_norm": (True, False), "epochs": (10, 30)}

CLAIMS = {
    claim.id: claim
    for claim in (
        Claim(
            id="C2.1",
            figure="fig-negative-share",
            text="About 35% of the weights of conv1 have a negative exact loss change, all through training.",
            where="2.1.1, Fig. 2.1",
            criterion="the mean share after step 500 is 0.25 to 0.45, and its means in the second and in the "
            "last quarter of training differ by less than 0.10",
            direction="mean share above 0.15",
            evidence=criteria.negative_share,
            experiments=("saliency",),
            setting=_SCORED | _RELU,
        ),
        Claim(
            id="C2.2",
            figure="fig-penalties-tanh",
            text="With tanh, removing the 2 weights of conv1 with the lowest loss change lowers the loss, "
            "all through training.",
            where="2.1.2, Fig. 2.2a",
            criterion="the penalty is below 0 in at least 90% of the measurements",
            direction="mean penalty below 0",
            evidence=criteria.two_lowest,
            experiments=("saliency",),
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.3",
            figure="fig-penalties-tanh",
            text="With tanh, removing the 10 weights of lowest loss change lowers the loss early and raises "
            "it late.",
            where="2.1.3, Fig. 2.2b",
            criterion="the mean penalty over the first 500 steps is below 0 and the median over the last "
            "epoch above 0",
            direction="the mean over the last epoch is above that over the first 500 steps",
            evidence=criteria.ten_lowest,
            experiments=("saliency",),
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.4",
            figure="fig-penalties-tanh",
            text="With tanh, late in training, choosing those 10 by loss change can be worse than at random.",
            where="2.1.2, Fig. 2.2b",
            criterion="worse than one random draw in at least 5% of the last epoch's measurements",
            direction="worse at least once",
            evidence=criteria.worse_than_random,
            experiments=("saliency",),
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.5",
            figure="fig-estimates",
            text="With tanh, Taylor 1, Taylor 2 and Hessian scores stand in for the loss change early in "
            "training, and badly late.",
            where="2.1.4, Fig. 2.3",
            criterion="with 10 weights removed, the mean penalty minus the loss change scorer's own is "
            "larger in the last epoch than in the first, for all three",
            direction="so for Taylor 1",
            evidence=criteria.approximations,
            experiments=("saliency",),
            setting=_SCORED | _TANH,
        ),
        Claim(
            id="C2.6",
            figure="fig-correlations",
            text="Of the three, Taylor 1 ranks the weights most like the loss change.",
            where="2.1.4, Fig. 2.4",
            criterion="the highest rank correlation (Spearman) at the first and at the last measurement",
            direction="at one of the two",
            evidence=criteria.best_ranking,
            experiments=("saliency",),
            setting=_SCORED | _RELU,
        ),
        Claim(
            id="C2.7",
            figure="fig-most",
            text="Absolute scores prune better than signed ones when 160 of 200 weights go, with ReLU and "
            "with tanh.",
            where="2.1.5, Fig. 2.5",
            criterion="a lower mean penalty for Taylor 1, Taylor 2, Hessian and loss change, in both "
            "networks",
            direction="for three of the four, with ReLU",
            evidence=criteria.absolute_or_signed,
            experiments=("saliency",),
            setting=_SCORED | _BOTH,
        ),
        Claim(
            id="C2.8",
            figure="fig-by-scorer",
            text="Magnitude is the best score when 160 of 200 weights go, and the steadiest.",
            where="2.1.6, Fig. 2.5",
            criterion="the lowest mean and the lowest standard deviation of the penalty among magnitude, the "
            "four signed and the four absolute scores, in both networks",
            direction="the lowest median among magnitude and the absolute scores, with ReLU",
            evidence=criteria.magnitude_best,
            experiments=("saliency",),
            setting=_SCORED | _BOTH,
        ),
        Claim(
            id="C2.9",
            text="Second-order scores cost 6 to 7 backpropagations, and grow with the network as they do.",
            where="Table 2.1",
            criterion="at most 7 forward-and-backward passes, and at most 1.5 times the time a weight when "
            "all widths double",
            direction="at most 10 passes",
            evidence=criteria.cost_in_passes,
            experiments=("costs",),
            setting=_MNIST | _RELU,
        ),
        Claim(
            id="C2.10",
            figure="fig-jumps",
            text="Pruned by schedule to 90%, the network hardly pays for fractions up to 0.5; its loss jumps "
            "at 0.8 and 0.9, and training recovers it.",
            where="2.2, Fig. 2.8",
            criterion="the jump is below 0.1 at 0.2 and 0.5; at 0.8 and 0.9 it is above the 99th percentile "
            "of the twin's changes in 50 steps; the final training loss is within 0.05 of the twin's",
            direction="jumps in the order of the fractions, and the final training loss within 0.1",
            evidence=criteria.jumps,
            experiments=("weight_pruning",),
            setting=_SCHEDULED,
        ),
        Claim(
            id="C2.11",
            text="The pruned weights gather in units: whole filters are left empty.",
            where="2.2, Fig. 2.9 and 2.10",
            criterion="at least 2 of the 8 filters of conv1 are empty (by chance: 6%)",
            direction="at least 1 (by chance: 42%)",
            evidence=criteria.empty_filters,
            experiments=("weight_pruning",),
            setting=_SCHEDULED,
        ),
        Claim(
            id="C2.12",
            figure="fig-removal",
            text="Removing those units halves the dense network at no loss of accuracy.",
            where="2.2, Fig. 2.11",
            criterion="at most 50% of the parameters, within 0.3 points of the masked network's test "
            "accuracy, with fnz chosen on the images scored on (the gap to the dense twin is told)",
            direction="at most 70% of the parameters",
            evidence=criteria.half_the_network,
            experiments=("weight_pruning",),
            setting=_SCHEDULED,
        ),
        Claim(
            id="C2.13",
            text="Which images one scores on makes no difference.",
            where="2.1, footnote",
            criterion="the scorers' mean penalties with 160 weights removed are in the same order (Spearman "
            "at least 0.9 between any two of the three sets), with the same best scorer",
            direction="at least 0.7",
            evidence=criteria.same_on_all_sets,
            experiments=("saliency",),
            setting=_SCORED | _RELU,
        ),
        Claim(
            id="C3.1",
            text="The network reaches an accuracy of 67% with batch norm and ReLU, of 64% with tanh (30 "
            "epochs) and of 61% with plain ReLU.",
            where="3.4, 3.5 and 3.6",
            criterion="each within 3 points",
            direction="each within 6 points",
            evidence=attack_criteria.accuracies,
            experiments=("attacks",),
            setting=_ALL_ATTACKED,
        ),
        Claim(
            id="C3.2",
            figure="fig-beside-bn",
            text="With batch norm and ReLU, a hundredfold learning rate early in the training makes some "
            "units of conv1 useless and others not (units 0, 4 and 2).",
            where="3.4, Fig. 3.1",
            criterion="the final MRP is below half of the twin's and below half of the control's for at "
            "least one of the three units, and not for all",
            direction="the median of the three ratios to the twin is below 1",
            evidence=attack_criteria.some_units_fall,
            experiments=("attacks",),
            setting=_NORMED,
        ),
        Claim(
            id="C3.3",
            figure="fig-fates-bn",
            text="It does not show in the training loss.",
            where="3.4, Fig. 3.1",
            criterion="the final training loss of each of these attacks is within 5% of the twin's",
            direction="within 15%",
            evidence=attack_criteria.silent_loss,
            experiments=("attacks",),
            setting=_NORMED,
        ),
        Claim(
            id="C3.4",
            figure="fig-fates-bn",
            text="The attacked unit's weights grow; its outgoing weights and its output gradient shrink.",
            where="3.4, Fig. 3.1",
            criterion="all three, beside the twin, for every unit that fell by C3.2",
            direction="two of the three",
            evidence=attack_criteria.marks_of_the_fallen,
            experiments=("attacks",),
            setting=_NORMED,
        ),
        Claim(
            id="C3.5",
            figure="fig-effects-bn",
            text="What an attack does depends on when it starts (500, 1,500, 2,500, 5,000), in no order.",
            where="3.4.1, Fig. 3.3",
            criterion="all seeds together: a permutation test says that the start matters for the ratio of "
            "the final MRPs (p below 0.05), and start and ratio correlate (Spearman) by less than 0.8 in "
            "size",
            direction="p below 0.2",
            evidence=attack_criteria.the_start_matters,
            experiments=("attacks",),
            setting=_NORMED,
            pooled=True,
        ),
        Claim(
            id="C3.6",
            figure="fig-effects-bn",
            text="The larger the multiplier, the lower the unit's MRP (conv1 and conv2, unit 0).",
            where="3.4.2, Fig. 3.4",
            criterion="all seeds together: multiplier and ratio correlate (Spearman) below -0.5 in both "
            "layers",
            direction="below 0 in both",
            evidence=attack_criteria.harder_is_deadlier,
            experiments=("attacks",),
            setting=_NORMED,
            pooled=True,
        ),
        Claim(
            id="C3.7",
            figure="fig-fates-tanh",
            text="With tanh, a thousandfold learning rate makes all four units of conv1 less useful and "
            "pushes their activations to the flat ends.",
            where="3.5, Fig. 3.5 and 3.6",
            criterion="all four final MRPs are below the twin's, and of each unit a larger share of the "
            "activations is beyond 0.95 in size",
            direction="three of the four are below",
            evidence=attack_criteria.pushed_to_the_ends,
            experiments=("attacks",),
            setting=_BOUNDED,
        ),
        Claim(
            id="C3.8",
            figure="fig-starts-tanh",
            text="With tanh, an attack from step 50 raises the MRP of a unit of fc1 (unit 16); from 2,500 "
            "and 5,000 it lowers it.",
            where="3.5.1, Fig. 3.7b",
            criterion="start 50: the mean MRP over the 1,000 steps after the last attack is above the "
            "twin's; the others: the final MRP is below",
            direction="two of the three",
            evidence=attack_criteria.timing_with_tanh,
            experiments=("attacks",),
            setting=_BOUNDED,
        ),
        Claim(
            id="C3.9",
            figure="fig-effects-relu",
            text="With plain ReLU, most attacked units of conv2 end with a higher MRP; some die outright.",
            where="3.6, Fig. 3.9 and 3.10",
            criterion="of the 16 units more rise than fall beside the twin, and at least one ends at MRP 0",
            direction="at least one of each",
            evidence=attack_criteria.stronger_or_dead,
            experiments=("attacks",),
            setting=_ATTACKED | _RELU | {"batch_norm": (False,)},
        ),
        Claim(
            id="C3.10",
            figure="fig-ranks-all",
            text="MRS ranks the units as MRP does, and always finds the smallest.",
            where="3.7",
            criterion="over all runs, layers and measurements after step 500, the mean rank correlation "
            "(Spearman) is at least 0.8, and in at least 90% the smallest unit is the same",
            direction="a correlation of at least 0.6",
            evidence=attack_criteria.smallest_found,
            experiments=("attacks",),
            setting=_ALL_ATTACKED,
        ),
        Claim(
            id="C3.11",
            text="A unit of low MRP may have a large norm.",
            where="3.7",
            criterion="all seeds together: at least half of the units that fell by C3.2 are in the top "
            "quarter of their layer by the norm of their weights",
            direction="one of them is",
            evidence=attack_criteria.large_and_useless,
            experiments=("attacks",),
            setting=_NORMED,
            pooled=True,
        ),
        Claim(
            id="C3.12",
            figure="fig-half-time",
            text="A unit that is dead or frozen stays so.",
            where="3.2",
            criterion="of the units below 5% of their layer's mean MRP (dead) at half-time at least 90% "
            "still are at the end, and so of those below 5% of its mean output gradient (frozen)",
            direction="at least 70%",
            evidence=attack_criteria.stays_so,
            experiments=("attacks",),
            setting=_ALL_ATTACKED,
        ),
        Claim(
            id="C3.13",
            figure="fig-ranks-all",
            text="MRS predicts a low MRP better than the norm of the weights and the output gradient do.",
            where="3.7",
            criterion="over all runs, layers and measurements after step 500, its mean rank correlation "
            "(Spearman) with MRP is higher than either's",
            direction="higher than one of theirs",
            evidence=attack_criteria.best_predictor,
            experiments=("attacks",),
            setting=_ALL_ATTACKED,
        ),
        Claim(
            id="C3.14",
            text="After an attack the output gradient falls as the weights grow, with batch norm and with "
            "tanh.",
            where="3.4.1 and 3.5.1, Fig. 3.3 and 3.7",
            criterion="the rank correlation (Spearman) over time of the attacked unit's two norms, a mean "
            "over the attacks, is below -0.5 in both networks",
            direction="below 0 in both",
            evidence=attack_criteria.gradient_against_weights,
            experiments=("attacks",),
            setting=_ALL_ATTACKED,
        ),
        Claim(
            id="C4.1",
            figure="fig-half-first",
            text="With half of conv1 to be pruned (4 of 8 units) the scores agree; random choice is up to "
            "100 times worse.",
            where="4.1.1, Fig. 4.1",
            criterion="MRP, MRS, L1 and L2 choose the same 4 units in at least 75% of the measurements, and "
            "the worst random draw costs at least 30 times the median penalty by MRP",
            direction="the median random penalty (mean of ten draws) is at least 3 times the median of each",
            evidence=criteria.same_units,
            experiments=("units",),
            setting=_UNITS | _RELU,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.2",
            text="Units of conv1 with a low MRP also have a small norm.",
            where="4.1.2, Fig. 4.1",
            criterion="the mean rank correlation (Spearman) of MRP and the L1 norm after step 500 is at "
            "least 0.5",
            direction="it is above 0",
            evidence=criteria.norms_and_penalties,
            experiments=("units",),
            setting=_UNITS | _RELU,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.3",
            figure="fig-unit-fractions",
            text="In fc1, pruning by MRP costs least and by MRS next to least; the norms fall behind after "
            "step 5,000.",
            where="4.1.3, Fig. 4.2 and 4.3",
            criterion="the mean penalties after step 5,000 are in that order in at least 4 of the 6 "
            "fractions",
            direction="by MRP lowest in at least 4",
            evidence=criteria.order_of_scores,
            experiments=("units",),
            setting=_UNITS | _RELU,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.4",
            figure="fig-unit-fractions",
            text="Pruning a tenth of fc1 by MRS now and then lowers the loss.",
            where="4.1.3, Fig. 4.3",
            criterion="the penalty is below 0 in at least 5% of the measurements",
            direction="at least once",
            evidence=criteria.lowered_by_pruning,
            experiments=("units",),
            setting=_UNITS | _RELU,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.5",
            figure="fig-fractions-tanh",
            text="With tanh, pruning units of fc1 by MRS costs up to 7 times what it costs with ReLU.",
            where="4.1.4, Fig. 4.4",
            criterion="the largest ratio of the mean penalties over the 6 fractions is at least 3",
            direction="at least 1.5",
            evidence=criteria.tanh_costs_more,
            experiments=("units",),
            setting=_UNITS | _BOTH,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.6",
            figure="fig-half-last",
            text="With tanh, the scores choose hardly better than chance (half of fc1).",
            where="4.1.5, Fig. 4.5",
            criterion="the mean random penalty is below twice that by MRS",
            direction="its ratio to that by MRS is below ReLU's",
            evidence=criteria.hardly_better_than_random,
            experiments=("units",),
            setting=_UNITS | _BOTH,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.7",
            figure="fig-unit-schedule",
            text="Units pruned by MRS and schedule, from 20,522 to 4,019 parameters, cost no test accuracy.",
            where="4.2, Fig. 4.6",
            criterion="the test accuracy is at most 0.5 points below the unpruned twin's",
            direction="at most 1.5 points",
            evidence=criteria.as_accurate,
            experiments=("unit_pruning", "weight_pruning"),
            setting=_UNIT_SCHEDULED,
            also=_BESIDE_WEIGHTS,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.8",
            text="The weights of the units that survive look untouched by the pruning.",
            where="4.2.1, Fig. 4.7 to 4.10",
            criterion="the sizes of the weights between surviving units correlate (Pearson) with the twin's "
            "by at least 0.8 in each layer",
            direction="at least 0.5",
            evidence=criteria.untouched_weights,
            experiments=("unit_pruning", "weight_pruning"),
            setting=_UNIT_SCHEDULED,
            also=_BESIDE_WEIGHTS,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.9",
            text="With ReLU the network reaches a training loss of 0.046, a test loss of 0.039 and an "
            "accuracy of 98.8%.",
            where="4.1",
            criterion="both losses within 0.02, the accuracy within 0.5 points",
            direction="within 0.05 and 1.5 points",
            evidence=criteria.reached_with_relu,
            experiments=("units",),
            setting=_UNITS | _RELU,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.10",
            text="With tanh it reaches 0.053, 0.056 and 98.31%.",
            where="4.1.4",
            criterion="both losses within 0.02, the accuracy within 0.5 points",
            direction="within 0.05 and 1.5 points",
            evidence=criteria.reached_with_tanh,
            experiments=("units",),
            setting=_UNITS | _TANH,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.11",
            figure="fig-half-last",
            text="Removing a random half of fc1 is about 3 times cheaper with tanh than with ReLU.",
            where="4.1.5, Fig. 4.5",
            criterion="the ratio of the mean random penalties is at least 2",
            direction="above 1",
            evidence=criteria.random_half,
            experiments=("units",),
            setting=_UNITS | _BOTH,
            scored_on="train_probe",
        ),
        Claim(
            id="C4.12",
            text="Pruning units beats pruning weights and removing the units that this leaves empty.",
            where="4.2 and 2.2",
            criterion="within 0.3 points of the masked network's accuracy, chapter 2's way keeps at least "
            "1.5 times as many parameters",
            direction="more parameters",
            evidence=criteria.units_beat_weights,
            experiments=("unit_pruning", "weight_pruning"),
            setting=_UNIT_SCHEDULED,
            also=_BESIDE_WEIGHTS,
        ),
    )
}
