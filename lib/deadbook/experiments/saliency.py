"""Section 2.1: what each weight would cost, and what pruning by the scores costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deadbook.experiments import common
from deadbook.experiments.common import Row, Tensors
from deadbook.settings import Saliency
from deadunits import derivatives, pruning, scorers
from deadunits.data import Batch

FEW = 0.5  # below this fraction the signed scores and random ones are compared, above it the absolute ones
SETS_EVERY = 5  # measurements: how often the weights are scored on the other two sets as well


def saliency(settings: Saliency, data_root: str = "") -> Iterator[Row]:
    """Section 2.1: train, and every so often score the weights of some layers and prune them for a moment.

    Tables: `weights` (a row a layer), `training` (losses in nats), `scores` (a row a weight and a set that it
    was scored on), `signals` (what Eq. 2.4 multiplies, a row a weight), `penalties` (loss after pruning minus
    loss before), `final` (test loss in nats, accuracy from 0 to 1).
    """
    images = common.load(settings, data_root)
    sets = {"probe": images.probe, "other": images.other, "train_probe": images.train_probe}
    net = common.build(settings, images)
    names = common.weights_of(net, settings.layers)
    every = settings.measure_every
    check_affordable(net, names, images.probe)
    yield from common.shapes(net, names)
    # not the stream that the initial weights came from: the draws would resemble them
    chance = torch.Generator().manual_seed(2**31 + settings.seed)
    for step in common.train(net, images, settings):
        if step.number % every:
            continue
        net.eval()
        now = {"step": step.number, "epoch": step.epoch}
        before = {name: common.mean_loss(net, batch) for name, batch in sets.items()}
        yield "training", now | {"minibatch": step.loss} | before

        for scored_on in sets if step.number // every % SETS_EVERY == 0 else ("probe",):
            found = saliencies(net, sets[scored_on], names)
            yield from scores_by_weight(found, now | {"set": scored_on})
            # on the other sets the scores of the thesis are compared, at the fraction where it compares them
            own = scored_on == "probe"
            draws = settings.draws if own else 0
            random = [scorers.random(net, (), names, generator=chance) for _ in range(draws)]
            for fraction in settings.fractions if own else [f for f in settings.fractions if f >= FEW]:
                for scorer, draw, scores in candidates(found, random, fraction):
                    masks = pruning.masks(scores, fraction)
                    for judged_on in ("probe", "other") if own else (scored_on,):
                        with pruning.pruned(net, masks):
                            penalty = common.rounded_number(
                                common.mean_loss(net, sets[judged_on]) - before[judged_on]
                            )
                        chosen = {"scorer": scorer, "draw": draw, "fraction": fraction}
                        where = {"scored_on": scored_on, "set": judged_on}
                        yield "penalties", now | chosen | where | {"penalty": penalty}
        if step.number // every % SETS_EVERY == 0:
            for layer in settings.layers:
                yield "signals", now | {"layer": layer} | error_signals(net, images.probe, layer)
    net.eval()
    yield (
        "final",
        {"test_loss": common.mean_loss(net, images.test), "accuracy": common.accuracy(net, images.test)},
    )


def saliencies(net: nn.Module, batch: Batch, names: Sequence[str]) -> dict[str, Tensors]:
    """The scores of Table 2.1, signed, for the removal of weights (`taylor2` with the thesis's λ = 1)."""
    first = scorers.taylor1(net, batch, names)
    rows = scorers.hessian(net, batch, names)
    scored = {
        "loss_change": scorers.loss_change(net, batch, names),
        "taylor1": first,
        "taylor2": {name: first[name] + rows[name] for name in names},
        "hessian": rows,
        "magnitude": scorers.magnitude(net, batch, names),
    }
    if all(derivatives.gauss_newton_is_exact(net, name) for name in names):
        scored["diagonal"] = scorers.diagonal(net, batch, names)
    return scored


def candidates(
    scored: Mapping[str, Tensors], random: Sequence[Tensors], fraction: float
) -> Iterator[tuple[str, int, Tensors]]:
    """(scorer, draw, scores) to prune by: signed and random ones, for a large fraction absolute ones too."""
    for scorer, scores in scored.items():
        yield scorer, 0, scores
        if fraction >= FEW and scorer != "magnitude":
            yield f"{scorer}_abs", 0, {name: score.abs() for name, score in scores.items()}
    for draw, scores in enumerate(random):
        yield "random", draw, scores


def scores_by_weight(scored: Mapping[str, Tensors], now: Mapping[str, Any]) -> Iterator[Row]:
    """A row a weight; `taylor2` is left out, being the sum of `taylor1` and `hessian`."""
    for name, weights in scored["magnitude"].items():
        columns = {scorer: scores[name].flatten() for scorer, scores in scored.items() if scorer != "taylor2"}
        where = {"layer": name.removesuffix(".weight"), "weight": torch.arange(weights.numel())}
        yield "scores", dict(now) | where | common.rounded_columns(columns)


def error_signals(net: nn.Module, batch: Batch, layer: str) -> dict[str, Tensor]:
    """For each weight the factors of its gradient (Eq. 2.4), as means over the images.

    gradient: the size of the mean gradient; by_image: the mean size of one image's; output: the mean size
    (sum over positions) of its unit's output gradient; silent: the share of images for which that is zero
    everywhere; input: the mean size of what the weight is multiplied with.
    """
    signals = derivatives.signals(net, batch, layer)
    units, fan_in = signals.gradients.shape[1:]
    by_unit = signals.outputs.abs().sum(2)  # (N, units, positions) -> (N, units)
    columns = {
        "gradient": signals.gradients.mean(0).abs().flatten(),
        "by_image": signals.gradients.abs().mean(0).flatten(),
        "output": by_unit.mean(0).repeat_interleave(fan_in),
        "silent": (by_unit == 0).float().mean(0).repeat_interleave(fan_in),
        "input": signals.inputs.abs().mean((0, 2)).repeat(units),
    }
    return {"weight": torch.arange(units * fan_in)} | common.rounded_columns(columns)


def check_affordable(net: nn.Module, names: Sequence[str], batch: Batch) -> None:
    """Raise `Invalid` if the exact scores would take too many forward passes at each measurement."""
    counts = {name.removesuffix(".weight"): net.get_parameter(name).numel() for name in names}
    common.check_passes("loss change", net, batch, counts, "choose smaller layers")
