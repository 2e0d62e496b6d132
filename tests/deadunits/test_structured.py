"""Networks of all kinds, pruned, against the slow way, in float64: constants put in by hooks."""

from __future__ import annotations

import copy
import csv
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch_pruning
import torchvision
from torch import nn
from torch.nn import functional as F

from deadunits.channels import out_dim
from deadunits.compaction import compact, load, parameter_count
from deadunits.data import Batch
from deadunits.models import small_cnn
from deadunits.pruning import lowest
from deadunits.structured import prune, recalibrate
from deadunits.torch_pruning import UnitImportance
from deadunits.unit_scorers import UNIT_SCORERS, mrs
from networks import KINDS, RESIDUAL, finished, residual
from toys import make_batch, make_net


def keeps(net, keep, structure):
    """Inputs that stay, of each consumer: (inputs,) bool."""
    found = {}
    for name, producers in structure.items():
        layers = {one: net.get_submodule(one) for one in producers}
        units = {one: layer.weight.shape[out_dim(layer)] for one, layer in layers.items()}
        mask = torch.cat([keep.get(one, torch.ones(n, dtype=torch.bool)) for one, n in units.items()])
        layer = net.get_submodule(name)
        width = layer.weight.shape[1 - out_dim(layer)]
        found[name] = mask.repeat_interleave(width // len(mask))  # positions behind a Flatten
    return found


def entering(net, batches, names):
    """Inputs of layers over all batches: (N, inputs, ...)."""
    seen = {name: [] for name in names}
    handles = [
        net.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0]))
        for name in names
    ]
    with torch.no_grad():
        for batch in batches:
            net(batch.x)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def last(net, name, x):
    """Whether the channels are the last dimension, as in a linear layer on tokens."""
    return isinstance(net.get_submodule(name), nn.Linear) and x.dim() == 3


def means(net, inputs):
    flat = {name: x.movedim(2 if last(net, name, x) else 1, 0).flatten(1) for name, x in inputs.items()}
    return {name: x.mean(1) for name, x in flat.items()}


@contextmanager
def constants(net, stay, values, spread=False):
    """The whole network, consumers seeing constants; `spread`: what they give as a mean over positions."""
    handles = []
    for name, mask in stay.items():
        layer = net.get_submodule(name)

        def put(module, inputs, value=values[name], gone=~mask, name=name):
            axis = 2 if last(net, name, inputs[0]) else 1
            x = inputs[0].movedim(axis, -1).clone()
            x[..., gone] = value[gone]
            return (x.movedim(-1, axis),)

        def give(module, inputs, output, gone=~mask):
            x = inputs[0]
            kept, alone = x.clone(), x.clone()
            kept[:, gone] = 0
            alone[:, ~gone] = 0
            if x.dim() == 2:
                return output
            options = module.stride, module.padding, module.dilation
            assert module.padding_mode == "zeros"
            alone = F.conv2d(alone, module.weight, None, *options).mean((2, 3), keepdim=True)
            return F.conv2d(kept, module.weight, module.bias, *options) + alone

        handles.append(layer.register_forward_pre_hook(put))
        if spread:
            handles.append(layer.register_forward_hook(give))
    try:
        yield net
    finally:
        for handle in handles:
            handle.remove()


def outputs(net, x):
    with torch.no_grad():
        return net(x)


def assert_equal(one, other):
    assert (one - other).abs().max() < 1e-10 * max(1, other.abs().max())


@pytest.mark.parametrize("mode", ["reflect", "circular"])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 1.0])
def test_consumers_see_the_means_of_what_entered_them(padding, mode, fraction):
    net = residual(padding=padding, mode=mode)
    batches = [make_batch(n, (2, 11, 11), 3, seed=n) for n in (3, 8)]  # the means are over all images
    small, keep = prune(net, batches, fraction)
    stay = keeps(net, keep, RESIDUAL)
    assert all(mask.any() for mask in keep.values())
    with constants(net, stay, means(net, entering(net, batches, RESIDUAL))):
        masked = outputs(net, batches[0].x)
    assert_equal(outputs(small, batches[0].x), masked)
    assert (masked - outputs(net, batches[0].x)).abs().max() > 1e-3
    assert small.both.in_channels == int(stay["both"].sum()) < 9
    assert small.depthwise.groups == int(keep["stem"].sum())


def test_zero_padding_takes_the_mean_over_positions():
    net, batch = residual(padding=1), make_batch(4, (2, 11, 11), 3)
    small, keep = prune(net, batch, 0.5)
    stay, values = keeps(net, keep, RESIDUAL), means(net, entering(net, [batch], RESIDUAL))
    whole = outputs(net, batch.x)
    with constants(net, {"both": stay["both"]}, values, spread=True):
        padded = {name: mask for name, mask in stay.items() if name != "both"}
        with constants(net, padded, values):
            spread = outputs(net, batch.x)
    assert_equal(outputs(small, batch.x), spread)
    with constants(net, stay, values):
        put = outputs(net, batch.x)
    difference = (outputs(small, batch.x) - put).norm() / (whole - put).norm()
    assert 1e-3 < difference < 0.5  # not the same, and less than what removal itself changes


def test_outputs_keep_their_means():
    """Zero padding or not: the mean of what each consumer gives is as it was, for the outputs that stay."""
    net, batches = residual(padding=1), [make_batch(n, (2, 11, 11), 3, seed=n) for n in (3, 8)]
    small, keep = prune(net, batches, 0.5, constant="output")

    def leaving(net):
        seen = {name: [] for name in RESIDUAL}
        for name, parts in seen.items():
            net.get_submodule(name).register_forward_hook(lambda _, x, h, parts=parts: parts.append(h))
        for batch in batches:
            outputs(net, batch.x)
        return means(net, {name: torch.cat(parts) for name, parts in seen.items()})

    before, after = leaving(net), leaving(small)
    for name, mean in after.items():
        assert_equal(mean, before[name][keep[name]] if name in keep else before[name])
    assert small.both.weight.abs().min() > 0  # the columns that were zeroed are those that went


@pytest.mark.parametrize("fraction", [0.3, 0.5])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_small_cnn_as_compacted(batch_norm, fraction):
    batch = make_batch(8, (1, 20, 20), 10)
    net = small_cnn((1, 20, 20), batch_norm=batch_norm).double()
    if batch_norm:
        outputs(net.train(), batch.x)
    net.eval()
    small, keep = prune(net, batch, fraction)
    scores = mrs(net, batch, ["conv1", "conv2", "fc1"])
    assert set(keep) == set(scores)
    assert small.conv2.weight.stride()[1] == 1  # channels last, as it was
    for layer, score in scores.items():
        assert torch.equal(keep[layer], lowest(score, fraction))
    seen = means(net, entering(net, [batch], ["conv2", "fc1", "fc2"]))
    a = dict(zip(keep, [None] * 3, strict=True)) | {
        "conv1": seen["conv2"],
        "conv2": seen["fc1"].view(16, -1),  # a mean for each position
        "fc1": seen["fc2"],
    }
    assert_equal(outputs(small, batch.x), outputs(compact(net, keep, a=a), batch.x))
    zeros = {layer: torch.zeros(len(mask)) for layer, mask in keep.items()}
    small, _ = prune(net, batch, fraction, constant="zero")
    assert_equal(outputs(small, batch.x), outputs(compact(net, keep, a=zeros), batch.x))


def test_exactly_the_floor():
    net = make_net(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 2))
    batch = make_batch(6, (3,), 2)
    with pytest.warns(UserWarning, match="nothing was pruned"):
        whole, keep = prune(net, batch, 0.05)
    assert (whole[0].out_features, keep) == (10, {})  # floor(0.5) are none
    assert prune(net, batch, 0.25).net[0].out_features == 8


def test_importance_adds_up_the_layers_of_a_group():
    net, batch = residual(), make_batch(5, (2, 11, 11), 3)
    names = ["stem", "back", "depthwise", "side"]
    scores = mrs(net, batch, names)
    graph = torch_pruning.DependencyGraph().build_dependency(net, (batch.x,))
    group = graph.get_pruning_group(net.back, torch_pruning.prune_conv_out_channels, [4, 1])
    total = sum(scores[name] for name in names[:3])[[4, 1]]
    assert_equal(UnitImportance(net, batch)(group), total)
    importance = UnitImportance(net, batch)
    group.prune()
    with pytest.raises(ValueError, match="pruned since it was scored: make a new UnitImportance"):
        importance(group)


@pytest.mark.parametrize("scorer", [*(name for name in UNIT_SCORERS if name != "mean_activation"), mrs])
def test_any_scorer(scorer):
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)
    small, keep = prune(net, batch, 0.5, scorer, generator=torch.Generator().manual_seed(0))
    assert small.stem.out_channels == 3
    assert set(keep) == {"stem", "inner", "back", "depthwise", "side", "both", "head"}
    assert outputs(small, batch.x).isfinite().all()


def test_what_is_ignored_stays():
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)
    _, keep = prune(net, batch, 0.5, ignored=["back", "head"])
    assert set(keep) == {"inner", "side", "both"}


def test_layers_that_do_not_run_are_left_alone():
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)
    net.auxiliary = nn.Linear(4, 5).double()
    with pytest.warns(UserWarning, match="auxiliary did not run"):
        small, keep = prune(net, batch, 0.5)
    assert small.auxiliary.out_features == 5
    assert "auxiliary" not in keep
    with pytest.raises(ValueError, match="auxiliary did not run"):
        UnitImportance(net, batch)


def test_layers_that_run_twice():
    net = make_net(nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    net = nn.Sequential(net[0], nn.Tanh(), net[1], nn.Sigmoid(), net[1], nn.Tanh(), net[2])
    batch = make_batch(6, (2,), 3)
    small, keep = prune(net, batch, 0.5)
    assert torch.equal(keep["0"], keep["2"])
    stay = {"2": keep["0"], "6": keep["0"]}
    seen = entering(net, [batch], stay)  # of both times
    with constants(net, stay, means(net, seen)):
        assert_equal(outputs(small, batch.x), outputs(net, batch.x))


def test_modes_and_frozen_parameters_are_kept():
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)
    net.inner.weight.requires_grad_(False)
    net.out.train()
    small, _ = prune(net, batch, 0.5)
    assert {name for name, one in small.named_modules() if one.training} == {"out"}
    frozen = {name for name, one in small.named_parameters() if not one.requires_grad}
    assert frozen == {"inner.weight", "inner.bias"}  # the bias is new
    assert small.both.bias.requires_grad
    assert net.inner.bias is None


def test_nothing_is_left_behind_when_it_fails():
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)

    def fails(*arguments, **options):
        raise RuntimeError("no")

    calls = []
    net.head.register_forward_hook(lambda *_: calls.append(1))
    before = {name: one.clone() for name, one in net.state_dict().items()}
    for scorer, loss in ((fails, None), ("mrs", fails)):
        with pytest.raises(RuntimeError, match="no"):
            prune(net, batch, 0.5, scorer, loss=loss)
    with pytest.raises(RuntimeError, match="no"):
        UnitImportance(net, batch, loss=fails)
    hooks = [len(one._forward_hooks) + len(one._forward_pre_hooks) for one in net.modules()]
    assert sum(hooks) == 1
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert all(one.requires_grad and one.grad is None for one in net.parameters())
    small, _ = prune(net, batch, 0.5)
    calls.clear()
    outputs(small, batch.x)
    assert not calls  # hooks of the caller are not copied


def shared():
    net = make_net(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    net[1].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (shared, "'0' go through '1' .Conv2d., which shares its weights, which is not supported"),
        (
            lambda: make_net(nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
            "the outputs of '1' go through '2' .native_layer_norm., which",
        ),
        (
            lambda: make_net(
                nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), nn.Flatten(), nn.Linear(8, 3)
            ),
            "the outputs of '0' go through '0' .ParametrizedConv2d., whose weight",
        ),
    ],
)
def test_unsupported_structure_is_refused_by_name(make, message):
    net = make()
    with pytest.raises(ValueError, match=message):
        prune(net, make_batch(3, (2, 2, 2), 3), 0.5)


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return x + self.second(x)


def test_outputs_stay():
    net = TwoOutputs().double()
    with pytest.warns(UserWarning, match="nothing was pruned"):
        assert prune(net, make_batch(3, (3,), 4), 0.5).keep == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.5}, "between 0 and 1"),
        ({"scorer": "best"}, "unknown scorer 'best'; there are: mrp, mrs"),
        ({"constant": "median"}, "mean, output, zero, got 'median'"),
        ({"ignored": ["head", "x", "y"]}, "no module 'x', 'y' to ignore"),
        ({"batches": []}, "no images"),
    ],
)
def test_wrong_arguments(options, message):
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)
    with pytest.raises(ValueError, match=message):
        prune(net, **{"batches": batch, "fraction": 0.5} | options)


def test_batch_norm_in_training_mode_is_refused():
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)
    net.bn.train()
    for do in (lambda: prune(net, batch, 0.5), lambda: UnitImportance(net, batch, "norm_l1")):
        with pytest.raises(
            ValueError, match=r"bn .BatchNorm2d. is in training mode: call net.eval\(\) first"
        ):
            do()


def test_without_torch_pruning_only_its_importance_fails():
    code = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import torch; from deadunits import compaction, torch_pruning\n"
        "from deadunits.data import Batch\n"
        "net = torch.nn.Sequential(torch.nn.Linear(1, 1))\n"
        "batch = Batch(torch.ones(1, 1), torch.zeros(1).long())\n"
        "torch_pruning.UnitImportance(net, batch)(None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: Torch-Pruning is missing: pip install 'deadunits[torch-pruning]'" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_networks_are_smaller_and_the_same_as_with_the_means(kind):
    make, stays, structure, left = KINDS[kind]
    net = make()
    batch = make_batch(4, (2, 6, 6), 3)
    fraction = 0.34 if kind == "grouped" else 0.5
    if left:
        with pytest.raises(ValueError, match=f"'{left[0]}'.*skip_unsupported=True"):
            prune(net, batch, fraction, norms)
    small = prune(net, batch, fraction, norms, skip_unsupported=True)
    assert set(small.left) == set(left)
    assert {name: int(mask.sum()) for name, mask in small.keep.items()} == stays
    assert parameter_count(small.net) < parameter_count(net)
    stay = keeps(net, small.keep, structure)
    with constants(net, stay, means(net, entering(net, [batch], structure))):
        masked = net(batch.x).detach()  # with gradients: the fast path of attention runs no hooks
        assert_equal(small.net(batch.x).detach(), masked)
    assert (masked - outputs(net, batch.x)).abs().max() > 1e-5
    small.net.train()(batch.x).sum().backward()
    again = load(net, small.net.state_dict())
    assert [str(module) for module in again.modules()] == [str(module) for module in small.net.modules()]
    assert_equal(outputs(again, batch.x), outputs(copy.deepcopy(small.net.eval()), batch.x))


def norms(net, batches, layers, **options):
    """A score for any layer: the norm of the weights of each unit."""
    modules = {layer: net.get_submodule(layer) for layer in layers}
    return {
        layer: module.weight.detach().movedim(out_dim(module), 0).flatten(1).norm(dim=1)
        for layer, module in modules.items()
    }


def test_all_groups_that_are_not_supported_are_named_at_once():
    net = make_net(
        *(nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 6), nn.Softmax(1)),
        *(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    )
    batch = make_batch(3, (2, 2, 2), 3)
    reasons = "the outputs of '1' go through '2' .native_layer_norm.; the outputs of '3' go through '4' "
    with pytest.raises(ValueError, match=rf"{reasons}.*put '1', '3' in `ignored`, or set skip_unsupported"):
        prune(net, batch, 0.5)
    small = prune(net, batch, 0.5, skip_unsupported=True)
    assert list(small.left) == ["1", "3"]
    assert list(small.keep) == ["5"]
    assert list(prune(net, batch, 0.5, ignored=["1", "3"]).keep) == ["5"]


class ByWidth(nn.Module):
    def forward(self, x):
        return x / x.shape[1]


def test_what_the_trace_cannot_see_is_found_by_the_check():
    net = make_net(nn.Flatten(), nn.Linear(8, 6), ByWidth(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match="other outputs than the whole one with the constants"):
        prune(net, make_batch(3, (2, 2, 2), 3), 0.5)


def test_a_layer_of_which_only_the_weight_is_used_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return F.linear(self.inner(x), self.out.weight)

    net = finished(Net())
    with pytest.raises(ValueError, match=r"Linear.* must be called as a layer"):
        prune(net, make_batch(4, (3,), 2), 0.5, norms)


def test_a_layer_whose_units_are_all_among_the_lowest_keeps_one():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.all = nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(3, 6)
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            return self.out(torch.cat([self.a(x), self.b(x)], 1) + self.all(x))

    net = finished(Joined())
    with torch.no_grad():
        net.a.weight.mul_(1e-6)
        net.all.weight[:2] *= 1e-6
    small, keep = prune(net, make_batch(4, (3,), 2), 0.5, norms)
    assert int(keep["a"].sum()) == 1
    assert int(keep["all"].sum()) == small.out.in_features == 3


def test_a_scorer_with_scores_of_another_length_is_refused():
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)

    def short(net, batches, layers, **options):
        return {layer: torch.ones(2) for layer in layers}

    for do in (lambda: prune(net, batch, 0.5, short), lambda: UnitImportance(net, batch, short)):
        with pytest.raises(ValueError, match=r"scores of 'stem' must be \(6,\), a score a unit; got \(2,\)"):
            do()


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_networks_of_torchvision(name):
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, num_classes=10).eval()
    batch = make_batch(2, (3, 64, 64), 10)
    batch = Batch(batch.x.float(), batch.y)
    small = prune(net, batch, 0.5, skip_unsupported=True).net
    assert parameter_count(small) < 0.8 * parameter_count(net)
    assert small(batch.x).shape == (2, 10)
    assert_equal(outputs(load(net, small.state_dict()), batch.x), outputs(small, batch.x))


# Statistics of batch norm


def moving(net):
    return {name: one.clone() for name, one in net.state_dict().items()}


def test_recalibrate_takes_all_values_of_all_batches_together():
    net, batches = residual(), [make_batch(n, (2, 11, 11), 3, seed=n) for n in (3, 8)]
    net.bn.momentum, before, inputs = 0.3, moving(net), entering(net, batches, ["bn"])["bn"]
    net.out.train()
    recalibrate(net, batches)
    values = inputs.transpose(0, 1).flatten(1)
    assert_equal(net.bn.running_mean, values.mean(1))
    assert_equal(net.bn.running_var, values.var(1))
    after = moving(net)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "bn.running_mean",
        "bn.running_var",
    }
    assert net.bn.momentum == 0.3
    assert [name for name, module in net.named_modules() if module.training] == ["out"]
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_recalibrate_normalises_by_the_batch_and_restores_all_when_it_fails():
    net = make_net(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    batch = make_batch(6, (3,), 2)
    recalibrate(net, batch)
    weight, bias = net[0].weight, net[0].bias
    x = F.linear(F.batch_norm(batch.x, None, None, weight, bias, True), net[2].weight, net[2].bias)
    assert_equal(net[3].running_mean, x.mean(0))
    assert_equal(net[3].running_var, x.var(0))
    before, tracked = moving(net), net[0].num_batches_tracked
    for batches in ([batch, Batch(batch.x[:, :2], batch.y)], [], [Batch(batch.x[:1], batch.y[:1])]):
        with pytest.raises((ValueError, RuntimeError)):
            recalibrate(net, batches)
        assert all(torch.equal(one, before[name]) for name, one in moving(net).items())
        assert net[0].num_batches_tracked is tracked
        assert not net[0].training
        assert net[0].momentum == 0.1
    with pytest.raises(ValueError, match="Linear has no batch norm"):
        recalibrate(net[2], batch)


def test_the_table_of_networks_has_a_share_for_each_that_was_tried():
    with Path("book/tables/builders.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["network"] for row in rows} <= set(torchvision.models.list_models(module=torchvision.models))
    assert all(0 < float(row["left"]) < 1 for row in rows)
