"""Chapter 1: how good the expansions of the loss are, and when a step along the gradient lowers it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from deadbook.experiments.common import Row, build, load, mean_loss, train
from deadbook.settings import Background
from deadunits import derivatives
from deadunits.data import Batch


def background(settings: Background, data_root: str = "") -> Iterator[Row]:
    """Chapter 1: train, and every so often walk away from the weights and see what the loss does.

    All on images trained on, in float64. Tables: `training` (loss in nats), `expansion` (for a step t Δw
    along the negative gradient, and towards 0 of all weights: the change of the loss, exact and expanded),
    `descent` (the change of the loss of a minibatch and of all the images, after a step of size t along the
    minibatch's negative gradient; a row a trial).
    """
    images = load(settings, data_root)
    net = build(settings, images)
    chance = torch.Generator().manual_seed(2**31 + settings.seed)  # not the stream that the weights came from
    for step in train(net, images, settings):
        if step.number % settings.measure_every and step.number != 1:
            continue
        twin = copy.deepcopy(net).double().eval()
        probe = Batch(images.train_probe.x.double(), images.train_probe.y)
        now = {"step": step.number, "epoch": step.epoch}
        before = mean_loss(twin, probe)
        yield "training", now | {"minibatch": step.loss, "train_probe": before}
        names = [name for name, _ in twin.named_parameters()]
        weights = {name: w.detach().clone() for name, w in twin.named_parameters()}
        gradient = derivatives.gradient(twin, probe, names)
        directions = {"gradient": gradient, "removal": weights}
        for direction, along in directions.items():
            for row in expansion(twin, probe, {name: -w for name, w in along.items()}, settings.sizes):
                yield "expansion", now | {"direction": direction} | row
        for trial in range(settings.trials):
            chosen = torch.randint(len(images.train.y), (settings.batch_size,), generator=chance)
            minibatch = Batch(images.train.x[chosen].double(), images.train.y[chosen])
            slope = derivatives.gradient(twin, minibatch, names)
            old = mean_loss(twin, minibatch)
            for size in settings.sizes:
                with moved(twin, slope, -size):
                    change = {
                        "minibatch": mean_loss(twin, minibatch) - old,
                        "all": mean_loss(twin, probe) - before,
                    }
                yield "descent", now | {"trial": trial, "size": size} | change


def expansion(
    net: nn.Module, batch: Batch, delta: Mapping[str, Tensor], sizes: Sequence[float]
) -> Iterator[dict[str, float]]:
    """L(w + t Δw) - L(w), exact, to first and to second order (Eq. 1.3 and 1.4), for each size t.

    t Δw·∇L and t Δw·∇L + t²/2 Δw·HΔw: one gradient and one Hessian-vector product serve all sizes.
    """
    before = mean_loss(net, batch)
    gradient, product = derivatives.gradient_and_product(net, batch, delta)
    slope = sum(float((delta[name] * gradient[name]).sum()) for name in delta)
    curvature = sum(float((delta[name] * product[name]).sum()) for name in delta)
    for size in sizes:
        with moved(net, delta, size):
            exact = mean_loss(net, batch) - before
        first = size * slope
        yield {"size": size, "exact": exact, "first": first, "second": first + size**2 / 2 * curvature}


@contextmanager
@torch.no_grad()
def moved(net: nn.Module, delta: Mapping[str, Tensor], size: float) -> Iterator[None]:
    """The network with its weights at w + t Δw; as it was, bit for bit, when the block ends."""
    before = {name: net.get_parameter(name).detach().clone() for name in delta}
    try:
        for name, along in delta.items():
            net.get_parameter(name).add_(along, alpha=size)
        yield
    finally:
        for name, values in before.items():
            net.get_parameter(name).copy_(values)


def propagation_errors(
    g: Callable[[Tensor], Tensor], spreads: Tensor, mean: float, weight: float
) -> dict[str, np.ndarray]:
    """What a removed unit leaves wrong in the next pre-activation, by what takes its place (Eq. 1.6).

    The unit gives h, normal with that mean and a standard deviation of `spreads`, (S,); the next layer gets
    W g(h). Root mean squares of the difference, (S,), over 1,001 quantiles of the normal distribution.
    """
    quantiles = torch.special.ndtri((torch.arange(1001, dtype=torch.float64) + 0.5) / 1001)
    h = mean + spreads.double()[:, None] * quantiles  # (S, 1001)
    sent = weight * g(h)
    center = h.mean(1, keepdim=True)
    places = {
        "bare removal": torch.zeros_like(center),
        "as printed, g(E[h] W)": g(center * weight),
        "mended, W g(E[h])": weight * g(center),
        "W E[g(h)]": sent.mean(1, keepdim=True),
    }
    return {name: (sent - place).square().mean(1).sqrt().numpy() for name, place in places.items()}
