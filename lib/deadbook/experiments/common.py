"""What the experiments share: the layers that they look at, losses and accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deadbook import datasets, networks
from deadbook.settings import Experiment, Training
from deadunits import Invalid, compaction, graph, incremental, training
from deadunits.batches import sample_losses
from deadunits.data import Batch, Images
from deadunits.training import Step

Row = tuple[str, dict[str, Any]]
Tensors = dict[str, Tensor]

CHUNK = 250  # images at once: what stays in the processor's cache
BITS = 13  # of mantissa, in the tables of scores and penalties
SLOW = 2000  # forward passes a measurement, at most, for exact scores that have no fast way


def load(settings: Experiment, data_root: str) -> Images:
    """The images that an experiment uses."""
    return datasets.load(root=data_root, pixels=settings.pixels, **datasets.chosen(vars(settings)))


def build(settings: Experiment, images: Images, **more: Any) -> nn.Module:
    """Its network for these images; `more` as for `networks.build`."""
    chosen = {"activation": settings.activation, "seed": settings.seed}
    return networks.build(settings.network, images.shape, images.classes, **chosen, **more)


def train(net: nn.Module, images: Images, settings: Training, **more: Any) -> Iterator[Step]:
    """Its training, as a generator of steps; `more` as for `training.sgd`."""
    how = {"epochs": settings.epochs, "lr": settings.lr, "batch_size": settings.batch_size}
    return training.sgd(net, images.train, **how, seed=settings.seed, **more)


def weights_of(net: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the weights of layers.

    Raises:
        Invalid: the network has no such linear or convolutional layer.
    """
    linear = graph.linear_layers(net)
    known = [name for name, layer in linear.items() if getattr(layer, "groups", 1) == 1]
    for layer in layers:
        if layer not in known:
            raise Invalid(
                f"the network has no linear or convolutional layer {layer!r}; it has {', '.join(known)}"
            )
    return [f"{layer}.weight" for layer in layers]


def check_passes(score: str, net: nn.Module, batch: Batch, counts: Mapping[str, int], instead: str) -> None:
    """Raise `Invalid` if exact scores, counted by layer, would take too many forward passes.

    Only those count that have no faster way, as in networks that cannot be traced. `net` is set to eval.
    """
    if not counts:
        return
    ways = incremental.coverage(net.eval(), batch.x[:2])
    slow = {layer: count for layer, count in counts.items() if ways[layer] not in ("fast", "partly")}
    if (total := sum(slow.values())) > SLOW:
        reasons = "; ".join(dict.fromkeys(ways[layer] for layer in slow))
        raise Invalid(
            f"the exact {score} of {', '.join(slow)} takes {total:,} forward passes at each measurement, "
            f"{SLOW:,} are allowed: {instead} ({reasons})"
        )


def final_weights(net: nn.Module, names: Sequence[str]) -> Iterator[Row]:
    """A row a weight."""
    for name in names:
        values = net.get_parameter(name).detach().flatten()
        where = {"layer": name.removesuffix(".weight"), "weight": torch.arange(len(values))}
        yield "values", where | {"value": values}


def snapshot(net: nn.Module, step: Step) -> Iterator[Row]:
    """All weights, biases and statistics of the network, a row a number."""
    for name, values in net.state_dict().items():
        if values.is_floating_point():
            flat = values.flatten()
            yield (
                "snapshots",
                {
                    "step": step.number,
                    "epoch": step.epoch,
                    "name": name,
                    "index": torch.arange(len(flat)),
                    "value": flat,
                },
            )


def is_snapshot(step: Step, steps: int) -> bool:
    """Whether the weights are kept after this step, of so many an epoch: the 50th, and the end of epoch 1."""
    return step.number in (50, steps)


def steps_an_epoch(images: Images, settings: Training) -> int:
    """Minibatches, the last of which may be smaller."""
    return -(-len(images.train.y) // settings.batch_size)


def all_units(net: nn.Module, layers: Sequence[str]) -> Tensors:
    """Masks that keep all units; raise `ValueError` if the units of this network cannot be removed."""
    keep = {layer: torch.ones(len(net.get_submodule(layer).weight), dtype=torch.bool) for layer in layers}
    compaction.compact(net, keep)
    return keep


def shapes(net: nn.Module, names: Sequence[str]) -> Iterator[Row]:
    """A row a layer: units, and the shape of a unit's weights."""
    for name in names:
        units, *fan_in = net.get_parameter(name).shape
        channels, height, width = (*fan_in, 1, 1)[:3]
        shape = {"units": units, "channels": channels, "height": height, "width": width}
        yield "weights", {"layer": name.removesuffix(".weight")} | shape


@torch.no_grad()
def mean_loss(net: nn.Module, batch: Batch) -> float:
    """Mean cross entropy in nats."""
    parts = zip(batch.x.split(CHUNK), batch.y.split(CHUNK), strict=True)
    return torch.cat([sample_losses(net(x), y) for x, y in parts]).double().mean().item()


@torch.no_grad()
def accuracy(net: nn.Module, batch: Batch) -> float:
    """Share of images whose label gets the highest logit."""
    parts = zip(batch.x.split(CHUNK), batch.y.split(CHUNK), strict=True)
    return torch.cat([net(x).argmax(1) == y for x, y in parts]).double().mean().item()


def judged(net: nn.Module, batch: Batch, when: str) -> dict[str, float]:
    """Loss in nats and accuracy "before" or "after" something."""
    return {when: mean_loss(net, batch), f"{when}_accuracy": accuracy(net, batch)}


def rounded(values: Tensor, bits: int = BITS) -> Tensor:
    """To float32 with so many bits of mantissa (13: to a relative 6e-5), so that large tables stay small."""
    drop = 23 - bits
    near = (values.float().view(torch.int32) + (1 << (drop - 1))) >> drop << drop
    return torch.where(values.isfinite(), near.view(torch.float32), values.float())


def rounded_columns(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`rounded`, a column each."""
    return {name: rounded(values) for name, values in columns.items()}


def rounded_number(value: float) -> float:
    """`rounded`, of one number."""
    return rounded(torch.tensor([value])).item()
