"""Five programs as users would write them from the documentation alone, with ordinary training loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune
from torch.utils.data import DataLoader, TensorDataset

from deadunits import attack, compaction, data, mean_replacement, pruning, scorers, structured
from residual_net import eight_layers


@pytest.fixture(scope="module")
def digits():
    return data.digits(probe_size=100)


def train(net, loader, optimizer, epochs):
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval()


def loader(digits, seed=0):
    order = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(*digits.train), batch_size=32, shuffle=True, generator=order)


def accuracy(net, batch):
    with torch.no_grad():
        return (net(batch.x).argmax(1) == batch.y).double().mean().item()


def test_a_trained_residual_network_is_pruned_and_fine_tuned(digits, tmp_path):
    net = eight_layers(digits.shape, digits.classes)
    net = train(net, loader(digits), torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), 3)
    pruned = structured.prune(net, digits.train_probe, 0.5, "mrs")
    structured.recalibrate(pruned.net, digits.train)
    optimizer = torch.optim.SGD(pruned.net.parameters(), lr=0.05, momentum=0.9)
    small = train(pruned.net, loader(digits, 1), optimizer, 1)
    assert compaction.parameter_count(small) < 0.35 * compaction.parameter_count(net)
    assert accuracy(small, digits.test) > 0.8
    torch.save(small.state_dict(), tmp_path / "small.pt")
    state = torch.load(tmp_path / "small.pt", weights_only=True)
    again = compaction.load(eight_layers(digits.shape, digits.classes, seed=1), state).eval()
    assert torch.equal(again(digits.test.x), small(digits.test.x))


def test_a_unit_is_attacked_under_adam_with_a_data_loader(digits):
    """The batches that are looked at are `Batch`es; the loop over the DataLoader is the user's."""
    before = {}
    for multiplier in (1, 300):
        net = eight_layers(digits.shape, digits.classes, width=4)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        schedule = attack.Schedule(start=5, interval=5, repeats=3)
        with attack.Attack(net, optimizer, "blocks.0.conv1", [1], schedule, multiplier=multiplier):
            train(net, loader(digits), optimizer, 1)
        before[multiplier] = net.blocks[0].conv1.weight.detach().flatten(1).norm(dim=1)
    ratio = before[300] / before[1]
    assert ratio.argmax() == 1
    assert ratio[1] > 2


def test_dead_units_are_found_during_training(digits):
    net = eight_layers(digits.shape, digits.classes, width=4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    found = []
    for epoch in range(2):
        train(net, loader(digits, epoch), optimizer, 1)
        with torch.no_grad():
            net.blocks[1].bn1.weight[3] = net.blocks[1].bn1.bias[3] = 0  # a unit that dies
        found.append(mean_replacement.dead(net, digits.probe, ["blocks.1.conv1"])["blocks.1.conv1"])
    assert all(dead[3] for dead in found)
    assert not found[-1].all()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(784, 40), nn.Linear(40, 30), nn.Linear(30, 10)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x.flatten(1))))))


def test_ninety_percent_by_schedule_on_a_module_of_ones_own(digits):
    torch.manual_seed(0)
    net = Classifier()
    names = [f"{layer}.weight" for layer in ("first", "second", "last")]
    optimizer, masks = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), None
    for epoch, fraction in pruning.schedule("cubic", 0.9, 4).items():
        train(net, loader(digits, epoch), optimizer, 1)
        masks = pruning.masks(scorers.magnitude(net, (), names), fraction, existing=masks)
        handle = pruning.hold(net, masks, optimizer)
        train(net, loader(digits, 10 + epoch), optimizer, 1)
        handle.remove()
    for name in names:
        weight = net.get_parameter(name)
        assert int((weight == 0).sum()) == int(0.9 * weight.numel())
    assert accuracy(net, digits.test) > 0.8


def test_our_scores_in_torchs_pruning(digits):
    torch.manual_seed(0)
    net = Classifier()
    train(net, loader(digits), torch.optim.SGD(net.parameters(), lr=0.05), 1)
    names = ["second.weight", "last.weight"]
    scores = scorers.taylor1(net, digits.probe, names)  # signed
    importance = {
        (net.get_submodule(name.rpartition(".")[0]), "weight"): rank
        for name, rank in pruning.ranks(scores).items()
    }
    torch_prune.global_unstructured(importance, torch_prune.L1Unstructured, importance, amount=0.4)
    expected = pruning.masks(scores, 0.4, by="network", whole_layers=True)
    assert torch.equal(net.second.weight_mask.bool(), expected["second.weight"])
    assert torch.equal(net.last.weight_mask.bool(), expected["last.weight"])
