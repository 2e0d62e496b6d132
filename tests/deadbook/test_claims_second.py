"""The second list and the open questions on made-up tables: four outcomes each; and the thesis's numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from cases import LEVELS, Cases, of, run, trial, twins
from deadbook import claims
from deadbook.claims import CLAIMS, numbers
from deadbook.claims.attacks import CONV2, FLATTENED, NETWORKS, SLOW, TIMED
from deadbook.claims.evidence import Evidence
from deadbook.claims.weights import ABSOLUTE
from toys import FakeRun

CASES = Cases()
case = CASES.add


# Chapter 2


def scored(level: str) -> list[FakeRun]:
    """Twelve weights, half of them negative, of such gradients; their sizes at the ends of epochs 1 and 5."""
    ratio, single, lacking = of(level, 0.4, 0.9, 1.1), of(level, 0.6, 0.3, 0.1), level == "lacking"
    order = of(level, range(12), [0, 1, 2, 3, 6, 7, 4, 5, *range(8, 12)], range(11, -1, -1))
    scores, weight = [], np.arange(12)
    for step, epoch, labels in ((1000, 1.0, range(12)), (5000, 5.0, order))[: 1 if lacking else 2]:
        rows = {"step": step, "epoch": epoch, "weight": labels, "magnitude": weight}
        scores.append(pd.DataFrame(rows).assign(layer="conv1", set="probe"))
    scores = pd.concat(scores)
    scores["loss_change"] = np.where(scores["weight"] < (0 if lacking else 6), -1.0, 1.0)
    gradient = np.where(weight < 6, ratio, 1.0)
    signals = {"step": 1000, "layer": "conv1", "weight": weight}
    signals |= {"gradient": gradient, "by_image": gradient / single}
    return [run("saliency", {"scores": scores, "signals": pd.DataFrame(signals)})]


case("C2.14", "C2.15", "C2.22")(scored)


@case("C2.16", "C2.17")
def pruned_by_scores(level: str) -> list[FakeRun]:
    """Magnitude costs 1; another absolute score 2, with peaks of 9, and dips below 1 early and late."""
    runs = []
    for activation in ("relu", "tanh"):
        steps = np.arange(50, 9051, 50)
        training = pd.DataFrame({"step": steps, "epoch": steps / 9050 * 5})
        parts = [pd.DataFrame({"step": steps, "scorer": "magnitude", "penalty": 1.0})]
        for number, name in enumerate(ABSOLUTE):
            penalty = np.full(len(steps), 2.0)
            peaking = level == "holds" or (level == "direction" and number < 3)
            penalty[25::12] = 9.0 if peaking else 2.0
            if level == "holds" or (level == "direction" and activation == "relu"):
                penalty[[2, -1, -2]] = 0.5
            parts.append(pd.DataFrame({"step": steps, "scorer": name, "penalty": penalty}))
        rows = pd.concat(parts).assign(fraction=0.8, set="probe", scored_on="probe", draw=0)
        runs.append(
            run("saliency", {"penalties": rows, "training": training}, activation=activation, epochs=5)
        )
    return runs[:1] if level == "lacking" else runs


def masked(layers: dict[str, np.ndarray], by: str = "layer") -> FakeRun:
    """A network with these weights, (units, channels, height, width) each."""
    shapes = [
        dict(zip(("units", "channels", "height", "width"), it.shape, strict=True)) for it in layers.values()
    ]
    values = [
        pd.DataFrame({"layer": n, "weight": range(it.size), "value": it.ravel()}) for n, it in layers.items()
    ]
    tables = {"weights": pd.DataFrame(shapes).assign(layer=list(layers)), "values": pd.concat(values)}
    return run("weight_pruning", tables, by=by)


FOUR = {"conv1": (8, 1, 5, 5), "conv2": (16, 8, 5, 5), "fc1": (64, 256, 1, 1), "fc2": (10, 64, 1, 1)}


@case("C2.18")
def large_ones_left(level: str) -> list[FakeRun]:
    """The twin's sizes rise with the index; of the top tenth, so many are pruned."""
    layers = {name: np.ones(shape) for name, shape in FOUR.items()}
    twin = {name: 1.0 + np.arange(math.prod(shape)).reshape(shape) for name, shape in FOUR.items()}
    for weights in layers.values():
        weights.ravel()[weights.size - int(of(level, 0.02, 0.06, 0.09) * weights.size) :] = 0
    return [masked(twin, by="")] if level == "lacking" else [masked(layers), masked(twin, by="")]


@case("C2.19", "C2.21")
def empty(level: str) -> list[FakeRun]:
    layers = {name: np.ones(shape) for name, shape in FOUR.items()}
    layers["conv2"][:, : of(level, 3, 2, 0)] = 0  # channels
    layers["conv2"][: of(level, 2, 1, 0)] = 0  # units
    return [] if level == "lacking" else [masked(layers)]


@case("C2.20")
def columns_and_stripes(level: str) -> list[FakeRun]:
    """A weight is left where the strengths of both its ends are large; outgoing, in another order."""
    layers, entering = {}, np.linspace(0.05, 0.95, 25)
    for name, shape in FOUR.items():
        size = shape[0]
        strength = np.linspace(0.02, 0.98, size)
        left = strength[:, None] + np.repeat(entering, shape[1] // len(entering) or 1) > 1
        layers[name] = left.astype(float).reshape(size, -1)
        if name == "conv2":
            layers[name] = np.repeat(layers[name], 25, axis=1)
        layers[name] = layers[name].reshape(shape)
        turned = of(level, 0, int(0.62 * size), size)
        entering = np.concatenate([strength[:turned][::-1], strength[turned:]])
    return [] if level == "lacking" else [masked(layers)]


# Chapter 3

CONV1 = {"layer": "conv1", "unit": 0, "start": 2000, "multiplier": 1000}
EACH = dict(zip(NETWORKS, (CONV1, CONV1, CONV2 | {"unit": 0}), strict=True))


@case("C3.15", "C3.16")
def one_attack_each(level: str) -> list[FakeRun]:
    low = of(level, (0.01, 0.01, 0.01), (0.01, 0.4, 0.6), (0.6, 0.6, 0.4))
    attacks = [trial(name, at, mrp=mrp) for (name, at), mrp in zip(EACH.items(), low, strict=True)]
    return [*twins(), *(attacks[:2] if level == "lacking" else attacks)]


@case("C3.17")
def shares_below_half(level: str) -> list[FakeRun]:
    relu = of(level, 6, 9, 10)
    kinds = {"batch norm": CONV2, "tanh": CONV1, "plain ReLU": CONV2}
    cases = twins()
    for name, at in kinds.items():
        how = {key: value for key, value in at.items() if key not in NETWORKS[name]}
        for unit in range(4 if name == "tanh" else 0 if level == "lacking" and name != "plain ReLU" else 10):
            below = name != "plain ReLU" or unit < relu
            cases.append(trial(name, how | {"unit": unit}, mrp=0.4 if below else 0.9))
    return cases


@case("C3.18")
def dead_units(level: str) -> list[FakeRun]:
    frozen = of(level, 9, 8, 6)
    mrp = 0.5 if level == "lacking" else 0.01
    attacks = [
        trial(at=CONV2 | {"unit": i}, mrp=mrp, gradient=0.01 if i < frozen else 0.5) for i in range(10)
    ]
    return [*twins(), *attacks]


@case("C3.19")
def rising_twin(level: str) -> list[FakeRun]:
    steps, start = list(range(375, 10001, 375)), of(level, 1500, 4000, 7000)
    units = {"steps": steps, "other_mrp": 0.0, "mrp": [1.0 if step >= start else 0.01 for step in steps]}
    return [] if level == "lacking" else [trial("batch norm", **units)]


@case("C3.20", "C3.21")
def low_gradient_or_low_mrp(level: str) -> list[FakeRun]:
    """Two attacks: one keeps its MRP, the other its gradient."""
    pairs = of(
        level,
        ((0.6, 0.2), (0.6, 0.2), (0.4, 1.1)),
        ((0.7, 0.3), (0.8, 0.7), (0.7, 0.76)),
        ((0.9, 0.95), (0.9, 0.92)),
    )
    units = [SLOW | {"layer": "conv1", "multiplier": m} for m in (10, 30, 100)]
    attacks = [trial("batch norm", at, mrp=m, gradient=g) for at, (m, g) in zip(units, pairs, strict=False)]
    return twins() + (attacks if level != "lacking" else [])


@case("C3.22", "C3.23")
def four_tanh_units(level: str) -> list[FakeRun]:
    steps, wave = (1000, 4000, 7000, 9000), np.array([1.0, 1.1, 0.9, 1.0])
    mrp = of(level, 0.3, 0.45, 0.8) * wave
    mrs = of(level, 1.0, 2.0, 1.0) * (mrp if level != "neither" else mrp[[1, 0, 3, 2]])
    cases = [trial("tanh", None, steps, mrp=wave, mrs=of(level, 1.0, 2.0, 1.0) * wave)]
    for unit in range(3 if level == "lacking" else 4):
        cases.append(trial("tanh", FLATTENED | {"unit": unit}, steps, mrp=mrp, mrs=mrs))
    for column, factor in (("mrp", 1.0), ("mrs", of(level, 1.0, 2.0, 1.0))):  # the twin's units are alike
        rows = cases[0].tables["units"]
        rows[column] = rows["step"].map(dict(zip(steps, factor * wave, strict=True)))
    return cases


@case("C3.24", "C3.25")
def three_starts(level: str) -> list[FakeRun]:
    steps = (500, 6000, 7000, 8000, 9000)
    finals, soon = of(level, (0.5, 0.6, 0.7), (0.2, 0.6, 0.9), (0.5, 0.6, 1.2)), 2.0
    cases = [trial("tanh", None, steps, mrp=1.0, mrs=1.0)]
    for start, final in list(zip(TIMED["start"], finals, strict=True))[: 2 if level == "lacking" else 3]:
        mrp = np.array([soon, *[final] * 4])
        mrs = of(level, mrp, mrp.copy(), 2 - mrp)
        if level == "direction" and start == 2500:
            mrs[-1] = 0.95  # above the next in one of four measurements
        at = TIMED | {"start": start, "layer": "conv1", "unit": 0}
        cases.append(trial("tanh", at, steps, mrp=mrp, mrs=mrs))
    return cases


@case("C3.26", "C3.27")
def all_sixteen(level: str) -> list[FakeRun]:
    died, accuracy = of(level, 8, 2, 0), 0.6 + of(level, 0.004, 0.009, 0.02)
    units = range(15 if level == "lacking" else 16)
    attacks = [
        trial(at=CONV2 | {"unit": i}, final={"accuracy": accuracy}, mrp=0.01 if i < died else 0.5)
        for i in units
    ]
    return [trial(), *attacks]


@case("O7")
def others_rise(level: str) -> list[FakeRun]:
    """The others rise where one falls; or they do not in some that die; or they fall with it."""
    cases = [trial()]
    for unit in range(16):
        mrp = 0.01 if unit < 8 and level != "lacking" else 0.5 + unit / 100
        others = of(level, 2 - mrp / 2, 0.9 if unit < 2 else 2 - mrp / 2, 0.5 + mrp)
        cases.append(trial(at=CONV2 | {"unit": unit}, mrp=mrp, other_mrp=others))
    return cases


@case("C3.28")
def estimates(level: str) -> list[FakeRun]:
    cases = []
    for number, network in enumerate(NETWORKS):
        better = number < of(level, 3, 2, 1)
        cases.append(trial(network))
        rows = cases[-1].tables["units"]
        rows["mrp"] = 1.0 + rows["unit"]
        small = rows["unit"] < rows.groupby("layer")["unit"].transform("median")
        rows["mrs"] = rows["mrp"] * np.where(small == better, 1.1, 2.0)
    return cases[:2] if level == "lacking" else cases


# Chapter 4


@case("C4.13", "C4.14", "C4.29")
def units_pruned(level: str) -> list[FakeRun]:
    cases = []
    jumps = of(level, (0.0, 0.1, 0.3, 0.4), (0.0, 0.1, 0.3, 0.6), (0.0, 0.35, 0.3, 0.4))
    sizes = of(level, 6000, 4500, 4000)
    for seed, noise in enumerate((-0.0001, 0.0, 0.0001)):
        accuracy = 0.98 + of(level, 0.002, 0.004, 0.01) + noise
        network = {"network": ["masked", "compacted"]}
        final = pd.DataFrame(network | {"accuracy": accuracy, "train_loss": 0.1})
        pruned = pd.DataFrame(
            {"fraction": [0.1, 0.2, 0.4, 0.6], "before": 1.0, "after": 1.0 + np.array(jumps)}
        )
        tables = {"final": final, "sizes": pd.DataFrame(network | {"parameters": [20000, 4000]})}
        tables["pruned"] = pruned.assign(set="train_probe", removal="propagated")
        cases.append(run("unit_pruning", tables, by="layer", seed=seed))
        removal = {"carried": True, "parameters": [20000, sizes], "test_accuracy": [0.999, accuracy - 0.0029]}
        training = pd.DataFrame({"train_probe": [0.0, 0.2] * 5})
        twin = {"final": pd.DataFrame({"test_accuracy": [0.98], "train_loss": 0.1}), "training": training}
        for by in ("", "layer", "network"):
            cases.append(run("weight_pruning", twin | {"removal": pd.DataFrame(removal)}, by=by, seed=seed))
    return cases[:1] if level == "lacking" else cases if level != "one" else cases[:4]


COMBINATIONS = list(itertools.product(("conv1", "conv2", "fc1"), (0.1, 0.4, 0.8)))


@case("C4.15", "C4.16", "C4.17", "C4.18")
def by_constant(level: str) -> list[FakeRun]:
    """In so many of nine combinations what is claimed costs least; fc1's come last."""
    rows = []
    for number, (layer, fraction) in enumerate(COMBINATIONS):
        about = {"layer": layer, "fraction": fraction, "step": 100, "set": "train_probe", "draw": 0}
        right = number < of(level, 8, 5, 4)
        tiny = 1e-4 if level == "lacking" and number < 2 else 1
        costs = {"mean of h": 0.2, "zero": 0.3 if right else 0.1, "mean of a": 0.1 if right else 0.3}
        rows += [
            about | {"scorer": "mrs", "constant": it, "penalty": value * tiny} for it, value in costs.items()
        ]
        norms = {"norm_l1": 0.19 if right else 0.18, "norm_l2": 0.5}
        rows += [
            about | {"scorer": it, "constant": "mean of h", "penalty": value * tiny}
            for it, value in norms.items()
        ]
    table = pd.DataFrame(rows)
    right = [COMBINATIONS[-1], *COMBINATIONS[:-1]][: of(level, 5, 1, 0)]  # one of fc1 first
    zero = [0.1 if place in right else 0.3 for place in zip(table["layer"], table["fraction"], strict=True)]
    tanh = table.assign(penalty=table["penalty"].where(table["constant"] != "zero", zero))
    if level == "lacking":
        tanh["penalty"] *= 1e-3
    return [run("units", {"penalties": table}), run("units", {"penalties": tanh}, activation="tanh")]


ORDERS = {0.1: "ours", 0.2: "ours", 0.4: "norms", 0.5: "norms", 0.6: "split", 0.8: "split"}
COSTS = {"ours": (1, 2, 3, 4), "norms": (3, 4, 1, 2), "split": (1, 4, 2, 3)}  # MRP, MRS, L1, L2


@case("C4.19", "C4.20")
def by_fraction(level: str) -> list[FakeRun]:
    scorers, steps = ("mrp", "mrs", "norm_l1", "norm_l2"), [1000, 9000, 18000]
    early, late = of(level, (0.002, 0.0005), (0.0009, 0.0001), (0.001, 0.002))
    rows = []
    for number, (fraction, order) in enumerate(ORDERS.items()):
        right = number < of(level, 5, 4, 3)
        for scorer, cost in zip(scorers, COSTS[order] if right else (9, 9, 9, 9), strict=True):
            about = {"layer": "fc1", "fraction": fraction, "scorer": scorer, "step": steps, "draw": 0}
            excess = np.array([early, 0.0, late]) if scorer.startswith("norm") else np.zeros(3)
            for activation, penalty in (("relu", 0.01 + excess), ("tanh", np.full(3, float(cost)))):
                rows.append(pd.DataFrame(about | {"penalty": penalty, "activation": activation}))
    rows = pd.concat(rows).assign(set="train_probe", constant="mean of h")
    rows = rows[rows["scorer"] != "mrs"] if level == "lacking" else rows
    training = pd.DataFrame({"step": steps, "epoch": [0.5, 9.0, 10.0]})
    return [
        run("units", {"penalties": part, "training": training}, activation=name)
        for name, part in rows.groupby("activation")
    ][::-1]


@case("C4.21")
def costs(level: str) -> list[FakeRun]:
    name = "pass" if level == "lacking" else "mrs of all units"
    rows = pd.DataFrame({"scorer": [name], "widths": 1, "passes": of(level, 1.5, 2.0, 2.1)})
    return [run("costs", {"costs": rows})]


@case("C4.22", "C4.23")
def growing(level: str) -> list[FakeRun]:
    """Twelve units a layer: growth in the order of the final MRP, or not; MRP as it was early, or not."""
    early = of(level, range(12), [0, 1, 2, 3, 6, 7, 4, 5, *range(8, 12)], range(11, -1, -1))
    growth = 1 + np.array(of(level, range(12), range(12), range(11, -1, -1)))
    if level == "direction":
        growth = np.array([6, 1, 12, 2, 8, 3, 7, 9, 4, 10, 5, 11])
    rows = []
    for layer in ("conv1", "conv2", "fc1"):
        units = {"layer": layer, "unit": range(12)}
        rows.append(pd.DataFrame(units | {"step": 100, "epoch": 0.1, "norm_l1": 1.0, "mrp": early}))
        rows.append(
            pd.DataFrame(units | {"step": 18000, "epoch": 10.0, "norm_l1": 1 + growth, "mrp": range(12)})
        )
    rows = pd.concat(rows)
    return [run("units", {"scores": rows.query("step == 100") if level == "lacking" else rows})]


@pytest.mark.parametrize(
    ("wide", "first"), [("C4.24", "C4.3"), ("C4.25", "C4.4"), ("C4.26", "C4.6"), ("C4.28", "C4.11")]
)
def test_the_claims_of_256_units_are_those_of_64(wide, first):
    wide, first = CLAIMS[wide], CLAIMS[first]
    assert (wide.function, wide.thresholds) == (first.function, first.thresholds)
    assert wide.setting["units"]["widths"] == ([8, 16, 256],)
    assert CLAIMS["C4.27"].thresholds["fractions"] == [0.4, 0.5, 0.6, 0.8]


# Chapter 5


@case("O1")
def rescored(level: str) -> list[FakeRun]:
    gains, other = of(level, (2.0, -0.1), (2.0, 0.1), (1.9, -0.1))
    kinds = {("rescored", "probe"): [0, -gains, -1], ("one-shot", "probe"): [0, -1, 0]}
    kinds["rescored", "other"] = [0, other, -9]
    rows = [
        pd.DataFrame({"step": 9000, "way": way, "set": on, "removed": [0, 2, 4], "change": change})
        for (way, on), change in kinds.items()
    ]
    activation = "tanh" if level == "lacking" else "relu"
    return [run("rescoring", {"removed": pd.concat(rows)}, activation=activation)]


def saliencies(level: str, share: float, hessian: float, noisy: bool) -> list[FakeRun]:
    """Taylor 1 knows one of two terms of the loss change; row sums are so much of the other, or noise."""
    first, second, noise = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 3)))[0].T
    rows = pd.DataFrame({"step": 9000, "epoch": 5.0, "set": "probe", "taylor1": first})
    rows = rows.assign(loss_change=first + share * second, diagonal=first + share * second)
    rows["hessian"] = 5 * noise if noisy else hessian * second
    runs = [run("saliency", {"scores": rows}, activation=name) for name in ("relu", "tanh")]
    return runs[1:] if level == "lacking" else runs


@case("O2")
def best_approximation(level: str) -> list[FakeRun]:
    return saliencies(level, of(level, 0.3, 1.5, 1.5), 1.5, level != "neither")


@case("O3")
def second_order(level: str) -> list[FakeRun]:
    return saliencies(level, of(level, 0.3, 1.5, 1.5), of(level, 0, 3.0, 1.5), level == "holds")


@case("O4")
def grouped(level: str) -> list[FakeRun]:
    runs = []
    for activation, ratio in (("relu", of(level, 0.7, 0.9, 1.1)), ("tanh", of(level, 0.75, 2.0, 0.5))):
        rows = pd.DataFrame({"scorer": ["group", "magnitude"], "penalty": [ratio, 1.0]})
        runs.append(
            run("grouping", {"penalties": rows.assign(set="other", fraction=0.8)}, activation=activation)
        )
    return runs[:1] if level == "lacking" else runs


@case("O5")
def averaged(level: str) -> list[FakeRun]:
    steps, parts = np.arange(50, 9051, 50), []
    for scorer, images, average in itertools.product(ABSOLUTE[::3], (100, 1000, 4000, 16000), (False, True)):
        every = 12 if images == 1000 and not average else of(level, 40, 20, 12)
        height = {True: of(level, 3.0, 2.1, 9.0)}.get(average, 9.0)
        penalty = np.full(len(steps), 1.0)
        penalty[25 :: every if level != "direction" or not average else 12] = height
        if level == "lacking":
            penalty[:] = 1.0
        about = {"scorer": scorer, "images": images, "averaged": average}
        parts.append(pd.DataFrame({"step": steps, "penalty": penalty} | about))
    return [run("averaging", {"penalties": pd.concat(parts).assign(set="other")})]


@case("O6")
def constants(level: str) -> list[FakeRun]:
    runs = []
    for activation in ("relu", "tanh"):
        best = of(level, "mean of a", "zero", "mean of h")
        names = ("mean of h", "mean of a", "zero", "min of a")
        places = itertools.product(("conv1", "conv2", "fc1"), names)
        rows = pd.DataFrame(places, columns=["layer", "constant"]).assign(set="train_probe")
        rows["penalty"] = [{best: 0.1, "mean of a": 0.2}.get(it, 0.3) for it in rows["constant"]]
        tables = {} if level == "lacking" else {"constants": rows}
        runs.append(run("units", tables, activation=activation))
    return runs


@case("O8")
def rescaled(level: str) -> list[FakeRun]:
    rows = []
    for attacked, c in itertools.product((True, False), (0.5, 1, 2)):
        died = {(True, 0.5): of(level, 8, 6, 4), (True, 2): 4}.get((attacked, c), 1)
        mrp = [0.01] * died + [1.0] * (10 - died)
        rows.append(pd.DataFrame({"attacked": attacked, "c": c, "mrp": mrp, "mean_mrp": 1.0}))
    return [] if level == "lacking" else [run("rescaling", {"rescaled": pd.concat(rows).assign(set="probe")})]


@case("O9")
def residual(level: str) -> list[FakeRun]:
    scores = {"norm_l1": 0.5, "norm_l2": 0.6, "random": of(level, 0.3, 0.3, 0.49)}
    scores["mrs"] = of(level, 0.59, 0.5, 0.5)
    rows = pd.DataFrame({"scorer": list(scores), "accuracy": list(scores.values())})
    return [] if level == "lacking" else [run("residual", {"pruned": rows})]


@case("O10")
def timed(level: str) -> list[FakeRun]:
    engines = ["a", "b", "c"][: 2 if level == "lacking" else 3]
    over = of(level, (0.8, 0.7, 0.6), (0.9, 0.7, 0.9), (0.9, 0.81, 0.9))[: len(engines)]
    rows = {"engine": engines, "over_dense": over, "network": "compacted", "batch": 1000}
    return [run("unit_costs", {"speeds": pd.DataFrame(rows)})]


@case("O11")
def revived(level: str) -> list[FakeRun]:
    arms = {
        "wait": [0.01] * 9 + [of(level, 0.5, 0.01, 0.01)],
        "redo": of(level, [0.3] * 5 + [0.0] * 5, [0.1] * 10, [0.02] * 10),
    }
    rows = [
        pd.DataFrame({"arm": arm, "mrp": mrp, "mean_mrp": 1.0, "step": 9000, "set": "probe"})
        for arm, mrp in arms.items()
    ]
    return [] if level == "lacking" else [run("revival", {"revived": pd.concat(rows)})]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("claim_id", CASES)
def test_four_outcomes(claim_id, level):
    CASES.check(claim_id, level, CLAIMS[claim_id].scored_on)


def test_each_claim_of_the_second_list_has_a_case():
    wide = {f"C4.{i}" for i in range(24, 29)}
    later = {name for name, claim in CLAIMS.items() if claim.listed != "first"}
    assert later == CASES.keys() | wide
    assert [sum(claim.listed == it for claim in CLAIMS.values()) for it in ("first", "second", "open")] == [
        39,
        40,
        11,
    ]


@pytest.mark.parametrize(
    ("kind", "thesis", "values", "expected"),
    [
        ("share", 0.35, [0.4, 0.4, 0.46], "met"),  # the mean is 0.42
        ("share", 0.35, [0.3, 0.5, 0.6], "open"),
        ("share", 0.35, [0.5, 0.51, 0.52], "differs"),
        ("steps", 2000, [2400, 2400], "met"),
        ("up to", 7, [4.0, 9.0], "met"),  # the geometric mean is 6
        ("up to", 7, [12.0, 12.1, 12.2], "differs"),
        ("ratio", 3, [1.0, 9.0], "met"),
        ("ratio", 3, [math.inf, 3.0, 3.0], "open"),
        ("range", [6, 7], [5.4, 7.7], "met"),
        ("range", [6, 7], [3.0, 3.1, 3.2], "differs"),
        ("count", 2, [1, 1, 1], "met"),
        ("count", 2, [0, 0, 1], "open"),
        ("points", 67, [66.8, 66.6], "met"),
        ("points", 67, [66.5, 66.6], "open"),
        ("loss", 0.046, [0.06, 0.0601, 0.0602], "differs"),
        ("exact", 4019, [4019, 4019], "met"),
        ("exact", 4019, [4020, 4020], "differs"),
        ("share", 0.35, [0.9], "open"),  # one seed has no interval
    ],
)
def test_a_number_is_met_differs_or_is_open(kind, thesis, values, expected):
    assert numbers.compare("x", thesis, kind, values).outcome == expected


def test_seeds_5_to_9_decide_and_the_others_stand_beside_them():
    """And a verdict of a reproduced claim says whether the thesis's number differs."""

    def runs(seeds, share):
        scores = [-1.0] * share + [1.0] * (100 - share)
        rows = pd.concat(
            [pd.DataFrame({"step": step, "loss_change": scores}) for step in range(600, 8001, 200)]
        )
        fixed = {name: allowed[0] for name, allowed in CLAIMS["C2.1"].setting["saliency"].items()}
        return [run("saliency", {"scores": rows.assign(set="probe")}, **fixed, seed=seed) for seed in seeds]

    assert str(claims.verdict("C2.1", runs(range(5), 45))) == "reproduced (5 seeds)"
    verdict = claims.verdict("C2.1", [*runs(range(5), 10), *runs(range(5, 10), 45)])
    assert str(verdict) == "reproduced, number differs (5 seeds)"
    assert str(verdict.exploration) == "not reproduced (5 seeds)"
    shown = verdict._repr_html_()
    assert 'class="verdict verdict-reproduced"' in shown
    assert "mean share: 0.35 in the thesis, 0.45 here (95%: 0.45 to 0.45): number differs" in shown
    assert "<dt>Exploration</dt><dd>not reproduced (5 seeds)" in shown
    assert str(claims.verdict("C2.1", runs([5], 36))) == "reproduced (provisional, 1 seed)"


def test_a_claim_of_the_second_list_waits_for_its_seeds():
    case = CASES["C2.22"]("holds")
    case[0].info["settings"] |= {name: of[0] for name, of in CLAIMS["C2.22"].setting["saliency"].items()}
    verdict = claims.verdict("C2.22", case)
    assert str(verdict) == "not run yet (seeds 5 to 9)"
    assert str(verdict.exploration) == "reproduced (provisional, 1 seed)"
    case[0].info["settings"]["seed"] = 7
    assert str(claims.verdict("C2.22", case)) == "reproduced (provisional, 1 seed)"
    case[0].info["settings"] |= {"dataset": "digits", "seed": 0}
    assert claims.verdict("C2.22", case).outcome == "not judged"
    assert str(claims.verdict("O9", [])) == "not run yet (seeds 5 to 9)"
    assert worst_of(["met", "differs", "open"]) == "differs"


def worst_of(outcomes: list[str]) -> str:
    return numbers.worst([numbers.Compared("x", 1, 1, 1, 1, it) for it in outcomes])


def test_evidence_that_is_shown_in_the_ledger_alone():
    assert Evidence({"x": 1.0}, True, True).also == {}
