"""Networks pruned by Torch-Pruning's graph against the slow way, in float64: constants put in by hooks."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
import torch_pruning
import torchvision
from torch import nn
from torch.nn import functional as F

from deadunits.compaction import compact, copy_without_hooks, parameter_count
from deadunits.models import small_cnn
from deadunits.pruning import lowest
from deadunits.structured import prune
from deadunits.torch_pruning import UnitImportance
from deadunits.unit_scorers import UNIT_SCORERS, mrs
from toys import make_batch, make_net


class Residual(nn.Module):
    """Two streams added, concatenated with a third, a depthwise convolution: all without zero padding."""

    def __init__(self, padding=0, mode="zeros"):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular", bias=False)
        self.back = nn.Conv2d(5, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 2, groups=6)
        self.side = nn.Conv2d(6, 3, 2)
        self.both = nn.Conv2d(9, 4, 3, 2, padding, padding_mode=mode, bias=False)
        self.head = nn.Linear(4 * (16 if padding else 9), 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        x = F.relu_(self.bn(self.stem(x)))
        x = F.relu(x + self.back(torch.tanh(self.inner(x))))
        x = torch.cat([torch.tanh(self.depthwise(x)), self.side(x)], 1)
        x = F.max_pool2d(F.relu(self.both(x)), 1).flatten(1)
        return self.out(torch.sigmoid(self.head(x)))


def residual(**options):
    with torch.random.fork_rng():
        net = Residual(**options)
    make_net(net)  # its parameters and statistics
    return net.double().eval()


def resnet18(size=64):
    """Random weights, statistics of batch norm that have seen images; and a batch."""
    batch = make_batch(4, (3, size, size), 10, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=10).double()
    with torch.no_grad():
        for _ in range(3):
            net.train()(batch.x)
    return net.eval(), batch


# What enters each layer: the layer whose outputs it takes, in order, of which `prune` says what is kept.
RESIDUAL = {
    "inner": ["stem"],
    "back": ["inner"],
    "side": ["stem"],
    "both": ["depthwise", "side"],
    "head": ["both"],
    "out": ["head"],
}
RESNET18 = {"layer1.0.conv1": ["conv1"], "fc": ["layer4.1.conv2"]}
for stage in (1, 2, 3, 4):
    for block in (0, 1):
        before = f"layer{stage}.{block - 1}.conv2" if block else f"layer{stage - 1}.1.conv2"
        RESNET18 |= {f"layer{stage}.{block}.conv2": [f"layer{stage}.{block}.conv1"]}
        if stage > 1 or block:
            RESNET18[f"layer{stage}.{block}.conv1"] = [before]
    if stage > 1:
        RESNET18[f"layer{stage}.0.downsample.0"] = [f"layer{stage - 1}.1.conv2"]


def keeps(net, keep, structure):
    """Inputs that stay, of each consumer: (inputs,) bool."""
    found = {}
    for name, producers in structure.items():
        units = {one: len(net.get_submodule(one).weight) for one in producers}
        mask = torch.cat([keep.get(one, torch.ones(n, dtype=torch.bool)) for one, n in units.items()])
        layer = net.get_submodule(name)
        width = layer.weight.shape[1]
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


def means(inputs):
    return {name: x.transpose(0, 1).flatten(1).mean(1) for name, x in inputs.items()}


@contextmanager
def constants(net, stay, values, spread=False):
    """The whole network, consumers seeing constants; `spread`: what they give as a mean over positions."""
    handles = []
    for name, mask in stay.items():
        layer = net.get_submodule(name)

        def put(module, inputs, value=values[name], gone=~mask):
            x = inputs[0].clone()
            x[:, gone] = value[gone].view(-1, *[1] * (x.dim() - 2))
            return (x,)

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
    with constants(net, stay, means(entering(net, batches, RESIDUAL))):
        masked = outputs(net, batches[0].x)
    assert_equal(outputs(small, batches[0].x), masked)
    assert (masked - outputs(net, batches[0].x)).abs().max() > 1e-3
    assert small.both.in_channels == int(stay["both"].sum()) < 9
    assert small.depthwise.groups == int(keep["stem"].sum())


def test_zero_padding_takes_the_mean_over_positions():
    net, batch = residual(padding=1), make_batch(4, (2, 11, 11), 3)
    small, keep = prune(net, batch, 0.5)
    stay, values = keeps(net, keep, RESIDUAL), means(entering(net, [batch], RESIDUAL))
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
        return means({name: torch.cat(parts) for name, parts in seen.items()})

    before, after = leaving(net), leaving(small)
    for name, mean in after.items():
        assert_equal(mean, before[name][keep[name]] if name in keep else before[name])
    assert small.both.weight.abs().min() > 0  # the columns that were zeroed are those that went


def test_resnet18_by_half():
    net, batch = resnet18()
    state = {name: one.clone() for name, one in net.state_dict().items()}
    small, keep = prune(net, batch, 0.5)
    assert all(torch.equal(one, state[name]) for name, one in net.state_dict().items())

    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert {name: int(mask.sum()) for name, mask in keep.items()} == {
        name: layer.out_channels // 2 for name, layer in layers.items()
    }
    assert 0.24 < parameter_count(small) / parameter_count(net) < 0.26
    stay, values = keeps(net, keep, RESNET18), means(entering(net, [batch], RESNET18))
    assert set(stay) == {*layers, "fc"} - {"conv1"}
    with constants(net, stay, values, spread=True):
        assert_equal(outputs(small, batch.x), outputs(net, batch.x))

    optimizer = torch.optim.SGD(small.train().parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(small(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        assert all(one.grad.isfinite().all() for one in small.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert outputs(small.eval(), batch.x).isfinite().all()


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
    seen = means(entering(net, [batch], ["conv2", "fc1", "fc2"]))
    a = dict(zip(keep, [None] * 3, strict=True)) | {
        "conv1": seen["conv2"],
        "conv2": seen["fc1"].view(16, -1),  # a mean for each position
        "fc1": seen["fc2"],
    }
    assert_equal(outputs(small, batch.x), outputs(compact(net, keep, a=a), batch.x))
    zeros = {layer: torch.zeros(len(mask)) for layer, mask in keep.items()}
    small, _ = prune(net, batch, fraction, constant="zero")
    assert_equal(outputs(small, batch.x), outputs(compact(net, keep, a=zeros), batch.x))


def test_exactly_the_floor_where_the_library_takes_one_more():
    with torch.random.fork_rng():
        net = make_net(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 2))
    batch = make_batch(6, (3,), 2)
    with pytest.warns(UserWarning, match="nothing was pruned"):
        whole, keep = prune(net, batch, 0.05)
    assert (whole[0].out_features, keep) == (10, {})  # floor(0.5) are none
    assert prune(net, batch, 0.25).net[0].out_features == 8
    theirs = copy_without_hooks(net)
    importance = UnitImportance(theirs, batch)
    pruner = torch_pruning.BasePruner(
        theirs, (batch.x,), importance, pruning_ratio=0.25, ignored_layers=[theirs[2]]
    )
    pruner.step()
    assert theirs[0].out_features == 7  # int(10 (1 - 0.25)) stay


def test_importance_adds_up_the_layers_of_a_group():
    net, batch = residual(), make_batch(5, (2, 11, 11), 3)
    names = ["stem", "back", "depthwise", "side"]
    scores = mrs(net, batch, names)
    graph = torch_pruning.DependencyGraph().build_dependency(net, (batch.x,))
    group = graph.get_pruning_group(net.back, torch_pruning.prune_conv_out_channels, [4, 1])
    total = sum(scores[name] for name in names[:3])[[4, 1]]
    assert_equal(UnitImportance(net, batch)(group), total)
    assert_equal(UnitImportance(net, batch, combine="mean")(group), total / 3)
    assert_equal(UnitImportance(net, batch, layers=["stem"])(group), scores["stem"][[4, 1]])
    assert UnitImportance(net, batch, layers=["side"])(group) is None
    importance = UnitImportance(net, batch)
    group.prune()
    with pytest.raises(ValueError, match="pruned since it was scored: make a new UnitImportance"):
        importance(group)


def test_a_scorer_that_needs_names_of_nonlinearities_says_so():
    net, batch = residual(), make_batch(4, (2, 11, 11), 3)
    with pytest.raises(ValueError, match="no nonlinearity is known behind"):
        prune(net, batch, 0.5, "mean_activation")


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
    with torch.random.fork_rng():
        net.auxiliary = nn.Linear(4, 5).double()
    with pytest.warns(UserWarning, match="auxiliary did not run"):
        small, keep = prune(net, batch, 0.5)
    assert small.auxiliary.out_features == 5
    assert "auxiliary" not in keep
    with pytest.raises(ValueError, match="auxiliary did not run"):
        UnitImportance(net, batch)


def test_layers_that_run_twice():
    with torch.random.fork_rng():
        net = make_net(nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    net = nn.Sequential(net[0], nn.Tanh(), net[1], nn.Sigmoid(), net[1], nn.Tanh(), net[2])
    batch = make_batch(6, (2,), 3)
    small, keep = prune(net, batch, 0.5)
    assert torch.equal(keep["0"], keep["2"])
    stay = {"2": keep["0"], "6": keep["0"]}
    seen = entering(net, [batch], stay)  # of both times
    with constants(net, stay, means(seen)):
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
    with torch.random.fork_rng():
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
    with torch.random.fork_rng():
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
    with pytest.raises(ValueError, match="'sum' or 'mean', got 'max'"):
        UnitImportance(net.eval(), batch, combine="max")


def test_without_torch_pruning_only_its_importance_fails():
    code = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import torch; from deadunits import compaction, torch_pruning\n"
        "from deadunits.data import Batch\n"
        "net, batch = torch.nn.Sequential(torch.nn.Linear(1, 1)), Batch(torch.ones(1, 1), torch.zeros(1).long())\n"
        "torch_pruning.UnitImportance(net, batch)(None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: Torch-Pruning is missing: pip install 'deadunits[torch-pruning]'" in done.stderr
