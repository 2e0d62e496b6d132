"""The criteria of chapter 3, of attacks, their controls and their twins: from a case to `Evidence`.

A ratio is the final penalty (mean over the last epoch) of the attacked unit over that of the same unit in the
twin. A run whose loss ceased to be a number is left out, and so is a trial whose twin is none of the runs.
Pooled criteria get the runs of all seeds. A criterion that cannot be judged raises `Lacking`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deadbook.analysis import trials
from deadbook.analysis.measures import cached, final_units, lasted, rows, spearman
from deadbook.claims.evidence import ROUNDING, Case, Evidence, Lacking, Limits, known, need, of_seeds
from deadbook.runs import Run

NETWORKS = {
    "batch norm": {"activation": "relu", "batch_norm": True},
    "tanh": {"activation": "tanh", "batch_norm": False},
    "plain ReLU": {"activation": "relu", "batch_norm": False},
}
TANH = {"activation": "tanh"}
EARLY = {"layer": "conv1", "start": 50, "interval": 10, "multiplier": 100}  # Figure 3.1
EARLY |= {"unit": (0, 4, 2), "batch_norm": True}
UNITS = EARLY["unit"]
UNITS_OF_CONV2 = 16
CONV2 = {"layer": "conv2", "start": 2000, "interval": 10, "multiplier": 100}  # Figure 3.9
CONV2 |= NETWORKS["plain ReLU"]
SLOW = {"start": 50, "interval": 100, "unit": 0, "batch_norm": True}  # Figure 3.4
FLATTENED = {"layer": "conv1", "unit": (0, 1, 2, 3), "start": 2000, "interval": 10}  # Figure 3.5
FLATTENED |= {"multiplier": 1000, "activation": "tanh"}
TIMED = {"start": (50, 2500, 5000), "interval": 10, "multiplier": 1000, "activation": "tanh"}  # Figure 3.7
STARTS = (500, 1500, 2500, 5000)
PERMUTATIONS = 10_000
SATURATED = (0, 39)  # the outermost bins of `histograms.BOUNDED`: an activation beyond 0.95 in size
_FINALS = ("mrp", "gradient", "norm_in", "norm_out", "mean_mrp", "mean_gradient", "others")
_COLUMNS = ("seed", "layer", "unit", "start", "interval", "multiplier")
_TRIAL = (*_COLUMNS, "network", *_FINALS, *(f"twin_{name}" for name in _FINALS))


def accuracies(case: Case, on: str, limits: Limits) -> Evidence:
    """The twins' test accuracy, in each network of which there is one."""
    values, off = {}, []
    for network, accuracy in limits.thesis.items():
        for twin in _runs(case, repeats=0, **NETWORKS[network])[:1]:
            name = f"{trials.network(twin)}, accuracy in %"
            values[name] = 100 * _final(twin, "accuracy")
            off.append(abs(values[name] - accuracy))
    need(on != "other", values)
    holds, partly = (max(off) <= points + ROUNDING for points in (limits.points, limits.points_partly))
    return Evidence(values, holds, partly)


def some_units_fall(case: Case, on: str, limits: Limits) -> Evidence:
    """Whether some, and not all, units end below half of the twin's and of the control's penalty."""
    units = _units(case, on, limits.fell)
    fell = int(units["fell"].sum())
    values = {f"unit {unit}, over the twin's": float(units["ratio"][unit]) for unit in UNITS}
    values |= {f"unit {unit}, over the control's": float(units["beside"][unit]) for unit in UNITS}
    values["units that fell"] = fell
    direction_holds = bool(units["ratio"].median() < limits.median_partly)
    return Evidence(values, limits.least <= fell < len(UNITS), direction_holds)


def silent_loss(case: Case, on: str, limits: Limits) -> Evidence:
    """The final training loss of the three attacks beside the twin's."""
    attacks = _runs(case, **EARLY, control=False)
    need(on != "other", len(attacks) >= len(UNITS))
    before = _final(_twin(case, batch_norm=True), "train_loss")
    change = max(abs(_final(run, "train_loss") / before - 1) for run in attacks)
    values = {"largest relative change": change}
    return Evidence(values, change <= limits.change, change <= limits.change_partly)


def marks_of_the_fallen(case: Case, on: str, limits: Limits) -> Evidence:
    """Whether weights grow, outgoing weights and output gradient shrink, for every unit that fell."""
    names = {"norm_in": "incoming weights", "norm_out": "outgoing weights", "gradient": "output gradient"}
    fell = _units(case, on, limits.fell).query("fell")
    need(fell)
    of = {column: fell[column] / fell[f"twin_{column}"] for column in names}
    marks = ((of["norm_in"] > 1) * 1 + (of["norm_out"] < 1) + (of["gradient"] < 1)).min()
    values = {f"{name}, over the twin's": float(of[column].mean()) for column, name in names.items()}
    return Evidence(values, bool(marks == len(names)), bool(marks >= limits.marks_partly))


def the_start_matters(case: Case, on: str, limits: Limits) -> Evidence:
    """Pooled: a permutation test of whether the start matters, and whether it does so in an order.

    Statistic: the logarithms of the ratios, less their mean over the starts of the same seed and unit; the
    sum over starts of the squared sum. Permuted: the starts within a seed and unit. A ratio below 0.001 is
    taken as 0.001.
    """
    how = {"interval": 10, "multiplier": 100, "batch_norm": True, "unit": 0}
    attacks = finals(case, on, layer=("conv1", "conv2"), start=STARTS, **how).dropna(subset="ratio")
    need(attacks)
    table = attacks.pivot_table(index=["seed", "layer"], columns="start", values="ratio").dropna()
    need(table, table.shape[1] == len(STARTS))
    logs = np.log(table.to_numpy().clip(1e-3))  # (blocks, starts)
    logs = logs - logs.mean(1, keepdims=True)
    chance = np.random.default_rng(0)
    shuffled = chance.permuted(np.broadcast_to(logs, (PERMUTATIONS, *logs.shape)), axis=2)
    reached = ((shuffled.sum(1) ** 2).sum(1) >= (logs.sum(0) ** 2).sum() - 1e-12).sum()
    p = float((reached + 1) / (PERMUTATIONS + 1))
    order = spearman(attacks["start"], attacks["ratio"])
    values = {"p": p, "Spearman of start and ratio": order}
    return Evidence(values, p < limits.p and abs(order) < limits.order, p < limits.p_partly)


def harder_is_deadlier(case: Case, on: str, limits: Limits) -> Evidence:
    """Pooled: Spearman's correlation of the multiplier with the ratio, in both layers."""
    values = {}
    for layer in ("conv1", "conv2"):
        attacks = finals(case, on, layer=layer, **SLOW).dropna(subset="ratio")
        need(attacks["multiplier"].nunique() > 1)
        correlation = spearman(attacks["multiplier"], attacks["ratio"])
        values[f"{layer}, Spearman of multiplier and ratio"] = correlation
    highest = max(values.values())
    return Evidence(values, highest < limits.correlation, highest < 0)


def stronger_or_dead(case: Case, on: str, limits: Limits) -> Evidence:
    """How many of the 16 units of conv2 rise and fall in a plain ReLU network, and how many die.

    All 16 are to have been attacked; a unit is in no count if its run diverged, or if it is dead in the twin
    as well.
    """
    ratio = all_of_conv2(case, on)["ratio"].dropna()
    rose, fell, died = (int(chosen.sum()) for chosen in (ratio > 1, ratio < 1, ratio == 0))
    values, holds = {"rose": rose, "fell": fell, "died": died}, rose > fell and died >= limits.died
    return Evidence(values, holds, min(rose, died) >= limits.each_partly)


def large_and_useless(case: Case, on: str, limits: Limits) -> Evidence:
    """Pooled: whether units that fell are in the top quarter of their layer by norm."""
    top = []
    for of_seed in of_seeds(case):
        try:
            units = _units(of_seed, on, limits.fell)
        except Lacking:
            continue
        for run in _runs(of_seed, **EARLY, control=False):
            unit = run.info["settings"]["unit"]
            if units["fell"][unit]:
                norms = final_units(run, on).loc["conv1", "norm_in"]
                top.append(bool((norms > norms[unit]).sum() < len(norms) * limits.top))
    need(top)
    share = sum(top) / len(top)
    values = {"units that fell": len(top), "share in the top quarter": share}
    return Evidence(values, share >= limits.share, sum(top) >= limits.least_partly)


def pushed_to_the_ends(case: Case, on: str, limits: Limits) -> Evidence:
    """Four tanh units of conv1; their activations, of the probe images on either set, when last kept.

    The criterion asks of each of the four that it ends lower and that more of its activations are flat; the
    direction, that three end lower.
    """
    of = finals(case, on, **FLATTENED).set_index("unit")["ratio"].dropna()
    need(len(of) >= 4)
    twin = _twin(case, **TANH)
    attacks = {run.info["settings"]["unit"]: run for run in _runs(case, **FLATTENED, control=False)}
    flat = pd.DataFrame({u: [_flat(run, u), _flat(twin, u)] for u, run in attacks.items()})
    need(flat.notna().all(axis=None))
    values = {f"unit {unit}, over the twin's": float(of[unit]) for unit in sorted(flat)}
    for name, share in zip(("attacked", "twin"), flat.mean(axis=1), strict=True):
        values[f"share of activations beyond 0.95, {name}"] = float(share)
    lower, flatter = int((of < 1).sum()), int((flat.loc[0] > flat.loc[1]).sum())
    values |= {"units that end lower": lower, "units with more activations beyond 0.95": flatter}
    return Evidence(values, lower == flatter == flat.shape[1], lower >= limits.lower_partly)


def timing_with_tanh(case: Case, on: str, limits: Limits) -> Evidence:
    """Unit 16 of fc1, attacked from step 50 (soon after the attack) and from 2500 and 5000 (final)."""
    of, soon = _by_start(case, on, "fc1", 16), _soon(case, on, "fc1", 16, limits.after)
    as_said = [soon > 1, bool(of[2500] < 1), bool(of[5000] < 1)]
    values = {f"from 50, over the twin's in the {limits.after:,} steps after": soon}
    values |= {f"from {start}, final over the twin's": float(of[start]) for start in TIMED["start"]}
    return Evidence(values, all(as_said), sum(as_said) >= limits.right_partly)


def smallest_found(case: Case, on: str, limits: Limits) -> Evidence:
    """How MRS ranks the units of a layer, and how often its smallest has the smallest MRP.

    The unit that MRS finds, the first if several have the same, may be any of those with the lowest MRP.
    """
    means = _ranks(case, on, limits.after)
    correlation, same = float(means["mrs"]), float(means["smallest"])
    need(known(correlation))
    values = {"mean rank correlation": correlation, "share with the same smallest unit": same}
    holds = correlation >= limits.correlation and same >= limits.same
    return Evidence(values, holds, correlation >= limits.correlation_partly)


def stays_so(case: Case, on: str, limits: Limits) -> Evidence:
    """How many of the units dead, or frozen, at half-time (`trials.halves`) are so at the end."""
    runs = _runs(case, repeats=(0, 10))
    before = trials.halves(*runs, on=on).query("half < @limits.below")
    before = before.assign(network=[network_of(runs[number]) for number in before["run"]])
    shares, counts, also = {}, {}, {}
    for what, name in {"MRP": "dead", "output gradient": "frozen"}.items():
        units = before[before["what"] == what]
        distinct = units[["network", "layer", "unit"]].drop_duplicates()
        shares[f"share that stays {name}"] = float((units["end"] < limits.below).mean())
        counts[f"{name} at half-time"] = float(len(units))
        also[f"distinct units {name} at half-time"] = float(len(distinct))
    shares = {name: share for name, share in shares.items() if known(share)}  # of no unit: nan
    need(shares)
    lowest = min(shares.values())
    return Evidence(shares | counts, lowest >= limits.stays, lowest >= limits.stays_partly, also)


def best_predictor(case: Case, on: str, limits: Limits) -> Evidence:
    """Mean rank correlation with MRP of MRS, of the weights' norm and of the output gradient."""
    names = {"mrs": "MRS", "norm_in": "norm of the weights", "gradient": "output gradient"}
    means = _ranks(case, on, limits.after)[list(names)]
    need(known(*means))
    better = int((means[["norm_in", "gradient"]] < means["mrs"]).sum())
    values = {f"mean rank correlation, {name}": float(means[column]) for column, name in names.items()}
    return Evidence(values, better == len(names) - 1, better >= limits.better_partly)


def gradient_against_weights(case: Case, on: str, limits: Limits) -> Evidence:
    """Rank correlation over time of the attacked unit's two norms, a mean over a network's attacks."""
    values = {}
    for name in ("batch norm", "tanh"):
        attacks = _runs(case, **NETWORKS[name], control=False)
        mean = float(trials.gradient_against_weights(attacks, on)["correlation"].mean())
        values |= {f"{name}, mean rank correlation": mean} if known(mean) else {}
    need(values)
    highest = max(values.values())
    return Evidence(values, highest < limits.correlation, highest < 0)


def attacks_kill(case: Case, on: str, limits: Limits) -> Evidence:
    """In how many of the three networks an attacked unit ends dead whose twin is not."""
    attacks = finals(case, on)
    died = dead(attacks, limits.below) & ~dead(attacks, limits.below, "twin_")
    return _in_networks(attacks, "attacked units that died", died, limits.networks_partly)


def considerable_drop(case: Case, on: str, limits: Limits) -> Evidence:
    """In how many of the three networks an attack ends below half of the twin's penalty."""
    attacks = finals(case, on)
    return _in_networks(attacks, "attacks below half", attacks["ratio"] < limits.fell, limits.networks_partly)


def relu_resists(case: Case, on: str, limits: Limits) -> Evidence:
    """Pooled: the share of the attacks that end below half, in plain ReLU and in the other two networks."""
    conv2 = {"layer": "conv2", "interval": 10, "multiplier": 100}
    values = {}
    for name, how in {"plain ReLU": conv2, "batch norm": conv2, "tanh": {"multiplier": 1000}}.items():
        ratio = finals(case, on, **how, **NETWORKS[name])["ratio"].dropna()
        need(ratio)
        values[f"share below half, {name}"] = float((ratio < limits.fell).mean())
    relu, *others = values.values()
    gap = min(others) - relu
    return Evidence(values, gap >= limits.gap - ROUNDING, gap > 0)


def dead_is_frozen(case: Case, on: str, limits: Limits) -> Evidence:
    """Pooled: how many of the attacked units of plain ReLU that end dead are frozen."""
    units = finals(case, on, multiplier=100, **NETWORKS["plain ReLU"])
    units = units[dead(units, limits.below)]
    need(units)
    share = float((units["gradient"] < limits.below * units["mean_gradient"]).mean())
    values = {"dead units": len(units), "share that is frozen": share}
    also = {"distinct dead units": len(units[["layer", "unit"]].drop_duplicates())}
    return Evidence(values, share >= limits.share, share >= limits.share_partly, also)


def settled(case: Case, on: str, limits: Limits) -> Evidence:
    """When the mean penalty of conv1, with batch norm and unattacked, is first near its later level."""
    units = rows(_twin(case, batch_norm=True), "units", set=on, layer="conv1")
    mean = units.groupby("step")["mrp"].mean()
    level = mean[mean.index > limits.after].mean()
    reached = mean.rolling(limits.window, center=True).mean() >= limits.share * level
    need(reached.any())
    step = int(reached.idxmax())
    return Evidence({"step": step}, limits.low <= step <= limits.high, step < mean.index.max() / 2)


def frozen_not_dead(case: Case, on: str, limits: Limits) -> Evidence:
    """Batch norm: attacks whose gradient ends low beside the twin's, and whose penalty does not."""
    attacks = finals(case, on, batch_norm=True).dropna(subset=["ratio", "gradient_ratio"])
    need(attacks)
    frozen = (attacks["gradient_ratio"] < limits.gradient) & (attacks["ratio"] >= limits.mrp)
    lower = float((attacks["gradient_ratio"] < attacks["ratio"]).mean())
    values = {"frozen, not dead": int(frozen.sum()), "share with the lower gradient": lower}
    return Evidence(values, bool(frozen.any()), lower > limits.share_partly)


def dead_not_frozen(case: Case, on: str, limits: Limits) -> Evidence:
    """Pooled: attacks of Figure 3.4a with a low penalty and no small output gradient, beside the twin."""
    attacks = finals(case, on, layer="conv1", **SLOW).dropna(subset=["ratio", "gradient_ratio"])
    need(attacks)
    kinds = ((limits.mrp, limits.gradient), (limits.mrp_partly, limits.gradient_partly))
    strict, mild = (
        int(((attacks["ratio"] < mrp) & (attacks["gradient_ratio"] >= gradient)).sum())
        for mrp, gradient in kinds
    )
    values = {"attacks": len(attacks), "such attacks": strict, "by the milder measure": mild}
    return Evidence(values, strict >= 1, mild >= 1)


def level_of_saturated(case: Case, on: str, limits: Limits) -> Evidence:
    """The final penalties, in nats, of the four attacked tanh units of conv1."""
    units = finals(case, on, **FLATTENED).set_index("unit").sort_index()
    need(len(units) >= 4)
    values = {f"unit {unit}, in nats": float(value) for unit, value in units["mrp"].items()}
    mean, twin = float(units["mrp"].mean()), float(units["twin_mrp"].mean())
    values |= {"mean": mean, "mean of the twin's": twin}
    holds = bool(units["mrp"].between(limits.low, limits.high).all())
    return Evidence(values, holds, mean < twin * limits.twin_partly)


def close_estimate(case: Case, on: str, limits: Limits) -> Evidence:
    """MRS beside MRP over time, of four tanh units of conv1 that are attacked, and of their twins."""
    attacks, twin = _runs(case, **FLATTENED, control=False), _twin(case, **TANH)
    need(len(attacks) >= 4)
    pairs = [(run, it.info["settings"]["unit"]) for it in attacks for run in (it, twin)]
    units = [_over_time(run, on, "conv1", unit, limits.after) for run, unit in pairs]
    ratios = [float((unit["mrs"] / unit["mrp"]).median()) for unit in units]
    correlations = [float(unit["mrs"].corr(unit["mrp"])) for unit in units]
    values = {"lowest median ratio": min(ratios), "highest median ratio": max(ratios)}
    values |= {"lowest Pearson": min(correlations), "median Pearson": float(np.median(correlations))}
    holds = limits.low <= min(ratios) and max(ratios) <= limits.high and min(correlations) >= limits.pearson
    return Evidence(values, holds, values["median Pearson"] >= limits.pearson_partly)


def similar_drops(case: Case, on: str, limits: Limits) -> Evidence:
    """Tanh, conv1, unit 0: the ratios by start, and the penalty soon after the attack from step 50."""
    of, soon = _by_start(case, on, "conv1", 0), _soon(case, on, "conv1", 0, limits.soon)
    values = {f"from {start}, final over the twin's": float(of[start]) for start in TIMED["start"]}
    values[f"from 50, over the twin's in the {limits.soon:,} steps after"] = soon
    lower = bool(of.max() < 1)
    return Evidence(values, lower and bool(of.max() <= limits.spread * of.min()) and soon > 1, lower)


def same_order(case: Case, on: str, limits: Limits) -> Evidence:
    """Whether MRS puts the runs of Figure 3.7a, the original included, in the order of their MRP."""
    runs = [*_runs(case, **TIMED, layer="conv1", unit=0, control=False), _twin(case, **TANH)]
    need(len(runs) == 4)
    tables = pd.concat([_over_time(run, on, "conv1", 0, limits.after) for run in runs], axis=1, keys=range(4))
    mrp, mrs = (tables.xs(name, axis=1, level=1).dropna().rank(axis=1) for name in ("mrp", "mrs"))
    need(mrp)
    same = float((mrp.to_numpy() == mrs.to_numpy()).all(1).mean())
    correlation = float(mrp.corrwith(mrs, axis=1).mean())
    values = {"share in the same order": same, "mean Spearman": correlation}
    return Evidence(values, same >= limits.share, correlation >= limits.correlation_partly)


def accuracy_unharmed(case: Case, on: str, limits: Limits) -> Evidence:
    """Mean accuracy of the 16 attacks on plain ReLU beside the twin's, in points."""
    need(on != "other", all_of_conv2(case, on))
    before = _final(_twin(case, **NETWORKS["plain ReLU"]), "accuracy")
    reached = [_final(run, "accuracy") for run in _runs(case, **CONV2, control=False)]
    change = 100 * (float(np.mean(reached)) - before)
    holds, partly = (abs(change) <= points + ROUNDING for points in (limits.points, limits.points_partly))
    return Evidence({"points above the twin": change}, holds, partly)


def some_die(case: Case, on: str, limits: Limits) -> Evidence:
    """The share of the 16 units of conv2 that end dead after an attack, with plain ReLU."""
    died = int(dead(all_of_conv2(case, on), limits.below).sum())
    share = died / UNITS_OF_CONV2
    holds = limits.low <= share <= limits.high
    return Evidence({"share that died": share}, holds, died >= limits.died_partly)


def better_when_small(case: Case, on: str, limits: Limits) -> Evidence:
    """Median of abs(log(MRS/MRP)) of units below and above their layer's median MRP, in each twin."""
    values, better = {}, 0
    for network, settings in NETWORKS.items():
        units = rows(_twin(case, **settings), "units", set=on).query("step > @limits.after")
        middle = units.groupby(["layer", "step"])["mrp"].transform("median")
        units = units.assign(low=units["mrp"] < middle)[(units["mrp"] > limits.least) & (units["mrs"] > 0)]
        off = np.log(units["mrs"] / units["mrp"]).abs().groupby(units["low"]).median()
        values |= {f"{network}, small": float(off[True]), f"{network}, large": float(off[False])}
        better += bool(off[True] < off[False])
    return Evidence(values, better == len(NETWORKS), better >= limits.networks_partly)


def dead(units: pd.DataFrame, below: float, whose: str = "") -> pd.Series:
    """Whether units' final penalty is below a share of their layer's mean; with "twin_" the twin's."""
    return units[f"{whose}mrp"] < below * units[f"{whose}mean_mrp"]


def all_of_conv2(case: Case, on: str) -> pd.DataFrame:
    """`finals` of the attacks on all units of conv2, plain ReLU, that lasted.

    Raises:
        Lacking: one was not made, or none lasted.
    """
    units = finals(case, on, **CONV2)
    attacks = [run for run in _runs(case, diverged=True, **CONV2) if trials.kind(run) == "attack"]
    need(len(attacks) >= UNITS_OF_CONV2, units)
    return units


def _in_networks(attacks: pd.DataFrame, name: str, chosen: pd.Series, partly: int) -> Evidence:
    """How many of the trials in each network are chosen: in all three at least one, or in so many."""
    counts = chosen.groupby(attacks["network"]).sum()
    need(set(NETWORKS) <= set(counts.index))
    values = {f"{name}, {network}": int(counts[network]) for network in NETWORKS}
    reached = sum(count >= 1 for count in values.values())
    return Evidence(values, reached == len(NETWORKS), reached >= partly)


def _over_time(run: Run, on: str, layer: str, unit: int, after: int) -> pd.DataFrame:
    """A unit's `mrp` and `mrs` by step, after one."""
    units = rows(run, "units", set=on, layer=layer, unit=unit).query("step > @after")
    return units.set_index("step").filter(["mrp", "mrs"]).astype(float)


def _by_start(case: Case, on: str, layer: str, unit: int) -> pd.Series:
    """The ratios of a tanh unit by the start of the attack, of which there must be three."""
    ratio = finals(case, on, **TIMED, layer=layer, unit=unit).set_index("start")["ratio"].dropna()
    need(len(ratio) >= len(TIMED["start"]))
    return ratio


def _soon(case: Case, on: str, layer: str, unit: int, steps: int) -> float:
    """A tanh unit's mean penalty in the steps after the last attack from step 50, over the twin's."""
    attacks = _runs(case, **TIMED | {"start": 50}, layer=layer, unit=unit, control=False)
    need(attacks)
    last = 50 + 9 * TIMED["interval"]
    units = (_over_time(run, on, layer, unit, last) for run in (attacks[0], _twin(case, **TANH)))
    ours, twin = (float(it[it.index <= last + steps]["mrp"].mean()) for it in units)
    need(known(ours, twin), twin)  # `other` is measured less often
    return ours / twin


def _runs(case: Case, diverged: bool = False, **wanted: Any) -> list[Run]:
    """Runs with these settings (a tuple: one of these), ten attacks unless said; not those that diverged."""
    wanted = {"repeats": 10} | wanted
    allowed = {name: value if isinstance(value, tuple) else (value,) for name, value in wanted.items()}
    chosen = ((run, run.info["settings"]) for run in case)
    fitting = [run for run, it in chosen if all(it[name] in values for name, values in allowed.items())]
    return [run for run in fitting if diverged or lasted(run)]


def _twin(case: Case, **network: Any) -> Run:
    """The training of a network without an attack, if it did not diverge."""
    twins = _runs(case, repeats=0, **network)
    need(twins)
    return twins[0]


def _final(run: Run, column: str) -> float:
    return float(run.table("final")[column].iloc[0])


def finals(case: Case, on: str, kind: str = "attack", **wanted: Any) -> pd.DataFrame:
    """A row a trial that lasted: settings, `final_units` of its unit, the twin's with `twin_`.

    `ratio` is that of the final penalties, `gradient_ratio` of the output gradients.
    """
    twins = {trials.common(run): run for run in _runs(case, repeats=0)}
    attacks = [run for run in _runs(case, **wanted) if trials.kind(run) == kind]
    pairs = [(run, twins[trials.common(run)]) for run in attacks if trials.common(run) in twins]
    found = [row for pair in pairs if (row := _beside_twin(*pair, on))]
    table = pd.DataFrame(found, columns=list(_TRIAL))
    for name, column in {"ratio": "mrp", "gradient_ratio": "gradient"}.items():
        table[name] = table[column].astype(float) / table[f"twin_{column}"].astype(float)
    return table


@cached
def _beside_twin(run: Run, twin: Run, on: str) -> dict[str, Any]:
    """A row of `finals`; empty: the unit was not measured in both."""
    settings = run.info["settings"]
    place, tables = (settings["layer"], settings["unit"]), (final_units(run, on), final_units(twin, on))
    if not all(place in units.index for units in tables):
        return {}
    ours, before = (units.loc[place] for units in tables)
    row = {name: settings[name] for name in _COLUMNS} | {"network": network_of(run)}
    return row | ours.to_dict() | before.add_prefix("twin_").to_dict()


def network_of(run: Run) -> str:
    """The name of its network among NETWORKS."""
    settings = run.info["settings"]
    return next((name for name, of in NETWORKS.items() if of.items() <= settings.items()), "")


def _ranks(case: Case, on: str, after: int) -> pd.Series:
    """Means of `trials.ranks` over all layers and measurements of all runs after a step."""
    runs = tuple(_runs(case, repeats=(0, 10)))
    need(runs)
    table = trials.ranks(runs, on, after)
    need(table)
    return table.mean()


def _flat(run: Run, unit: int) -> float:
    """Share of a unit of conv1's activations beyond 0.95 in size, when they were last kept; or nan."""
    if not run.has("values"):
        return np.nan
    bins = rows(run, "values", layer="conv1", unit=unit, what="activation")
    counts = bins[bins["step"] == bins["step"].max()].set_index("bin")["count"]
    return float(counts[counts.index.isin(SATURATED)].sum() / counts.sum()) if len(counts) else np.nan


def _units(case: Case, on: str, below: float) -> pd.DataFrame:
    """The three units of Figure 3.1: `ratio` to the twin, `beside` the control, and whether each `fell`."""
    table, control = (finals(case, on, kind, **EARLY).set_index("unit") for kind in ("attack", "control"))
    table, control = table.dropna(subset="ratio"), control.dropna(subset="ratio")
    need(len(table) >= len(UNITS), len(control) >= len(UNITS))  # dead in all three: no ratio
    table["beside"] = table["ratio"] / control["ratio"]
    return table.assign(fell=(table["ratio"] < below) & (table["beside"] < below))
