"""Ratios of processor time, one thread, one process: `make bench`. Medians of rounds taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from deadunits import models, scorers, training
from deadunits.data import Batch
from torch.nn import functional as F


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


def exact_loss_change() -> None:
    """All weights of conv1, conv2 and fc1 on 1,000 images; a plain loop costs a forward pass a weight."""
    net = models.small_cnn((1, 28, 28)).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 1, 28, 28, generator=generator)
    batch = Batch(x, torch.randint(0, 10, (1000,), generator=generator))
    plain = models.small_cnn((1, 28, 28)).eval().to(memory_format=torch.contiguous_format)
    names = ["conv1.weight", "conv2.weight", "fc1.weight"]
    weights = sum(net.get_parameter(name).numel() for name in names)

    @torch.no_grad()
    def forward(model: torch.nn.Module) -> None:
        F.cross_entropy(model(x), batch.y, reduction="none")

    times = compare(
        5,
        structured=lambda: scorers.loss_change(net, batch, names),
        channels_last=lambda: [forward(net) for _ in range(20)],
        contiguous=lambda: [forward(plain) for _ in range(20)],
    )
    print(f"exact loss change of {weights:,} weights: {times['structured']:.2f} s")
    for layout in ("contiguous", "channels_last"):
        loop = times[layout] / 20 * weights
        ratio = loop / times["structured"]
        print(f"  a forward pass a weight, {layout}: {loop:.0f} s, {ratio:.0f} times as long")


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
    ratio = times["ours"] / times["plain"]
    print(f"training step: {times['ours'] * 10:.2f} ms, {ratio:.2f} times the bare one")


if __name__ == "__main__":
    torch.set_num_threads(1)
    exact_loss_change()
    training_step()
