from __future__ import annotations

import copy

import pytest
import torch

from deadunits import mean_replacement, models, training
from deadunits.recorder import Recorder
from toys import make_batch

SETTINGS = {"epochs": 2, "lr": 0.1, "batch_size": 4, "seed": 3}
LAYERS = ["conv1", "conv2", "fc1"]


def setup(batch_norm=True, activation="relu"):
    images = make_batch(10, (1, 20, 20), 3)
    return models.small_cnn((1, 20, 20), 3, (2, 3, 4), activation, batch_norm).double(), images


@pytest.mark.parametrize("batch_norm", [True, False])
def test_recording_changes_nothing_in_the_training_bit_for_bit(batch_norm):
    plain, images = setup(batch_norm)
    recorded = copy.deepcopy(plain)
    for _ in training.sgd(plain, images, **SETTINGS):
        pass
    recorder = Recorder(recorded, LAYERS)
    for _ in training.sgd(recorded, images, **SETTINGS):
        recorder.follow()
        recorder.measure(images)
        recorder.values(images, "conv2")
        assert recorded.training
    for name, value in plain.state_dict().items():
        assert torch.equal(value, recorded.state_dict()[name]), name


def test_columns_are_what_their_definitions_say():
    net, images = setup()
    recorder = Recorder(net, LAYERS)
    sums = {name: [] for name in LAYERS}
    for _ in training.sgd(net, images, **SETTINGS):
        recorder.follow()
        for name in LAYERS:
            sums[name].append([one.abs().sum().item() for one in net.get_parameter(f"{name}.weight").grad])
    loss, found = recorder.measure(images)
    net.eval()
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(net(images.x), images.y).item())
    exact = mean_replacement.mean_replacement_penalty(net, images, LAYERS)
    seen = mean_replacement.observe(net, images, LAYERS)
    following = {"conv1": net.conv2.weight, "conv2": net.fc1.weight, "fc1": net.fc2.weight}
    for name in LAYERS:
        assert torch.equal(found[name]["mrp"], exact[name])
        assert torch.equal(found[name]["mrs"], seen[name].mrs)
        assert torch.equal(found[name]["gradient"], seen[name].gradient)
        for unit, weights in enumerate(net.get_parameter(f"{name}.weight")):
            assert found[name]["norm_in"][unit].item() == pytest.approx(weights.abs().sum().item())
            size = following[name].shape[1] // len(found[name]["mrp"])
            out = following[name][:, unit * size : (unit + 1) * size].abs().sum().item()
            assert found[name]["norm_out"][unit].item() == pytest.approx(out)
        mean = torch.tensor(sums[name]).mean(0)
        torch.testing.assert_close(found[name]["weight_gradient"], mean)


def test_the_gradients_are_those_since_the_last_measurement():
    net, images = setup()
    recorder = Recorder(net, ["fc1"])
    for step in training.sgd(net, images, **SETTINGS):
        recorder.follow()
        last = net.fc1.weight.grad.abs().sum(1)
        if step.number < 6:
            recorder.measure(images)
    _, found = recorder.measure(images)
    torch.testing.assert_close(found["fc1"]["weight_gradient"], last.float())


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_values_are_outputs_and_what_the_next_layer_gets(activation):
    net, images = setup(activation=activation)
    recorder = Recorder(net, LAYERS)
    net.train()
    h, a = recorder.values(images, "conv2")
    assert net.training
    net.eval()
    expected = net[: list(net._modules).index("conv2") + 1](images.x)  # (N, 3, H, W)
    assert torch.equal(h, expected.movedim(1, 0).flatten(1))
    flat = net[: list(net._modules).index("fc1")](images.x)  # (N, 3 positions)
    torch.testing.assert_close(a, flat.unflatten(1, (3, -1)).movedim(1, 0).flatten(1))
    assert not net.conv2._forward_hooks
    assert not net.fc1._forward_pre_hooks


def test_the_mode_is_restored_when_something_fails():
    net, images = setup()
    net.train()
    with pytest.raises(RuntimeError):
        Recorder(net, ["conv1"]).measure(type(images)(images.x[:, :, :2], images.y))
    assert net.training


def test_bad_layers_are_named():
    net, _ = setup()
    with pytest.raises(ValueError, match="no linear or convolutional layer 'conv9'; there are: conv1"):
        Recorder(net, ["conv9"])
    with pytest.raises(ValueError, match="behind 'fc2'"):
        Recorder(net, ["fc2"])


def test_gradients_that_are_gone_are_missed():
    net, images = setup()
    recorder = Recorder(net, LAYERS)
    for _ in training.sgd(net, images, **SETTINGS):
        net.zero_grad()
        with pytest.raises(RuntimeError, match=r"conv1 has no gradient: follow\(\) belongs between"):
            recorder.follow()
        break
