"""Compacted networks against the slow way, in float64: the whole network, the constant put in by a hook."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from deadunits.compaction import compact, idle, load, parameter_count, propagate, remove
from deadunits.mean_replacement import observe
from deadunits.models import small_cnn
from deadunits.pruning import hold
from networks import chains
from toys import make_batch, make_net


def hidden(net):
    """Names of the linear maps but the last, with their units."""
    found = {n: len(m.weight) for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    return dict(list(found.items())[:-1])


def following(net, name):
    modules = [(n, m) for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return modules[[n for n, _ in modules].index(name) + 1][1]


def draw_masks(data, net):
    masks = {}
    for name, units in hidden(net).items():
        flags = data.draw(st.lists(st.booleans(), min_size=units, max_size=units))
        flags[data.draw(st.integers(0, units - 1))] = True
        masks[name] = torch.tensor(flags)
    return masks


def overwritten(net, x, keep, h=None, a=None):
    """Outputs of the whole network, its units given other values by hooks as they run."""
    handles = []
    for name, mask in keep.items():
        gone = ~mask
        if a and name in a:

            def enter(module, inputs, name=name, gone=gone):
                # (N, units, ...): a Linear behind a Flatten takes the units' positions one after the other
                flow = inputs[0].clone().unflatten(1, (len(gone), -1)).contiguous()
                value = a[name].view(len(gone), -1, *[1] * (flow.dim() - 3))[gone]
                flow[:, gone] = value.expand_as(flow[0, gone])
                return (flow.flatten(1, 2),)

            handles.append(following(net, name).register_forward_pre_hook(enter))
        else:

            def replace(module, inputs, output, name=name, gone=gone):
                output = output.clone()  # an in-place nonlinearity comes behind
                output[:, gone] = h[name][gone].view(-1, *[1] * (output.dim() - 2))
                return output

            handles.append(net.get_submodule(name).register_forward_hook(replace))
    try:
        with torch.no_grad():
            return net(x.clone())
    finally:
        for handle in handles:
            handle.remove()


def outputs(net, x):
    with torch.no_grad():
        return net(x.clone())


def assert_equal(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@settings(max_examples=80)
@given(chains(), st.data())
def test_replaced_propagated_and_compacted_are_one(chain, data):
    net, x = chain
    keep = draw_masks(data, net)
    h = {name: make_batch(units, (), 2, seed=5).x for name, units in hidden(net).items()}
    expected = overwritten(net, x, keep, h)
    before = copy.deepcopy(net.state_dict())
    wide, small = propagate(net, keep, h=h), compact(net, keep, h=h)
    assert_equal(outputs(wide, x), expected)
    assert_equal(outputs(small, x), expected)
    assert hidden(small) == {name: int(mask.sum()) for name, mask in keep.items()}
    assert [n for n, _ in small.named_modules()] == [n for n, _ in net.named_modules()]
    for name, mask in keep.items():
        outgoing = following(wide, name).weight
        assert not outgoing.reshape(len(outgoing), len(mask), -1)[:, ~mask].any()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


@settings(max_examples=50)
@given(chains(), st.data())
def test_what_enters_the_next_layer_can_be_given(chain, data):
    net, x = chain
    keep = draw_masks(data, net)
    a = {}
    for name, units in hidden(net).items():
        after = following(net, name)
        flat = isinstance(after, nn.Linear) and data.draw(st.booleans())
        a[name] = make_batch(units, (after.in_features // units,) if flat else (), 2, seed=6).x
    expected = overwritten(net, x, keep, a=a)
    assert_equal(outputs(propagate(net, keep, a=a), x), expected)
    assert_equal(outputs(compact(net, keep, a=a), x), expected)


@settings(max_examples=50)
@given(chains(), st.data())
def test_idle_units_are_not_missed(chain, data):
    net, x = chain
    dead = {}
    for name in hidden(net):
        layer, after, mask = net.get_submodule(name), following(net, name), draw_masks(data, net)[name]
        into = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(mask), max_size=len(mask))))
        dead[name] = mask
        with torch.no_grad():
            layer.weight[~mask & into] = 0
            after.weight.view(len(after.weight), len(mask), -1)[:, ~mask & ~into] = 0
    keep = idle(net)
    for name, mask in keep.items():
        assert mask.any()
        if (dead[name] & mask).any():  # otherwise the last one stays, whatever its weights
            assert not mask[~dead[name]].any()
    assert_equal(outputs(compact(net, keep), x), outputs(net, x))


@settings(max_examples=40)
@given(chains(), st.data())
def test_layers_together_are_layers_one_after_the_other(chain, data):
    """Without constants given: a unit stands for its bias, with what units removed before have left there."""
    net, x = chain
    keep = draw_masks(data, net)
    small = net
    for name, mask in keep.items():
        bias = small.get_submodule(name).bias
        bias = torch.zeros(len(mask), dtype=torch.float64) if bias is None else bias.detach()
        expected = overwritten(small, x, {name: mask}, {name: bias})
        small = compact(small, {name: mask})
        assert_equal(outputs(small, x), expected)
    assert_equal(outputs(compact(net, keep), x), outputs(small, x))


def test_zero_padding_is_missed_at_the_border_and_there_alone():
    """Weights of 1 and a constant of 2: each of the padded places, 5 at a corner, 3 at a side, misses 2."""
    net = make_net(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 3, padding=1))
    with torch.no_grad():
        net[1].weight.fill_(1)
    x, keep, h = (
        make_batch(2, (1, 4, 4), 2).x,
        {"0": torch.tensor([True, False])},
        {"0": torch.tensor([0.0, 2.0])},
    )
    small = outputs(compact(net, keep, h=h), x)
    assert_equal(small, outputs(propagate(net, keep, h=h), x))
    difference = small - overwritten(net, x, keep, {"0": h["0"].double()})
    side, corner = 2.0 * 3, 2.0 * 5
    outer, inner = [corner, side, side, corner], [side, 0.0, 0.0, side]
    expected = torch.tensor([outer, inner, inner, outer], dtype=torch.float64)
    assert_equal(difference, expected.expand(2, 1, 4, 4))
    zero = {"0": torch.zeros(2, dtype=torch.float64)}
    assert_equal(outputs(compact(net, keep, h=zero), x), overwritten(net, x, keep, zero))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_paddings_dilation_and_nested_chains_are_exact(mode):
    first = nn.Sequential(nn.Conv2d(1, 3, 3, padding="same", padding_mode=mode), nn.Tanh())
    second = nn.Conv2d(3, 4, 3, padding=2, stride=2, dilation=2, padding_mode=mode)
    net = make_net(first, second, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    x = make_batch(3, (1, 8, 9), 2).x
    keep = {"0.0": torch.tensor([False, True, False]), "1": torch.tensor([True, True, False, True])}
    h = {"0.0": torch.tensor([0.3, 0.0, -0.8]).double(), "1": torch.tensor([0.0, 0.0, 0.7, 0.0]).double()}
    small = compact(net, keep, h=h)
    assert_equal(outputs(small, x), overwritten(net, x, keep, h))
    assert small[1].padding_mode == mode
    assert list(small.state_dict()) == list(net.state_dict())


@pytest.mark.parametrize("fnz", [0.0, 0.25, 0.29, 0.5, 1.0])
def test_idle_by_the_share_of_weights(fnz):
    """Unit i has i of 100 weights in and 2 of 2 out; the last one 100 in and 1 of 2 out."""
    net = make_net(nn.Linear(100, 101), nn.ReLU(), nn.Linear(101, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.ones(101, 100).tril(-1))
        net[2].weight.fill_(1)[0, 100] = 0
    mask = idle(net, fnz)["0"]
    expected = torch.arange(101) > round(100 * fnz)
    expected[100] = fnz < 0.5
    expected[99] |= fnz == 1  # 99 in and 2 out; the last has 100 and 1, and comes later
    assert torch.equal(mask, expected)


def test_idle_counts_all_positions_and_leaves_a_unit():
    net = make_net(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[2].weight.zero_()[:, 4] = 1  # one position of four of the second unit
    assert idle(net)["0"].tolist() == [False, True, False]
    assert idle(net, 0.25)["0"].tolist() == [False, True, False]  # none is left: the most weights
    with torch.no_grad():
        net[2].weight.zero_()
    assert idle(net)["0"].tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1.5"):
        idle(net, 1.5)


def cnn(**kwargs):
    net = small_cnn((1, 28, 28), batch_norm=True, **kwargs)
    net.register_forward_hook(lambda *_: pytest.fail("a hook has run in the compacted network"))
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.linspace(0.5, 2, len(buffer)) + ("mean" in name))
    keep = {"conv1": torch.arange(8) % 2 == 0, "conv2": torch.arange(16) > 4, "fc1": torch.arange(64) < 9}
    return net.eval(), keep


def assert_own_memory(net):
    for tensor in net.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_all_else_is_as_it_was():
    net, keep = cnn()
    net.conv1.bias.requires_grad_(False)
    net.act2.train(), net.bn3.eval()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    small = compact(net, keep)
    assert [m.training for m in small.modules()] == [m.training for m in net.modules()]
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in net.named_parameters()
    }
    assert torch.equal(small.bn1.running_mean, net.bn1.running_mean[::2])
    assert torch.equal(small.bn1.running_var, net.bn1.running_var[::2])
    assert small.bn1.num_features == 4
    assert (
        small.conv2.weight.stride() == torch.empty(11, 4, 5, 5).to(memory_format=torch.channels_last).stride()
    )
    assert small.conv1.weight.stride() == (25, 1, 5, 1) == net.conv1.weight.stride()
    net = net.to(memory_format=torch.contiguous_format)
    assert compact(net, keep).conv2.weight.is_contiguous()
    assert compact(net.bfloat16(), keep).fc2.bias.dtype == torch.bfloat16
    for parameter in small.parameters():
        assert parameter.grad is None
    assert_own_memory(small)
    assert not any(module._forward_hooks for module in small.modules())
    assert net._forward_hooks


def test_saved_and_loaded(tmp_path):
    net, keep = cnn()
    net = net.double()
    net.conv2.bias = None  # the compacted one has a bias, from constants
    small = compact(net, keep)
    torch.save(small.state_dict(), tmp_path / "small.pt")
    other, _ = cnn(seed=1)  # another seed, float32
    other.conv2.bias = None
    back = load(other, torch.load(tmp_path / "small.pt", weights_only=True))
    x = make_batch(3, (1, 28, 28), 2).x
    assert torch.equal(outputs(back, x), outputs(small, x))
    for (name, tensor), (same, expected) in zip(
        back.state_dict().items(), small.state_dict().items(), strict=True
    ):
        assert (name, tensor.dtype, tensor.stride()) == (same, expected.dtype, expected.stride())
    assert back.conv2.bias.requires_grad
    assert other.conv2.out_channels == 16
    assert back.conv1.weight.data_ptr() != small.conv1.weight.data_ptr()
    assert parameter_count(copy.deepcopy(back)) == parameter_count(small)
    # a module as a whole is refused by default, and works where it is trusted
    torch.save(small, tmp_path / "module.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(tmp_path / "module.pt")
    whole = torch.load(tmp_path / "module.pt", weights_only=False)
    assert torch.equal(outputs(whole, x), outputs(small, x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_and_back():
    net, keep = cnn()
    x, net = make_batch(3, (1, 28, 28), 2).x, net.double()
    expected = outputs(compact(net, keep), x)
    small = compact(net.cuda(), keep)  # masks on the CPU
    assert idle(net)["conv1"].is_cuda
    for device in ("cpu", "cuda"):
        state = {name: tensor.to(device) for name, tensor in small.state_dict().items()}
        assert_equal(outputs(load(net, state), x.to(device)).cpu(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": torch.zeros(9, 1, 5, 5)}, r"conv1.weight of shape \(9, .* part of the network's"),
        ({"conv1.weight": torch.zeros(4, 25)}, r"conv1.weight of shape \(4, 25\) must be"),
        ({"conv9.weight": torch.zeros(4)}, "does not fit the network.*conv9"),
        ({"conv1.weight": None}, "does not fit the network.*conv1.weight"),
    ],
)
def test_a_state_that_does_not_fit_says_why(change, message):
    net, keep = cnn()
    state = compact(net, keep).state_dict() | change
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(net, {name: tensor for name, tensor in state.items() if tensor is not None})


def test_an_empty_batch_a_single_unit_and_nothing_to_do():
    net, keep = cnn()
    assert outputs(compact(net, keep), torch.zeros(0, 1, 28, 28)).shape == (0, 10)
    one = {name: torch.arange(len(mask)) == 3 for name, mask in keep.items()}
    small = compact(net, one)
    assert [small.conv1.out_channels, small.conv2.out_channels, small.fc1.out_features] == [1, 1, 1]
    assert outputs(small, torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert_own_memory(small)
    same = compact(net, {"conv1": torch.ones(8, dtype=torch.bool)})
    for name, tensor in same.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])
        assert tensor.data_ptr() != net.state_dict()[name].data_ptr()


@pytest.mark.parametrize(
    ("keep", "constants", "message"),
    [
        ({"2": torch.ones(4, dtype=torch.bool)}, {}, r"no units of '2' can be removed, only of 0, 3"),
        ({"5": torch.tensor([True, False])}, {}, r"no units of '5'.*the last, whose units are the outputs"),
        ({"0": torch.ones(5, dtype=torch.bool)}, {}, r"a bool tensor of shape \(4,\).*got tensor"),
        ({"0": torch.ones(4)}, {}, r"a bool tensor.*got tensor\(\[1., 1"),
        ({"0": [True] * 4}, {}, r"got \[True"),
        ({"0": torch.zeros(4, dtype=torch.bool)}, {}, "keeps at least one unit, got"),
        ({}, {"h": {"7": torch.zeros(4)}}, "no units of '7'"),
        ({}, {"h": {"0": torch.zeros(3)}}, r"have shape \(3,\), not \(4,\)"),
        ({}, {"h": {"0": torch.zeros(4, 1)}}, r"have shape \(4, 1\), not \(4,\)"),
        ({}, {"a": {"0": torch.zeros(4, 2)}}, r"not \(4,\) or \(4, 1\)"),
        ({}, {"a": {"0": torch.zeros(4)}, "h": {"0": torch.zeros(4)}}, "both h and a are given for '0'"),
        ({"0": torch.arange(4) > 0}, {"h": {"0": torch.full((4,), torch.inf)}}, "'0' is not finite"),
    ],
)
@pytest.mark.parametrize("do", [compact, propagate])
def test_masks_and_constants_that_do_not_fit(do, keep, constants, message):
    net = make_net(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Identity(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    with pytest.raises(ValueError, match=message):
        do(net, keep, **constants)


def pruned_layer():
    layer = nn.Linear(3, 3)
    prune.l1_unstructured(layer, "bias", amount=1)
    return layer


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)], r"'1', Softmax\(dim=1\), behind '0'"),
        (lambda: [nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)], "'1', LayerNorm"),
        (lambda: [nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)], "'1', PReLU"),
        (lambda: [nn.Linear(3, 4), nn.MaxPool2d(2), nn.Linear(2, 2)], "'1', MaxPool2d"),
        (lambda: [nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 2)], "'2' takes 8 inputs, '0' has 4 units"),
        (lambda: [nn.Linear(3, 4), nn.BatchNorm1d(5), nn.Linear(4, 2)], "'1' takes 5 inputs"),
        (lambda: [nn.Conv2d(1, 4, 1), nn.Linear(4, 2)], "'1', Linear.*Flatten"),
        (lambda: [nn.Conv2d(1, 4, 1), nn.Flatten(2), nn.Linear(4, 2)], "'1', Flatten"),
        (lambda: [nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2)], "'1'.*one group of channels"),
        (lambda: [nn.Linear(3, 4)] * 2, "stands twice"),
        (lambda: [nn.Linear(3, 3), nn.Tanh(), pruned_layer()], "'2' .Linear. is no plain"),
        (lambda: [parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 2)], "'0' .*is no plain"),
        (lambda: [nn.ReLU()], "no Conv2d or Linear"),
    ],
)
def test_unknown_structure_is_refused_by_name(layers, message):
    net = nn.Sequential(*layers()).eval()
    with pytest.raises(ValueError, match=message):
        compact(net, {})
    with pytest.raises(ValueError, match=message):
        idle(net)


def test_shared_weights_are_refused_and_a_shared_nonlinearity_is_not():
    tanh = nn.Tanh()
    net = make_net(nn.Linear(3, 3), tanh, nn.Linear(3, 3), tanh, nn.Linear(3, 2))
    keep, x = {"0": torch.arange(3) > 0, "2": torch.arange(3) < 2}, make_batch(4, (3,), 2).x
    h = {name: torch.full((3,), 0.4, dtype=torch.float64) for name in keep}
    assert_equal(outputs(compact(net, keep, h=h), x), overwritten(net, x, keep, h))
    net[2].weight = net[0].weight
    with pytest.raises(ValueError, match=r"'0' .Linear. stands twice in the chain or shares its weights"):
        compact(net, keep)
    with pytest.raises(ValueError, match=r"is not a chain: an nn.Sequential is needed"):
        compact(net[0], keep)


def test_batch_norm_in_training_mode_and_padded_means_need_what_enters_the_next_layer():
    normed = make_net(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    padded = make_net(nn.Conv2d(1, 2, 1), nn.AvgPool2d(2, padding=1), nn.Conv2d(2, 2, 1))
    keep, a = {"0": torch.tensor([True, False])}, {"0": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"'1', BatchNorm1d.* is in training mode.*call net.eval\(\) first"):
        compact(normed, keep)
    assert compact(normed, {"0": torch.tensor([True, True])})[1].training
    assert compact(normed, keep, a=a)[1].num_features == 1
    with pytest.raises(ValueError, match=r"'1', AvgPool2d.*averages zeros in"):
        compact(padded, keep, h={"0": torch.ones(2)})
    assert compact(padded, keep, h={"0": torch.zeros(2)})[0].out_channels == 1


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    ],
)
def test_units_removed_in_training_stay_away_and_compact_says_the_same(optimizer, batch_norm):
    net = small_cnn((1, 16, 16), 3, (3, 4, 5), "tanh", batch_norm).double()
    batch = make_batch(12, (1, 16, 16), 3)
    chosen = optimizer(net.parameters())

    def step():
        net.train()
        chosen.zero_grad()
        nn.functional.cross_entropy(net(batch.x), batch.y).backward()
        chosen.step()
        net.eval()

    step()  # there is momentum before the removal
    layers = ["conv1", "conv2", "fc1"]
    keep = {layer: torch.ones(n, dtype=torch.bool) for layer, n in zip(layers, (3, 4, 5), strict=True)}
    keep["conv1"][1] = keep["conv2"][0] = keep["fc1"][3] = False
    net.eval()
    means = {layer: one.mean for layer, one in observe(net, batch, layers).items()}
    expected = compact(net, keep, h=means)(batch.x)
    known = {name: id(p) for name, p in net.named_parameters()}
    masks = remove(net, keep, h=means)
    assert known == {name: id(p) for name, p in net.named_parameters()}  # the optimizer's own still
    torch.testing.assert_close(net(batch.x), expected, rtol=0, atol=1e-12)
    handle = hold(net, masks, chosen)
    for _ in range(5):
        step()
    assert not torch.allclose(net(batch.x), expected, atol=1e-3)  # it went on learning
    small = compact(net, keep)
    torch.testing.assert_close(small(batch.x), net(batch.x), rtol=0, atol=1e-12)
    torch.testing.assert_close(small.conv2.weight, net.conv2.weight[keep["conv2"]][:, keep["conv1"]])
    assert (net.conv1.weight[1] == 0).all()
    assert (net.conv2.weight[:, 1] == 0).all()
    handle.remove()


def test_removal_in_place_refuses_a_bias_that_an_optimizer_would_not_know():
    first, last = (nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((3, 2), (2, 2)))
    last.bias = None
    net = make_net(first, nn.ReLU(), last)
    keep = {"0": torch.tensor([True, False])}
    with pytest.raises(ValueError, match=r"2.bias would be new: give that layer a bias first"):
        remove(net, keep, h={"0": torch.ones(2)})
    before = copy.deepcopy(net.state_dict())
    assert remove(net, {"0": torch.tensor([True, True])}).keys() == {"0.weight", "0.bias", "2.weight"}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
