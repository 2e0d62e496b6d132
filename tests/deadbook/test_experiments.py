"""The loops: what they record is what one gets by hand, and measuring changes nothing in the training."""

from __future__ import annotations

import math
from collections import defaultdict

import pandas as pd
import pytest
import torch
from torch import nn

from deadbook import claims, datasets, runs, settings
from deadbook.analysis import trials
from deadbook.build import book
from deadbook.chapters import plans
from deadbook.experiments import (
    attacks,
    background,
    common,
    explorer,
    grouping,
    rescaling,
    unit_pruning,
    units,
)
from deadbook.histograms import BOUNDED, EDGES
from deadunits import (
    Invalid,
    compaction,
    derivatives,
    mean_replacement,
    models,
    pruning,
    scorers,
    training,
    unit_scorers,
)
from deadunits.data import Batch

OWN = {"dataset": "digits", "image_size": 0, "network": "small_cnn", "activation": "relu", "seed": 0}
TRAINED = OWN | {"epochs": 2, "lr": 0.1, "batch_size": 64, "measure_every": 6, "probe_size": 40}
FOUR = ["conv1", "conv2", "fc1", "fc2"]
PRUNED = TRAINED | {"layers": FOUR, "schedule": [[1, 0.5], [2, 0.9]], "by": "layer"}


def tables(experiment: str, **settings) -> dict[str, pd.DataFrame]:
    rows = defaultdict(list)
    for name, row in runs.load_experiment(experiment)(**settings):
        arrays = {key: value.tolist() for key, value in row.items() if hasattr(value, "tolist")}
        rows[name].append(pd.DataFrame(row | arrays) if arrays else pd.DataFrame([row]))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in rows.items()}


@pytest.fixture(scope="module")
def scored():
    return tables("saliency", **TRAINED, layers=["conv1"], fractions=[0.05, 0.8], draws=2)


@pytest.fixture(scope="module")
def pruned():
    return tables("weight_pruning", **PRUNED)


@pytest.fixture(scope="module")
def twin():
    return tables("weight_pruning", **(PRUNED | {"schedule": []}))


def trained(images, steps=None):
    net = models.small_cnn(images.shape, seed=0)
    for step in training.sgd(net, images.train, epochs=2, lr=0.1, batch_size=64, seed=0):
        if step.number == steps:
            break
    return net.eval()


def values(rows: pd.DataFrame) -> torch.Tensor:
    return torch.tensor(rows["value"].to_numpy(), dtype=torch.float32)


def test_what_is_scored_and_pruned(scored):
    assert sorted(scored["scores"]["step"].unique()) == [6, 12, 18, 24, 30, 36, 42]
    assert scored["scores"].groupby("set")["step"].unique().map(list)["other"] == [30]  # every fifth
    rows = scored["penalties"]
    by_kind = rows[rows["step"] == 6].groupby("fraction")["scorer"].agg(set)
    signed = {"loss_change", "taylor1", "taylor2", "hessian", "diagonal"}
    assert by_kind[0.05] == signed | {"magnitude", "random"}
    assert by_kind[0.8] == by_kind[0.05] | {f"{one}_abs" for one in signed}
    elsewhere = rows[rows["scored_on"] != "probe"]
    assert set(elsewhere["step"]) == {30}
    assert set(elsewhere["fraction"]) == {0.8}
    assert (elsewhere["set"] == elsewhere["scored_on"]).all()
    assert "random" not in set(elsewhere["scorer"])
    assert not rows.isna().any(axis=None)


def test_scores_of_the_table_are_the_librarys(scored):
    images = datasets.load("digits", probe_size=40)
    net = trained(images, 12)
    rows = scored["scores"].query("step == 12 and set == 'probe'")
    for name in ("loss_change", "taylor1", "hessian", "diagonal", "magnitude"):
        score = scorers.SCORERS[name](net, images.probe, ["conv1.weight"])["conv1.weight"]
        assert rows[name].tolist() == pytest.approx(score.flatten().tolist(), rel=1e-4, abs=1e-6)


def test_signals_of_the_table_are_means_over_single_images(scored):
    images = datasets.load("digits", probe_size=40)
    net = trained(images, 30)
    rows = scored["signals"].query("step == 30")
    alone = [
        derivatives.gradient(net, Batch(x[None], y[None]), ["conv1.weight"])["conv1.weight"].flatten()
        for x, y in zip(*images.probe, strict=True)
    ]
    sizes = torch.stack(alone)
    assert rows["gradient"].tolist() == pytest.approx(sizes.mean(0).abs().tolist(), rel=1e-4, abs=1e-6)
    assert rows["by_image"].tolist() == pytest.approx(sizes.abs().mean(0).tolist(), rel=1e-4, abs=1e-6)
    assert rows["output"].nunique() == 8  # one a unit
    assert 8 < rows["input"].nunique() <= 25  # one a place in the window, rounded


def test_the_twin_is_bit_for_bit_an_unmeasured_training(twin):
    images = datasets.load("digits", probe_size=40)
    net = trained(images)
    for layer in FOUR:
        assert torch.equal(
            values(twin["values"].query("layer == @layer")), net.get_parameter(f"{layer}.weight").flatten()
        )
    assert "pruned" not in twin
    assert set(twin["training"]["pruned"]) == {0.0}


@pytest.mark.parametrize("by", ["layer", "network"])
def test_a_schedule_prunes_what_it_says(by, pruned):
    found = pruned if by == "layer" else tables("weight_pruning", **(PRUNED | {"by": by}))
    zeros = found["values"]["value"] == 0
    # floor(0.9 n) of all 20,424 weights, or of each layer's
    assert zeros.sum() == (18_381 if by == "network" else 180 + 2880 + 14_745 + 576)
    if by == "layer":
        assert zeros.groupby(found["values"]["layer"]).sum().to_dict() == {
            "conv1": 180,
            "conv2": 2880,
            "fc1": 14_745,
            "fc2": 576,
        }
    assert found["pruned"].groupby("step")["fraction"].first().to_dict() == {22: 0.5, 44: 0.9}
    assert found["training"].set_index("step")["pruned"].to_dict()[24] == 0.5


def test_until_the_first_pruning_the_twin_is_the_same(pruned, twin):
    both = pruned["training"].merge(twin["training"], on="step", suffixes=("", "_twin")).query("step < 22")
    assert len(both) == 3
    assert (both["probe"] == both["probe_twin"]).all()


def test_removing_empty_units_changes_nothing_and_the_size_is_right(pruned):
    removal, final = pruned["removal"], pruned["final"].iloc[0]
    none = removal.query("fnz == 0 and carried").iloc[0]
    for name in ("probe_loss", "test_loss", "test_accuracy"):
        assert none[name] == pytest.approx(final[name], abs=1e-6)
    net = models.small_cnn((1, 28, 28))
    with torch.no_grad():
        for layer in FOUR:
            weight = net.get_parameter(f"{layer}.weight")
            weight.copy_(values(pruned["values"].query("layer == @layer")).view(weight.shape))
    small = compaction.compact(net.eval(), compaction.idle(net))
    assert none["parameters"] == compaction.parameter_count(small) < 20_522
    by_fnz = removal[removal["carried"]].set_index("fnz")["parameters"]
    assert by_fnz.is_monotonic_decreasing


class Skip(nn.Module):
    """No chain: what follows a layer is not known."""

    def __init__(self, width, classes):
        super().__init__()
        self.first, self.second = nn.Linear(784, width), nn.Linear(width, classes)

    def forward(self, x):
        h = self.first(x.flatten(1))
        return self.second(h.relu() + 0.1 * h)


class Deciding(Skip):
    """Cannot be traced: what it does depends on values."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def skipping(shape, classes):
    return Skip(3, classes)


def deciding(shape, classes):
    return Deciding(3, classes)


def test_a_network_of_ones_own():
    own = TRAINED | {"network": f"{__name__}:skipping", "activation": "own", "epochs": 1, "measure_every": 22}
    found = tables("saliency", **own, layers=["second"], fractions=[0.5], draws=1)
    assert len(found["scores"]) == 30
    assert "diagonal" not in found["scores"]
    settings = {"layers": ["second"], "schedule": [[1, 0.5]], "by": "layer"}
    found = tables("weight_pruning", **(own | settings))
    assert "removal" not in found  # its structure is not known
    assert (found["values"]["value"] == 0).sum() == 15


def test_a_layer_that_cannot_be_scored_is_refused_at_once():
    settings = TRAINED | {"network": f"{__name__}:deciding", "activation": "own", "layers": ["first"]}
    with pytest.raises(Invalid, match=r"first takes 2,352 forward passes .* 2,000 are allowed: .*Trace"):
        next(iter(runs.load_experiment("saliency")(**settings, fractions=[0.5], draws=1)))


def test_losses_do_not_depend_on_the_chunks():
    images = datasets.load("digits", probe_size=300)
    net = trained(images, 1)
    whole = common.sample_losses(net(images.probe.x), images.probe.y).double().mean().item()
    assert common.mean_loss(net, images.probe) == pytest.approx(whole, abs=1e-7)


UNITS = TRAINED | {"layers": ["conv1", "conv2", "fc1"]}


@pytest.fixture(scope="module")
def of_units():
    return tables("units", **UNITS, widths=[8, 16, 64], fractions=[0.25, 0.5], draws=2)


def test_scores_of_units_are_the_librarys(of_units):
    images = datasets.load("digits", probe_size=40)
    net = trained(images, 12)
    for layer in UNITS["layers"]:
        rows = of_units["scores"].query("step == 12 and layer == @layer")
        for name in units.SCORERS:
            score = unit_scorers.UNIT_SCORERS[name](net, images.train_probe, [layer])[layer]
            assert rows[name].tolist() == pytest.approx(score.tolist(), rel=1e-4, abs=1e-6)


def test_penalties_are_those_of_bias_propagation(of_units):
    images = datasets.load("digits", probe_size=40)
    net = trained(images, 12)
    seen = mean_replacement.observe(net, images.train_probe, UNITS["layers"])
    entered = unit_pruning.stand_ins(
        net, images, {name: torch.ones(len(one.mean)) > 0 for name, one in seen.items()}
    )
    rows = of_units["penalties"].query("step == 12")
    assert set(rows["scorer"]) == {*units.SCORERS, "random"}
    assert rows.query("scorer == 'random'")["draw"].nunique() == 2
    for layer, one in seen.items():
        for fraction in (0.25, 0.5):
            keep = pruning.unit_masks({layer: one.mrs}, fraction)
            zeros = torch.zeros(len(one.mean))
            by = {"mean of h": {"h": {layer: one.mean}}, "zero": {"a": {layer: zeros}}}
            by["mean of a"] = {"a": {layer: entered["activation"]["a"][layer]}}
            for constant, given in by.items():
                small = compaction.compact(net, keep, **given)
                for judged_on in ("train_probe", "other"):
                    batch = getattr(images, judged_on)
                    penalty = common.mean_loss(small, batch) - common.mean_loss(net, batch)
                    chosen = {"layer": layer, "fraction": fraction, "scorer": "mrs"}
                    chosen |= {"constant": constant, "set": judged_on}
                    found = rows[(rows[list(chosen)] == pd.Series(chosen)).all(axis=1)]["penalty"]
                    assert found.tolist() == pytest.approx([penalty], abs=1e-5)


def test_nine_constants_are_compared_at_the_last_of_few_measurements(of_units):
    """ReLU keeps the order: of a unit of fc1 the extremes of h and of a are the same; their means are not."""
    rows = of_units["constants"]
    cases = rows.groupby(["layer", "set"])["constant"].nunique()
    assert len(cases) == 6
    assert cases.eq(9).all()
    keys = ["step", "layer", "set", "constant"]
    half = of_units["penalties"].query("scorer == 'mrs' and fraction == 0.5")
    both = rows.merge(half, on=keys)
    assert len(both) == 6 * len(units.CONSTANTS)
    assert both["penalty_x"].tolist() == both["penalty_y"].tolist()
    fc1 = rows.query("layer == 'fc1' and set == 'other'").set_index("constant")["penalty"]
    for name in ("min", "max", "median"):
        assert fc1[f"{name} of h"] == pytest.approx(fc1[f"{name} of a"], abs=1e-5)
    assert fc1["mean of h"] != fc1["mean of a"]


def test_penalties_of_a_network_of_ones_own_are_those_of_hooks():
    images = datasets.load("digits", probe_size=40)
    net = trained(images, 3)
    constant = units.constants(net, images.probe, "conv2")["mean of h"]
    gone = torch.arange(16) % 3 == 0

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, x):
            return self.inner(x)

    own = Wrapped().eval()
    means = units.constants(own, images.probe, "inner.conv2")["mean of h"]
    slow = units.Replacing(own, images.other, "inner.conv2").loss(gone, means, "")
    fast = units.Replacing(net, images.other, "conv2").loss(gone, constant, "")
    assert slow == pytest.approx(fast, abs=1e-6)


@pytest.fixture(scope="module")
def of_unit_pruning():
    chosen = {"schedule": [[1, 0.25], [2, 0.6]], "scorer": "mrs", "by": "layer", "epochs": 3}
    return tables("unit_pruning", **(UNITS | chosen))


def test_units_are_pruned_as_scheduled_and_the_small_network_is_the_masked_one(of_unit_pruning):
    kept = of_unit_pruning["kept"].groupby("layer")["kept"].sum()
    assert kept.to_dict() == {"conv1": 4, "conv2": 7, "fc1": 26}
    final = of_unit_pruning["final"].set_index("network")
    for column in ("train_loss", "test_loss", "accuracy"):
        assert final[column]["compacted"] == pytest.approx(final[column]["masked"], abs=1e-6)
    sizes = of_unit_pruning["sizes"].set_index("network")
    assert sizes["parameters"]["compacted"] < 0.5 * sizes["parameters"]["masked"]
    assert sizes["bytes"]["compacted"] < 0.5 * sizes["bytes"]["masked"]
    values = of_unit_pruning["values"].query("layer == 'conv1'")["value"].to_numpy().reshape(8, -1)
    assert ((values != 0).any(1) == of_unit_pruning["kept"].query("layer == 'conv1'")["kept"]).all()


def test_a_network_whose_units_cannot_be_removed_is_refused_at_once():
    settings = UNITS | {
        "network": "toys:residual",
        "schedule": [],
        "scorer": "mrs",
        "by": "layer",
    }
    with pytest.raises(ValueError, match="is not a chain"):
        tables("unit_pruning", **settings | {"layers": ["conv"], "activation": "own"})


@pytest.fixture(scope="module")
def walked():
    chosen = {"measure_every": 20, "epochs": 1, "sizes": [1e-5, 1e-4, 0.5], "trials": 2}
    return tables("background", **(TRAINED | chosen))


def test_expansions_are_as_good_as_their_order_says(walked):
    rows = walked["expansion"].set_index(["step", "direction", "size"])
    for order in ("first", "second"):
        rows[order] = (rows[order] - rows["exact"]).abs()
    for step in (1, 20):
        error = rows.loc[step, "removal"]
        assert 95 < error["first"][1e-4] / error["first"][1e-5] < 105  # t²
        rounding = 1e-13  # of a loss in float64
        assert error["second"][1e-5] < error["second"][1e-4] / 300 + rounding  # t³
        assert error["second"][1e-4] < 0.01 * error["first"][1e-4]
        error = rows.loc[step, "gradient"]
        # larger steps cross kinks of ReLU and max-pooling, of which no derivative knows
        assert error["second"][1e-5] < 0.01 * error["first"][1e-5]
        assert (walked["expansion"].query("direction == 'gradient'")["first"] < 0).all()


def test_a_step_along_a_minibatch_is_taken_and_taken_back(walked):
    images = datasets.load("digits", probe_size=40)
    net = trained(images, 20).double()
    rows = walked["descent"].query("step == 20 and size == 0.5")
    assert len(rows) == 2
    generator = torch.Generator().manual_seed(2**31)
    torch.randint(0, len(images.train.y), (2, 64), generator=generator)  # the trials after step 1
    chosen = torch.randint(0, len(images.train.y), (64,), generator=generator)
    x, y = images.train.x[chosen].double(), images.train.y[chosen]
    loss = nn.functional.cross_entropy(net(x), y)
    before = loss.item()
    with torch.no_grad():
        for one, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            one -= 0.5 * g
    change = nn.functional.cross_entropy(net(x), y).item() - before
    assert rows["minibatch"].tolist()[0] == pytest.approx(change, rel=1e-4)


def test_propagation_of_a_straight_unit_in_closed_form():
    spreads = torch.tensor([0.1, 1.0])
    found = background.propagation_errors(lambda h: 2 * h, spreads, mean=3.0, weight=-0.5)
    spread = 2 * 0.5 * spreads.double().numpy()  # of what the unit sends on
    assert found["mended, W g(E[h])"] == pytest.approx(spread, rel=0.01)
    assert found["W E[g(h)]"] == pytest.approx(spread, rel=0.01)
    assert found["as printed, g(E[h] W)"] == pytest.approx(spread, rel=0.01)  # the same where g is straight
    assert found["bare removal"] == pytest.approx((spread**2 + 9) ** 0.5, rel=0.01)


ATTACKED = OWN | {"layers": ["conv1", "conv2", "fc1"], "batch_norm": False, "lr": 0.1, "batch_size": 64}
ATTACKED |= {"epochs": 1, "measure_every": 5, "probe_size": 50}  # 21 steps
ATTACKED |= {"layer": "conv1", "unit": 3, "start": 4, "interval": 3, "repeats": 3}  # steps 4, 7 and 10
ATTACKED |= {"multiplier": 20, "control": False, "watch": [["conv1", 3], ["fc1", 0]]}


@pytest.fixture(scope="module")
def attacked():
    return tables("attacks", **ATTACKED)


@pytest.fixture(scope="module")
def unattacked():
    return tables("attacks", **(ATTACKED | trials.TWIN))


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert one.keys() == other.keys()
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True)


def test_the_twin_is_an_attack_that_multiplies_by_one(unattacked, attacked):
    same(tables("attacks", **(ATTACKED | {"multiplier": 1})), unattacked)
    assert not attacked["units"].equals(unattacked["units"])


def test_what_is_recorded_around_an_attack_changes_nothing_else(attacked):
    found = tables("attacks", **(ATTACKED | {"around": [[8, 15], [16, 27]], "snapshots": True}))
    around, values, weights = (found.pop(name) for name in ("around", "around_values", "snapshots"))
    same(found, attacked)
    assert sorted(around["step"].unique()) == sorted(values["step"].unique()) == [10, 20]
    regular = found["units"].query("step == 20 and set == 'probe'").reset_index(drop=True)
    names = ["layer", "unit", "mrp", "mrs", "gradient", "norm_in", "norm_out"]
    again = around.query("step == 20").reset_index(drop=True)
    pd.testing.assert_frame_equal(again[names], regular[names])
    counts = values.query("step == 20").reset_index(drop=True)
    pd.testing.assert_frame_equal(counts, found["values"].query("step == 20").reset_index(drop=True))
    assert weights.groupby("step").size().nunique() == 1
    assert {"conv1.weight", "conv1.bias", "fc2.bias"} <= set(weights["name"])


def test_an_attack_records_all_units_of_all_layers(attacked):
    rows = attacked["units"]
    assert rows["step"].unique().tolist() == [5, 10, 15, 20]
    widths = {"conv1": 8, "conv2": 16, "fc1": 64}
    for _, group in rows.groupby(["step", "set"]):
        assert group.groupby("layer")["unit"].apply(list).to_dict() == {
            layer: list(range(width)) for layer, width in widths.items()
        }
    assert rows.groupby("set")["step"].unique().map(list).to_dict() == {
        "probe": [5, 10, 15, 20],
        "other": [5, 10, 15, 20],  # the last epoch's measurements are full ones
    }
    columns = ["mrp", "mrs", "gradient", "norm_in", "norm_out", "weight_gradient"]
    assert rows[columns].notna().all(axis=None)
    assert dict(zip(attacked["weights"]["layer"], attacked["weights"]["units"], strict=True)) == widths
    assert attacked["training"].notna().all(axis=None)
    final = attacked["final"].iloc[0]
    assert (final["diverged"], final["images"], len(attacked["final"])) == (0, "digits", 1)


def test_what_an_attack_records_is_what_one_gets_by_hand(attacked):
    """The thesis's loop: the gradient of one unit multiplied in some steps."""
    images = datasets.load("digits", probe_size=50)
    net = models.small_cnn(images.shape, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    order = torch.Generator().manual_seed(0)
    x, losses = images.train.x.contiguous(memory_format=torch.channels_last), []
    for number, chosen in enumerate(torch.randperm(len(x), generator=order).split(64), 1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x[chosen]), images.train.y[chosen])
        loss.backward()
        losses.append(loss.item())
        if number in (4, 7, 10):
            net.conv1.weight.grad[3] *= 20
        optimizer.step()
        if number == 10:
            break
    now = attacked["training"].query("step == 10").iloc[0]
    assert now["minibatch"] == pytest.approx(sum(losses[5:]) / 5)
    assert now["probe"] == pytest.approx(common.mean_loss(net.eval(), images.probe), abs=1e-6)
    rows = attacked["units"].query("step == 10 and set == 'probe' and layer == 'conv1'")
    exact = mean_replacement.mean_replacement_penalty(net, images.probe, ["conv1"])["conv1"]
    assert rows["mrp"].tolist() == pytest.approx(exact.tolist(), rel=1e-3, abs=1e-6)  # four digits are kept
    norms = net.conv1.weight.detach().abs().flatten(1).sum(1)
    assert rows["norm_in"].tolist() == pytest.approx(norms.tolist(), rel=1e-3)


def test_a_control_gets_the_norm_without_the_attack(attacked, unattacked):
    control = tables("attacks", **(ATTACKED | {"control": True}))

    def probed(one, step):
        rows = one["units"].query("step == @step and set == 'probe' and layer == 'conv1'")
        return rows.set_index("unit")

    before = probed(control, 5), probed(unattacked, 5)
    pd.testing.assert_frame_equal(*before, check_exact=True)  # nothing has happened yet
    found, twin, norms = (probed(one, 10)["norm_in"] for one in (control, unattacked, attacked))
    assert found[3] == pytest.approx(norms[3], rel=1e-5)  # step 10 is that of the last attack
    assert found[3] != pytest.approx(twin[3], rel=0.01)
    assert found.drop(3).equals(twin.drop(3))  # all others are those of the twin


def test_a_control_keeps_its_direction():
    images = datasets.load("digits", probe_size=50)
    net = models.small_cnn(images.shape, seed=0)
    schedule = attacks.Schedule(4, 3, 3)
    chosen = ATTACKED | {"epochs": 1, "lr": 0.1, "batch_size": 64, "multiplier": 20}
    norm = attacks.attacked_norm(net, images, settings.Attacks(**chosen), schedule)
    assert norm == net.conv1.weight[3].abs().sum().item()
    weight = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    attacks.scale_to(weight, 0, 14.0)
    assert weight[0].tolist() == [6.0, -8.0]
    attacks.scale_to(weight, 1, 5.0)
    assert weight.tolist() == [[6.0, -8.0], [0.0, 0.0]]


def test_an_attack_that_diverges_ends_with_its_final_row():
    found = tables("attacks", **(ATTACKED | {"multiplier": 1e30}))
    final = found["final"].iloc[0]
    assert final["diverged"] == 6  # 1e30 at step 4, a huge loss at step 5, and then none
    assert math.isnan(final["train_loss"])
    assert 0 <= final["accuracy"] <= 1
    assert found["units"]["step"].max() == 5


def test_an_attack_whose_last_update_diverges_says_so():
    late = {"start": 21, "repeats": 1, "multiplier": 1e300}
    final = tables("attacks", **(ATTACKED | late))["final"].iloc[0]
    assert not math.isfinite(final["train_loss"])
    assert final["diverged"] == 21


def test_the_control_of_an_attack_that_diverges_ends_there():
    found = tables("attacks", **(ATTACKED | {"multiplier": 1e30, "control": True}))
    assert found["final"].iloc[0]["diverged"] == 10  # its attack's last step
    assert found["units"]["step"].max() == 5


def test_a_unit_or_a_layer_that_is_not_there_is_refused():
    with pytest.raises(Invalid, match="layers: behind 'fc2' there is no layer"):
        list(runs.load_experiment("attacks")(**ATTACKED | {"layers": ["conv1", "conv2", "fc1", "fc2"]}))
    own = ATTACKED | {"network": "toys:two_layers", "activation": "own", "layers": ["1"], "layer": "1"}
    with pytest.raises(Invalid, match="1 has units 0 to 5, not 8"):
        list(runs.load_experiment("attacks")(**own | {"unit": 8, "watch": []}))
    twin = ATTACKED | trials.TWIN | {"unit": 8}  # nobody attacks it
    assert next(runs.load_experiment("attacks")(**twin))[0] == "weights"


def test_histograms_count_all_values_of_the_watched_units():
    found = tables("attacks", **(ATTACKED | {"activation": "tanh"}))
    counts = found["values"].groupby(["step", "layer", "unit", "what"])["count"].sum()
    images, after_pooling = 50, {"conv1": 12 * 12, "fc1": 1}
    positions = {"conv1": 24 * 24, "fc1": 1}
    assert counts.to_dict() == {
        (20, layer, unit, what): images * place[layer]  # every fourth measurement
        for layer, unit in (("conv1", 3), ("fc1", 0))
        for what, place in (("output", positions), ("activation", after_pooling))
    }
    bins = found["values"].groupby("what")["bin"].agg(["min", "max"])
    assert (bins["min"] >= 0).all()
    assert bins.loc["output", "max"] < len(EDGES) - 1
    assert bins.loc["activation", "max"] < len(BOUNDED) - 1


EXPLORED = OWN | {"layers": ["conv1", "conv2", "fc1"], "epochs": 1, "lr": 0.1, "batch_size": 64}
EXPLORED |= {"probe_size": 50, "fractions": [0.0, 0.5]}


def once_trained():
    """The network that the explorer goes through."""
    images = datasets.load("digits", probe_size=50)
    net = models.small_cnn(images.shape, seed=0)
    for _ in training.sgd(net, images.train, epochs=1, lr=0.1, batch_size=64, seed=0):
        pass
    return net.eval(), images


def test_the_explorer_takes_out_weights_as_one_does_by_hand():
    found = tables("explorer", **(EXPLORED | {"of": "weights"}))
    net, images = once_trained()
    rows = found["pruned"].set_index(["scorer", "fraction"])
    before = common.mean_loss(net, images.other), common.accuracy(net, images.test)
    for scorer in explorer.WEIGHTS:
        assert tuple(rows.loc[(scorer, 0.0), ["loss", "accuracy"]]) == pytest.approx(before, abs=1e-6)
    for layer in EXPLORED["layers"]:
        weight = net.get_parameter(f"{layer}.weight")
        order = weight.detach().abs().flatten().argsort(stable=True)
        ranks = found["ranks"].query("scorer == 'magnitude'").sort_values("weight")["rank"].to_numpy()
        if layer == "conv1":
            assert ranks[order.numpy()].tolist() == list(range(200))
        with torch.no_grad():
            weight.copy_(weight.flatten().index_fill(0, order[: len(order) // 2], 0).view(weight.shape))
    after = common.mean_loss(net, images.other), common.accuracy(net, images.test)
    assert tuple(rows.loc[("magnitude", 0.5), ["loss", "accuracy"]]) == pytest.approx(after, abs=1e-6)


def test_the_plan_of_the_open_questions_is_judged_in_its_setting():
    """Short runs of units in another setting are told as what they are."""
    chosen = {chapter: book.complete(chapter, "thesis") for chapter in plans.LEFT_OPEN}
    ours = ["O1", "O4", "O5", "O8", "O11"]
    chosen[plans.OPEN] = book.chosen(plans.OPEN, "thesis", {"questions": ours})
    wanted = plans.questions(chosen)
    assert {name: len(every) for name, every in wanted.items()} == {
        "rescoring": 10,
        "grouping": 10,
        "averaging": 5,
        "rescaling": 5,
        "revival": 5,
    }
    for claim in (claim for claim in claims.CLAIMS.values() if claim.runs.keys() & wanted.keys()):
        (name,) = claim.runs
        setting = claim.setting[name]
        for run in wanted[name]:
            settings.check(settings.experiment(name), run)
            assert all(run[it] in allowed for it, allowed in setting.items())


def test_a_rescaled_unit_leaves_the_network_as_it_was():
    net, batch = make_trained_chain()
    before = net(batch.x)
    rescaling.rescale(net, "conv2", 3, 2.0)
    torch.testing.assert_close(net(batch.x), before)


def make_trained_chain():
    images = datasets.load("digits", probe_size=50)
    return models.small_cnn(images.shape, seed=0).eval(), images.probe


def test_the_group_score_is_by_the_gauss_newton_matrix():
    """For ReLU that is the Hessian; and the greedy order is found by hand for three weights."""
    net, batch = make_trained_chain()
    exact = derivatives.hessian(net, batch, ["conv1.weight"])
    found = grouping.gauss_newton(net, batch, "conv1.weight")
    torch.testing.assert_close(found, exact.double(), rtol=1e-3, atol=1e-5)
    curvature = torch.tensor([[1.0, 0.0, -0.9], [0.0, 2.0, 0.0], [-0.9, 0.0, 3.0]])
    assert grouping.greedy_ranks(curvature, torch.ones(3)).tolist() == [
        0,
        2,
        1,
    ]  # 0.5, then 1.5 - 0.9 before 1
