"""Table 2.1: what the scores cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from deadbook.experiments.common import Row, build, load, weights_of
from deadbook.settings import Costs
from deadunits import derivatives, graph, scorers, unit_scorers
from deadunits.batches import sample_losses
from deadunits.data import Batch


def costs(settings: Costs, data_root: str = "") -> Iterator[Row]:
    """Table 2.1: processor time of each scorer on the whole network, in forward-and-backward passes.

    The medians of rounds taken in turn, so that a drift of the machine hits all alike. The small CNN also
    with all widths doubled. Table: `costs` (seconds; passes: seconds over those of one pass; weights scored).
    """
    images = load(settings, data_root)
    nets = {1: build(settings, images)}
    if settings.network == "small_cnn":
        nets[2] = build(settings, images, widths=(16, 32, 128))
    for widths, net in nets.items():
        net.eval()
        every = [name for name, _ in net.named_parameters()]
        layers = weights_of(net, settings.layers)
        work = {"pass": partial(one_pass, net, images.probe)}
        for scorer in ("taylor1", "taylor2", "hessian", "magnitude"):
            work[scorer] = partial(scorers.SCORERS[scorer], net, images.probe, every)
        if all(derivatives.gauss_newton_is_exact(net, name) for name in layers):
            work["diagonal of layers"] = partial(scorers.SCORERS["diagonal"], net, images.probe, layers)
        if hidden := list(graph.linear_layers(net))[:-1]:
            work["mrs of all units"] = partial(unit_scorers.mrs, net, images.probe, hidden)
        work["loss_change of layers"] = partial(scorers.SCORERS["loss_change"], net, images.probe, layers)
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(settings.rounds + 1):
            for name, call in work.items():
                start = time.process_time()
                call()
                times[name].append(time.process_time() - start)
        seconds = {name: statistics.median(values[1:]) for name, values in times.items()}  # 0 warms up
        for name, value in seconds.items():
            scored = sum(
                net.get_parameter(weight).numel() for weight in (layers if "layers" in name else every)
            )
            row = {"scorer": name, "widths": widths, "weights": scored, "seconds": value}
            yield "costs", row | {"passes": value / seconds["pass"]}


def one_pass(net: nn.Module, batch: Batch) -> None:
    """A forward and a backward pass, gradients of all weights."""
    torch.autograd.grad(sample_losses(net(batch.x), batch.y).mean(), list(net.parameters()))
