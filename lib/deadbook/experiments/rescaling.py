"""Open question 8: whether a unit's outgoing weights decide what an attack does to it."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator

import torch
from torch import nn

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import Rescaling
from deadunits import graph, unit_scorers
from deadunits.attack import Attack, Schedule

FACTORS = (0.5, 1.0, 2.0)  # c: of the incoming weights and the bias; the outgoing ones are divided by it


def rescaling(settings: Rescaling, data_root: str = "") -> Iterator[Row]:
    """Train up to a step; from there, a copy for each unit of a layer, each c, attacked or not.

    A copy computes what the network does, if its nonlinearity is ReLU. All copies go on with the same
    minibatches. Table `rescaled`: c, attacked, unit, set, MRP in nats `after` steps later, its layer's mean.
    """
    images = common.load(settings, data_root)
    sets = {"probe": images.probe, "other": images.other}
    net = common.build(settings, images)
    common.weights_of(net, [settings.layer])
    for step in common.train(net, images, settings):
        if step.number == settings.start:
            break
    units = range(len(net.get_submodule(settings.layer).weight))
    for unit, c, attacked in itertools.product(units, FACTORS, (True, False)):
        twin = copy.deepcopy(net)
        rescale(twin, settings.layer, unit, c)
        optimizer = torch.optim.SGD(twin.parameters(), lr=settings.lr)
        attack: contextlib.AbstractContextManager = contextlib.nullcontext()
        if attacked:
            schedule = Schedule(1, settings.interval, settings.repeats)
            attack = Attack(twin, optimizer, settings.layer, [unit], schedule, settings.multiplier)
        with attack:
            for _ in itertools.islice(
                common.train(twin, images, settings, optimizer=optimizer), settings.after
            ):
                pass
        twin.eval()
        for on, batch in sets.items():
            mrp = unit_scorers.mrp(twin, batch, [settings.layer])[settings.layer]
            about = {"c": c, "attacked": attacked, "layer": settings.layer, "unit": unit, "set": on}
            yield "rescaled", about | {"mrp": mrp[unit].item(), "mean_mrp": mrp.mean().item()}


@torch.no_grad()
def rescale(net: nn.Module, layer: str, unit: int, c: float) -> None:
    """Multiply a unit's incoming weights and bias by c, and divide its outgoing weights by it."""
    here, behind = net.get_submodule(layer), net.get_submodule(graph.next_linear(net, layer))
    here.weight[unit] *= c
    here.bias[unit] *= c
    behind.weight.unflatten(1, (len(here.weight), -1))[:, unit] /= c
