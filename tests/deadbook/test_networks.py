from __future__ import annotations

from typing import get_args

import pytest
import torch

from deadbook import networks, settings
from deadunits import Invalid, models


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
    nets = [networks.build(f"{__name__}:own", (1, 4, 4), 3, "own", seed) for seed in (0, 0, 1)]
    assert torch.equal(nets[0][1].weight, nets[1][1].weight)
    assert not torch.equal(nets[0][1].weight, nets[2][1].weight)
    net = networks.build(f"{__name__}:own_with_activation", (1, 4, 4), 3, "tanh")
    assert isinstance(net[0], torch.nn.Tanh)
    ours = networks.build("small_cnn", (1, 16, 16), 3, "tanh", 1)
    assert torch.equal(
        ours.fc1.weight, models.small_cnn((1, 16, 16), 3, activation="tanh", seed=1).fc1.weight
    )


def test_batch_norm_is_for_a_network_that_takes_it():
    built = [
        networks.build(f"{__name__}:own_with_batch_norm", (1, 4, 4), 3, "own", batch_norm=chosen)
        for chosen in (False, True)
    ]
    assert [len(net) for net in built] == [2, 3]
    with pytest.raises(Invalid, match=":own takes no batch_norm: set it to False"):
        networks.build(f"{__name__}:own", (1, 4, 4), 3, "own", batch_norm=True)


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
        networks.build(name, (1, 4, 4), 3, activation)
