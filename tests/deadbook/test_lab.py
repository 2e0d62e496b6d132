"""The arithmetic of the pages' pieces, in Node, against PyTorch and the library."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deadbook import datasets, runs
from deadbook.widgets import lab
from deadunits import compaction, counting, mean_replacement, models, pruning, scorers, unit_scorers
from deadunits.data import Batch

LAYERS = ["conv1", "conv2", "fc1"]
NODE = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
KINDS = [("relu", False), ("tanh", False), ("relu", True), ("tanh", True)]


def node(data: dict, job: str, **more: object) -> dict:
    """What the pages' arithmetic makes of a job (`lab.cjs`)."""
    assert NODE, "node is not installed: make install"
    text = json.dumps({"data": data, "job": job} | more)
    done = subprocess.run([NODE, "tests/helpers/lab.cjs"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def network(activation: str, batch_norm: bool) -> tuple[torch.nn.Module, dict[str, Batch], dict]:
    """A network after a few steps on the digits, some images, and both as a page gets them."""
    images = datasets.load("digits", probe_size=50)
    net = models.small_cnn(images.shape, activation=activation, batch_norm=batch_norm, seed=3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for chosen in torch.arange(640).split(32):
        optimizer.zero_grad()
        F.cross_entropy(net(images.train.x[chosen]), images.train.y[chosen]).backward()
        optimizer.step()
    sets = {"train": Batch(images.train.x[:300], images.train.y[:300]), "probe": images.probe}
    arrays = {name: (x.numpy(), y.numpy()) for name, (x, y) in sets.items()}
    about = {"activation": activation, "batch_norm": batch_norm}
    return net.eval(), sets, lab.packed(numbers(net), arrays, **about)


def numbers(net: torch.nn.Module) -> dict[str, np.ndarray]:
    """The floating-point numbers of a network, as `checkpoint` keeps them."""
    state = net.state_dict().items()
    return {name: values.numpy() for name, values in state if values.is_floating_point()}


@pytest.fixture(scope="module")
def published() -> tuple[torch.nn.Module, dict[str, Batch], dict]:
    """The network that the published pages carry."""
    known = runs.runs_in(runs.PUBLISHED)
    run = next(run for run in known if run.info["experiment"] == "checkpoint")
    net = models.small_cnn((1, 28, 28))
    rows = run.table("snapshots").groupby("name")["value"]
    with torch.no_grad():
        for name, values in net.named_parameters():
            values.copy_(torch.tensor(rows.get_group(name).to_numpy()).view(values.shape))
    labels, pixels = run.table("labels"), run.table("images")
    sets = {}
    for name in ("train_probe", "test"):
        x = torch.tensor(pixels[pixels["set"] == name]["value"].to_numpy()).view(-1, 1, 28, 28)
        sets[name] = Batch(x, torch.tensor(labels[labels["set"] == name]["label"].to_numpy()).long())
    return net.eval(), sets, lab.carried([run])


def assert_near(ours: object, theirs: object, tolerance: float = 1e-4) -> None:
    """Within a share of the largest number."""
    ours, theirs = np.asarray(ours, float).ravel(), np.asarray(theirs, float).ravel()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def check_measurements(net: torch.nn.Module, images: Batch, found: dict) -> None:
    """Logits, losses, gradients, MRP, MRS and the other scores of units are PyTorch's."""
    net.zero_grad()
    logits = net(images.x)
    loss = F.cross_entropy(logits, images.y)
    loss.backward()
    assert_near(found["logits"], logits.detach())
    assert_near(found["losses"], F.cross_entropy(logits, images.y, reduction="none").detach())
    assert_near(found["loss"], loss.item())
    assert found["right"] == int((logits.argmax(1) == images.y).sum())
    for name, values in net.named_parameters():
        assert_near(found["gradients"][name], values.grad)
    seen = mean_replacement.observe(net, images, LAYERS)
    for layer in LAYERS:
        units = found["units"][layer]
        for name in ("mean", "variance", "mrs", "gradient"):
            assert_near(units[name], getattr(seen[layer], name))
        for ours, scorer in (("taylor", "taylor"), ("activation", "mean_activation")):
            assert_near(units[ours], unit_scorers.UNIT_SCORERS[scorer](net, images, [layer])[layer])
    mrp = unit_scorers.mrp(net, images, LAYERS)
    for layer in LAYERS:
        assert_near(found["mrp"][layer], mrp[layer])


def test_the_published_network_is_pytorchs(published):
    net, sets, data = published
    for name, images in sets.items():
        check_measurements(net, images, node(data, "measure", set=name))


@pytest.mark.parametrize(("activation", "batch_norm"), KINDS)
def test_measurements_are_pytorchs(activation, batch_norm):
    net, sets, data = network(activation, batch_norm)
    check_measurements(net, sets["probe"], node(data, "measure", set="probe"))


def test_one_weight_changes_all_numbers_as_in_pytorch(published):
    net, sets, _ = published
    other = models.small_cnn((1, 28, 28)).eval()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other.conv2.weight[3, 2, 1, 4] += 0.7
    arrays = {name: (x.numpy(), y.numpy()) for name, (x, y) in sets.items()}
    found = node(lab.packed(numbers(other), arrays, activation="relu"), "measure", set="test")
    check_measurements(other, sets["test"], found)
    with torch.no_grad():
        assert abs(found["loss"] - F.cross_entropy(net(sets["test"].x), sets["test"].y).item()) > 1e-3


def check_training(net: torch.nn.Module, images: Batch, data: dict, steps: int, **attack: object) -> None:
    """Losses and what is left at the end, from the same weights and minibatches."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randperm(len(images.y), generator=generator)[:32] for _ in range(steps)]
    more = {"set": next(iter(data["labels"])), "batches": [batch.tolist() for batch in batches], "lr": 0.01}
    found = node(data, "train", **more, **attack)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    net.train()
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images.x[batch]), images.y[batch])
        loss.backward()
        if attack and attack["from"] <= number < attack["until"]:
            net.get_submodule(attack["attack"]["layer"]).weight.grad[2] *= attack["attack"]["multiplier"]
        optimizer.step()
        assert math.isclose(found["losses"][number], loss.item(), rel_tol=1e-3, abs_tol=1e-5)
    for name, values in net.named_parameters():
        assert_near(found["parameters"][name], values.detach(), 1e-3)
    norms = [one for one in net.modules() if hasattr(one, "running_mean")]
    for (mean, variance), norm in zip(found["norms"], norms, strict=True):
        assert_near(mean, norm.running_mean, 1e-3)
        assert_near(variance, norm.running_var, 1e-3)


def test_training_the_published_network_is_pytorchs(published):
    net, sets, data = published
    copied = models.small_cnn((1, 28, 28))
    copied.load_state_dict(net.state_dict())
    check_training(copied, sets["train_probe"], data, 200)


@pytest.mark.parametrize(("activation", "batch_norm"), KINDS)
def test_training_and_attacking_is_pytorchs(activation, batch_norm):
    net, sets, data = network(activation, batch_norm)
    attack = {"layer": "conv1", "unit": 2, "multiplier": 5}
    # With batch norm float32 is 1e-3 from float64 by then; the pages' sums are in double precision too.
    sets = {name: Batch(x.double(), y) for name, (x, y) in sets.items()}
    check_training(net.double(), sets["train"], data, 50, attack=attack, **{"from": 20, "until": 40})


@pytest.mark.parametrize("scorer", ["mrp", "norm_l2"])
def test_removing_the_units_that_the_library_names_gives_its_loss(published, scorer):
    net, sets, data = published
    scores = unit_scorers.UNIT_SCORERS[scorer](net, sets["train_probe"], LAYERS)
    keep = pruning.unit_masks(scores, 0.4)
    means = {
        layer: seen.mean for layer, seen in mean_replacement.observe(net, sets["train_probe"], LAYERS).items()
    }
    bare = {layer: torch.zeros_like(mean) for layer, mean in means.items()}
    gone = node(data, "lowest", scores={k: v.tolist() for k, v in scores.items()}, fraction=0.4, by="layer")
    assert {layer: [1 - one for one in flags] for layer, flags in gone.items()} == {
        layer: mask.int().tolist() for layer, mask in keep.items()
    }
    for constants in (means, bare):
        removed = compaction.propagate(net, keep, h=constants)
        with torch.no_grad():
            logits = removed(sets["test"].x)
        given = {
            layer: [None if kept else value for value, kept in zip(*pair, strict=True)]
            for layer, pair in ((name, (constants[name].tolist(), keep[name].tolist())) for name in LAYERS)
        }
        found = node(data, "replace", set="test", constants=given)
        assert_near(found["loss"], F.cross_entropy(logits, sets["test"].y).item())
        assert found["right"] == int((logits.argmax(1) == sets["test"].y).sum())


@pytest.mark.parametrize("by", ["layer", "network"])
@pytest.mark.parametrize("fraction", [0, 0.29, 0.5, 0.9])
def test_the_lowest_scores_are_the_librarys(by, fraction):
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.rand(n, generator=generator).round(decimals=1) for name, n in (("a", 100), ("b", 40))
    }
    _, _, data = network("relu", False)
    lists = {name: values.tolist() for name, values in scores.items()}
    found = node(data, "lowest", scores=lists, fraction=fraction, by=by)
    keep = pruning.unit_masks(scores, fraction, by=by)
    assert found == {name: (~mask).int().tolist() for name, mask in keep.items()}


def test_fractions_are_counted_as_the_library_counts():
    _, _, data = network("relu", False)
    pairs = [[k / 200, n] for k in range(201) for n in (1, 8, 10, 16, 64, 100, 3200, 20480)]
    assert node(data, "counts", pairs=pairs) == [counting.count(*pair) for pair in pairs]


def serve(data: dict, what: str, score: str, until: dict) -> dict:
    """What the worker of the prune piece answers to two moves, and its processor time."""
    move = {"kind": "fraction", "what": what, "score": score, "by": "layer", "carry": True}
    moves = [move | {"id": number, "fraction": fraction} for number, fraction in ((1, 0.3), (2, 0.1))]
    return node(data, "serve", moves=moves, until=until)


@pytest.mark.parametrize(("what", "score"), [("units", "mrs"), ("weights", "magnitude")])
def test_the_first_answer_to_a_move_takes_less_than_100_ms(published, what, score):
    """Of processor time; by the first images if all of them take longer."""
    net, sets, data = published
    found = serve(data, what, score, {"kind": "judged", "id": 2})
    assert found["milliseconds"] < 100
    keep = {name: ~torch.tensor(gone).bool() for name, gone in found["gone"][what].items()}
    if what == "units":
        seen = mean_replacement.observe(net, sets["train_probe"], LAYERS)
        net = compaction.propagate(net, keep, h={layer: units.mean for layer, units in seen.items()})
        kept = contextlib.nullcontext()
    else:
        kept = pruning.pruned(
            net, {f"{n}.weight": k.view_as(net.get_submodule(n).weight) for n, k in keep.items()}
        )
    images = sets["test"]
    with kept, torch.no_grad():
        loss = F.cross_entropy(net(images.x[: found["images"]]), images.y[: found["images"]]).item()
    assert math.isclose(found["loss"], loss, rel_tol=1e-4)


def test_the_exact_loss_change_of_each_weight_is_the_librarys(published):
    net, sets, data = published
    changes = serve(data, "weights", "magnitude", {"kind": "exact", "share": 1})["changes"]
    names = [name for name, _ in net.named_parameters() if name.endswith("weight")]
    for name, change in scorers.loss_change(net, sets["train_probe"], names).items():
        assert_near(changes[name.removesuffix(".weight")], change)
