from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch

from deadbook import settings
from deadunits import Invalid, models


def test_the_network_of_the_thesis_has_20522_parameters():
    net = models.small_cnn((1, 28, 28))
    assert sum(p.numel() for p in net.parameters()) == 20_522
    assert [name for name, _ in net.named_children()][:4] == ["conv1", "pool1", "act1", "conv2"]
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 16), (2, 17, 30)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_other_shapes(shape, batch_norm):
    net = models.small_cnn(shape, classes=4, widths=(2, 3, 5), batch_norm=batch_norm).eval()
    assert net(torch.zeros(2, *shape)).shape == (2, 4)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="8 x 8 are too small"):
        models.small_cnn((1, 8, 8))
    with pytest.raises(ValueError, match="'gelu'; there are: relu, tanh"):
        models.small_cnn((1, 28, 28), activation="gelu")


def test_initial_weights_come_from_the_seed_and_are_uniform():
    first, again, other = (models.small_cnn((1, 28, 28), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)
    assert first.fc1.weight.abs().max() <= 1 / 16
    assert first.fc1.weight.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.02)
    assert first.conv2.bias.abs().max() <= 200**-0.5


def test_deepcopy_and_state_dict():
    net = models.small_cnn((1, 28, 28), batch_norm=True)
    other = models.small_cnn((1, 28, 28), batch_norm=True, seed=9)
    other.load_state_dict(copy.deepcopy(net).state_dict())
    x = torch.ones(2, 1, 28, 28)
    assert torch.equal(net.eval()(x), other.eval()(x))


def test_settings_know_the_same_activations():
    assert get_args(settings.ActivationName) == (*models.ACTIVATIONS, "own")


def own(shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[1] * shape[2], classes))


def own_with_activation(shape, classes, activation):
    return torch.nn.Sequential(models.ACTIVATIONS[activation](), *own(shape, classes))


def own_with_batch_norm(shape, classes, batch_norm):
    return torch.nn.Sequential(*own(shape, classes), *[torch.nn.BatchNorm1d(classes)] * batch_norm)


def no_module(shape, classes):
    return 3


def test_a_network_of_the_readers_own():
    nets = [models.build(f"{__name__}:own", (1, 4, 4), 3, "own", seed) for seed in (0, 0, 1)]
    assert torch.equal(nets[0][1].weight, nets[1][1].weight)
    assert not torch.equal(nets[0][1].weight, nets[2][1].weight)
    net = models.build(f"{__name__}:own_with_activation", (1, 4, 4), 3, "tanh")
    assert isinstance(net[0], torch.nn.Tanh)
    ours = models.build("small_cnn", (1, 16, 16), 3, "tanh", 1)
    assert torch.equal(
        ours.fc1.weight, models.small_cnn((1, 16, 16), 3, activation="tanh", seed=1).fc1.weight
    )


def test_batch_norm_is_for_a_network_that_takes_it():
    built = [
        models.build(f"{__name__}:own_with_batch_norm", (1, 4, 4), 3, "own", batch_norm=chosen)
        for chosen in (False, True)
    ]
    assert [len(net) for net in built] == [2, 3]
    with pytest.raises(Invalid, match=":own takes no batch_norm: set it to False"):
        models.build(f"{__name__}:own", (1, 4, 4), 3, "own", batch_norm=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:net", "No module named"),
        (f"{__name__}:nothing", "has no attribute 'nothing'"),
        (f"{__name__}:own", r"takes no activation: set activations to \['own'\]"),
        (f"{__name__}:no_module", "return an nn.Module, got int"),
    ],
)
def test_a_network_that_is_none(name, message):
    activation = "own" if name.endswith("no_module") else "relu"
    with pytest.raises(Invalid, match=message):
        models.build(name, (1, 4, 4), 3, activation)
