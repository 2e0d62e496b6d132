"""Ratios of processor time, one thread, one process: `make bench`. Medians of rounds taken in turn.

Each figure has the value that is asked for. With `--check`, as in CI, whose machines differ, a figure that
misses it by more than a factor of two ends with exit status 1.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torchvision
from torch.nn import functional as F

from deadunits import graph, models, scorers, training, unit_scorers
from deadunits.attack import Attack, Schedule
from deadunits.batches import sample_losses
from deadunits.data import Batch
from deadunits.incremental import Ways
from deadunits.recorder import Recorder

NAMES = ["conv1.weight", "conv2.weight", "fc1.weight"]
missed: list[str] = []


def report(what: str, value: float, asked: float, unit: str = "", more: bool = False) -> None:
    """Print a figure beside what is asked: at most that, or with `more` at least."""
    print(f"{what}: {value:.4g}{unit} ({'at least' if more else 'at most'} {asked:g}{unit})")
    if value * 2 < asked if more else value > 2 * asked:
        missed.append(what)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(rounds: int, **work: Callable[[], object]) -> dict[str, float]:
    """Median processor time of each, the rounds taken in turn so that a drift of the machine hits all."""
    for one in work.values():
        one()
    times = {name: [] for name in work}
    for _ in range(rounds):
        for name, one in work.items():
            times[name].append(seconds(one))
    return {name: statistics.median(values) for name, values in times.items()}


def probe() -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 1, 28, 28, generator=generator)
    return Batch(x, torch.randint(0, 10, (1000,), generator=generator))


def exact_loss_change() -> None:
    """All weights of conv1, conv2 and fc1 on 1,000 images; a plain loop costs a forward pass a weight."""
    batch = probe()
    net, normed = (models.small_cnn((1, 28, 28), batch_norm=norm).eval() for norm in (False, True))
    plain = models.small_cnn((1, 28, 28)).eval().to(memory_format=torch.contiguous_format)
    weights = sum(net.get_parameter(name).numel() for name in NAMES)

    @torch.no_grad()
    def forward(model: torch.nn.Module) -> None:
        F.cross_entropy(model(batch.x), batch.y, reduction="none")

    times = compare(
        5,
        structured=lambda: scorers.loss_change(net, batch, NAMES),
        normed=lambda: scorers.loss_change(normed, batch, NAMES),
        channels_last=lambda: [forward(net) for _ in range(20)],
        contiguous=lambda: [forward(plain) for _ in range(20)],
    )
    report(f"exact loss change of {weights:,} weights", times["structured"], 5, " s")
    report("  with batch norm", times["normed"], 5, " s")
    report("  memory of the process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2, " GiB")
    loops = {layout: times[layout] / 20 * weights for layout in ("channels_last", "contiguous")}
    faster = min(loops.values()) / times["structured"]
    report("  the faster plain loop, a forward pass a weight, takes times as long", faster, 150, more=True)
    report("  the contiguous one", loops["contiguous"] / times["structured"], 300, more=True)


def unit_scores() -> None:
    """All 88 units of conv1, conv2 and fc1 on 1,000 images; a plain loop costs a forward pass a unit."""
    batch, layers = probe(), ["conv1", "conv2", "fc1"]
    net = models.small_cnn((1, 28, 28)).eval()
    plain = models.small_cnn((1, 28, 28)).eval().to(memory_format=torch.contiguous_format)
    units = sum(len(net.get_submodule(layer).weight) for layer in layers)

    @torch.no_grad()
    def forward(model: torch.nn.Module) -> None:
        F.cross_entropy(model(batch.x), batch.y, reduction="none")

    def one_pass() -> None:
        torch.autograd.grad(F.cross_entropy(net(batch.x), batch.y), list(net.parameters()))

    times = compare(
        15,
        mrp=lambda: unit_scorers.mrp(net, batch, layers),
        mrs=lambda: unit_scorers.mrs(net, batch, layers),
        one=one_pass,
        channels_last=lambda: [forward(net) for _ in range(5)],
        contiguous=lambda: [forward(plain) for _ in range(5)],
    )
    loops = {layout: times[layout] / 5 * units for layout in ("channels_last", "contiguous")}
    report(f"exact MRP of {units} units", times["mrp"] * 1000, 150, " ms")
    faster = min(loops.values()) / times["mrp"]
    report("  the faster plain loop, a forward pass a unit, takes times as long", faster, 25, more=True)
    report("  the contiguous one", loops["contiguous"] / times["mrp"], 50, more=True)
    report("MRS of all layers, in forward-and-backward passes", times["mrs"] / times["one"], 1.0)
    report("  memory of the process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2, " GiB")


def any_network() -> None:
    """Exact MRP of all units of torchvision's networks on 64 images; a loop costs a forward pass a unit.

    Of each layer a few units are scored, at least a stack of them or 8, and their time taken times its units.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 3, 32, 32, generator=generator), torch.randint(0, 1000, (64,), generator=generator)
    for name, asked in (("resnet18", 7), ("vgg11_bn", 7), ("mobilenet_v3_small", 2.5)):
        net = torchvision.models.get_model(name).eval()
        layers = {layer: len(module.weight) for layer, module in graph.linear_layers(net).items()}

        @torch.no_grad()
        def forward(x: torch.Tensor = x, net: torch.nn.Module = net) -> None:
            F.cross_entropy(net(x), y, reduction="none")

        fast = x.contiguous(memory_format=torch.channels_last)
        passes = compare(3, plain=forward, channels_last=lambda fast=fast, forward=forward: forward(fast))
        start = time.process_time()
        ways = Ways(net, Batch(x, y), layers)
        snapshot = ways.snapshot(Batch(x, y), sample_losses)
        total = time.process_time() - start
        for layer, units in layers.items():
            start = time.process_time()
            way = ways.losses(snapshot, layer)
            some = torch.arange(min(units, max(8, min(way.step, 64))))
            way.losses(some, way.constants(torch.zeros(len(some))))
            total += (time.process_time() - start) * units / len(some)
        loops = {layout: seconds * sum(layers.values()) / total for layout, seconds in passes.items()}
        report(
            f"exact MRP of {sum(layers.values()):,} units of {name}, loop", loops["plain"], asked, more=True
        )
        print(f"  with its images in channels_last: {loops['channels_last']:.3g}")


def derivative_scores() -> None:
    """Scores from derivatives, in forward-and-backward passes over the same 1,000 images."""
    batch, net = probe(), models.small_cnn((1, 28, 28)).eval()
    every = [name for name, _ in net.named_parameters()]

    def one_pass() -> None:
        torch.autograd.grad(F.cross_entropy(net(batch.x), batch.y), list(net.parameters()))

    times = compare(
        9,
        one=one_pass,
        taylor2=lambda: scorers.taylor2(net, batch, every),
        hessian=lambda: scorers.hessian(net, batch, every),
        diagonal=lambda: scorers.diagonal(net, batch, ["conv1.weight"]),
    )
    for scorer in ("taylor2", "hessian"):
        report(f"{scorer} of the whole network, in passes", times[scorer] / times["one"], 3.2)
    report("diagonal of conv1", times["diagonal"], 1, " s")


def training_step() -> None:
    """A step of `sgd` on minibatches of 32 against the bare forward, backward and update."""
    net, bare = (models.small_cnn((1, 28, 28)) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3200, 1, 28, 28, generator=generator).contiguous(memory_format=torch.channels_last)
    images = Batch(x, torch.randint(0, 10, (3200,), generator=generator))
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.01)

    def plain() -> None:
        for start in range(0, 3200, 32):
            optimizer.zero_grad()
            F.cross_entropy(bare(x[start : start + 32]), images.y[start : start + 32]).backward()
            optimizer.step()

    def ours() -> None:
        for _ in training.sgd(net, images, epochs=1, lr=0.01, batch_size=32, seed=0):
            pass

    times = compare(7, ours=ours, plain=plain)
    report("training step, in bare ones", times["ours"] / times["plain"], 1.2)


def attacked_and_recorded() -> None:
    """A run of chapter 3: its steps, and what attack and recorder add to them."""
    generator = torch.Generator().manual_seed(0)
    images, probe = (
        Batch(torch.randn(n, 3, 32, 32, generator=generator), torch.randint(0, 10, (n,), generator=generator))
        for n in (32 * 375, 1000)
    )
    layers, how = ["conv1", "conv2", "fc1"], {"epochs": 1, "batch_size": 32, "seed": 0, "lr": 0.01}
    net = models.small_cnn((3, 32, 32))

    def plain() -> None:
        for _ in training.sgd(net, images, **how):
            pass

    def attacked() -> None:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with Attack(net, optimizer, "conv1", [0], Schedule(1, 10, 10), multiplier=1.5):
            for _ in training.sgd(net, images, **how, optimizer=optimizer):
                pass

    def recorded() -> None:
        """As often as in the chapter: each 375 steps, and on the other images each fourth time."""
        recorder = Recorder(net, layers)
        for _ in training.sgd(net, images, **how):
            recorder.follow()
        recorder.measure(probe)
        if next(turn) % 4 == 0:
            recorder.measure(probe)
            recorder.values(probe, "conv1")

    turn = itertools.count()
    times = compare(5, plain=plain, attacked=attacked)
    report("attack, in trainings without one", times["attacked"] / times["plain"], 1.05)
    rounds = [(seconds(plain), seconds(recorded)) for _ in range(8)]
    plainly, both = (sum(one) for one in zip(*rounds, strict=True))
    report("recorder, share of a run", 100 * (1 - plainly / both), 20, " %")


if __name__ == "__main__":
    torch.set_num_threads(1)
    unit_scores()
    exact_loss_change()
    any_network()
    derivative_scores()
    training_step()
    attacked_and_recorded()
    if missed and "--check" in sys.argv:
        sys.exit(f"missed by more than a factor of two: {', '.join(missed)}")
