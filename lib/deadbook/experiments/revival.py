"""Open question 11: whether a dead unit can be revived."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import Revival
from deadunits import graph, unit_scorers

ARMS = {"wait": "", "new incoming": "in", "ReDo": "in, zero", "new outgoing": "out"}


def revival(settings: Revival, data_root: str = "") -> Iterator[Row]:
    """Train for some epochs; from there, a copy an arm goes on, with something done to the dead units.

    Dead is an MRP on `probe` below a share of the layer's mean. All arms go on with the same minibatches.
    Table `revived`: arm, step and epoch since then, unit, set, MRP in nats, and its layer's mean.
    """
    images = common.load(settings, data_root)
    sets = {"probe": images.probe, "other": images.other}
    net = common.build(settings, images)
    (layer,) = settings.layers
    common.weights_of(net, [layer])
    steps = common.steps_an_epoch(images, settings)
    for step in common.train(net, images, settings):
        if step.number == settings.epoch * steps:
            break
    net.eval()
    mrp = unit_scorers.mrp(net, images.probe, [layer])[layer]
    dead = (mrp < settings.below * mrp.mean()).nonzero().flatten()
    for arm, done in ARMS.items() if len(dead) else ():
        twin = copy.deepcopy(net)
        revive(twin, layer, dead, done, torch.Generator().manual_seed(2**31 + settings.seed))
        for step in common.train(twin, images, settings):
            if step.number % settings.measure_every == 0:
                twin.eval()
                for on, batch in sets.items():
                    mrp = unit_scorers.mrp(twin, batch, [layer])[layer]
                    about = {"step": step.number, "epoch": step.epoch, "arm": arm, "unit": dead, "set": on}
                    yield "revived", about | {"mrp": mrp[dead], "mean_mrp": mrp.mean().item()}
            if step.number == (settings.epochs - settings.epoch) * steps:
                break


@torch.no_grad()
def revive(net: nn.Module, layer: str, units: Tensor, done: str, generator: torch.Generator) -> None:
    """Draw new incoming or outgoing weights of units, as at the beginning; or set the outgoing ones to 0."""
    here, behind = net.get_submodule(layer), net.get_submodule(graph.next_linear(net, layer))
    outgoing = behind.weight.unflatten(1, (len(here.weight), -1))  # a view

    def draw(shape: torch.Size, fan_in: int) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) / fan_in**0.5

    if "in" in done:
        fan_in = here.weight[0].numel()
        here.weight[units] = draw(here.weight[units].shape, fan_in)
        here.bias[units] = draw(here.bias[units].shape, fan_in)
    if "out" in done:
        outgoing[:, units] = draw(outgoing[:, units].shape, behind.weight[0].numel())
    if "zero" in done:
        outgoing[:, units] = 0
