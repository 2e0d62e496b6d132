"""Units pruned from any network, with constants in the place of what is gone.

`channels` says which units can only be removed together: all whose outputs are added up in a residual stream,
all of a group of a grouped convolution, those whose outputs are multiplied with each other. A group is what
the layers of such a stream have in common; of its n channels floor(f n) go.

With m the mean of a channel as it enters a consumer (a convolution or linear layer behind batch norm,
additions and nonlinearities; over images and positions) and W the consumer's weights for it, the consumer's
bias takes W m, summed over the kernel window: the network without the channel is the same as one in which
every consumer sees m in its place.

With zero padding a constant channel is no constant bias, since windows at the border see zeros. The bias then
takes the mean over positions of what a channel of m would give, which is the constant nearest to it (in
squares); so too for transposed convolutions, whose positions see different parts of the kernel. `compaction`
takes the value of the interior; in a residual network on small images most windows are at the border.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from deadunits.batches import Batches, Loss, batches_of, evaluating, forward, removing, sample_losses
from deadunits.channels import BATCH_NORM, LINEAR, OUTPUT, Channels, components, out_dim
from deadunits.compaction import copy_without_hooks, cut, join, set_bias
from deadunits.counting import count
from deadunits.data import Batch
from deadunits.unit_scorers import UnitScorer, scorer_of

CONSTANTS = ("mean", "output", "zero")


@dataclass(frozen=True)
class Pruned:
    """What `prune` makes; can be unpacked as `net, keep`."""

    net: nn.Module  #: without the channels
    keep: dict[str, Tensor]  #: layer that lost units -> (units,) bool, True keeps; on the CPU
    left: dict[str, str]  #: layer that was left as it is -> why, where that is not supported

    def __iter__(self) -> Iterator[nn.Module | dict[str, Tensor]]:
        return iter((self.net, self.keep))


def prune(
    net: nn.Module,
    batches: Batches,
    fraction: float,
    scorer: str | UnitScorer = "mrs",
    *,
    constant: str = "mean",
    ignored: Sequence[str] = (),
    skip_unsupported: bool = False,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> Pruned:
    """A smaller copy of any network, constants in the place of what is gone.

    Of each group of n channels the floor(f n) with the lowest scores go (`counting.count`; of equal ones the
    first), each layer keeps at least one. The score of a channel is the sum over the layers that produce it.
    Scores and means are those of the whole network: all are taken before anything is removed (but see
    `constant`). A consumer without bias gets one if it is to take what is not 0. The outputs of the network
    stay. `net` is left as it is; the copy has no hooks.

    Channels go where everything between producers and consumers acts on each alone (batch norm,
    nonlinearities, pooling, additions, products), where a grouped or depthwise convolution takes them, and,
    a whole group at a time, through group norm. They stay where layer norm or softmax runs over them, where
    attention cuts them into heads, and where the operation is not known. That the smaller network does what
    the network of full size does with the constants is checked with an image.

    Args:
        net: the network, not in training mode where that matters.
        batches: images, all of one size, and labels; kept, since they are needed twice.
        fraction: f, from 0 to 1.
        scorer: a name in `UNIT_SCORERS` or a function of that signature.
        constant: what the biases take. "mean" as above; "output" so much that the mean of each consumer's
            outputs, over images and positions, is what it was before, from the input on, with a pass over
            the batches for each. That makes up for what has changed before it, too, and for zero padding.
            "zero": nothing. With batch norm see also `recalibrate`.
        ignored: names of layers, or of modules with layers, whose outputs stay, with all that go together
            with them.
        skip_unsupported: leave the groups that cannot be pruned, instead of an error; `Pruned.left` lists
            their layers.
        loss, generator: handed on to the scorer.

    Raises:
        ValueError: batch norm or dropout in training mode; a fraction outside 0 to 1; an unknown scorer,
            `constant` or layer; no images; groups that cannot be pruned, all of them with the reasons.
    """
    count(fraction, 1)  # raises for what is no fraction
    if constant not in CONSTANTS:
        raise ValueError(f"constant must be one of {', '.join(CONSTANTS)}, got {constant!r}")
    scorer = scorer_of(scorer)
    batches = list(batches_of(net, batches))
    if not batches:
        raise ValueError("no images to score on")
    small = copy_without_hooks(net)
    unknown = set(ignored) - {name for name, _ in small.named_modules()}
    if unknown:
        raise ValueError(f"no module {', '.join(map(repr, sorted(unknown)))} to ignore")
    x = batches[0].x[:1]
    channels = Channels(small, x)
    layers = _ran(small, channels)
    groups, left = _groups(small, layers, channels, ignored)
    if left and not skip_unsupported:
        raise ValueError(_refusal(left))
    members = np.concatenate([*groups, np.zeros(0, int)])
    names = [name for name, layer in layers.items() if np.isin(layer.out, members).any()]
    scored = scorer(small, batches, names, loss=loss, generator=generator) if names else {}
    scores = _by_channel(layers, {name: scored[name].detach().double().cpu() for name in names})
    gone = _lowest(groups, channels, scores, fraction)
    _warn(small, layers, gone, fraction)
    with torch.no_grad():
        consumers = {layer.module: mask for layer in layers.values() if (mask := layer.consumes(gone)).any()}
        _put_constants(small, batches, consumers, constant)
        _cut(small, x, channels, gone)
    keep = {name: ~mask for name, layer in layers.items() if (mask := layer.produces(gone)).any()}
    return Pruned(small, keep, {name: why for names, why in left for name in names})


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Batches) -> None:
    """Estimate the statistics of batch norm again, in place, from all values of all images given.

    In one pass each batch norm normalises by the batch, as in training, and sums up what enters it: the new
    running mean is Σ x / n, the new running variance Σ (x - mean)² / (n - 1), over images and positions of
    all batches together, so that their sizes do not matter. Modes, momenta and all else are as before;
    dropout does not act.

    Raises:
        ValueError: no images; no batch norm with running statistics; one value a channel, as in
            `nn.BatchNorm2d`; a batch norm that did not run keeps what it has.
    """
    norms = [m for m in net.modules() if isinstance(m, BATCH_NORM) and m.running_mean is not None]
    if not norms:
        raise ValueError(f"{type(net).__name__} has no batch norm with running statistics")
    sums: dict[nn.Module, tuple[int, Tensor, Tensor]] = {}

    def see(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].transpose(0, 1).flatten(1).double()  # (channels, values)
        before = sums.get(norm, (0, 0.0, 0.0))
        sums[norm] = before[0] + x.shape[1], before[1] + x.sum(1), before[2] + x.square().sum(1)
        return F.batch_norm(inputs[0], None, None, norm.weight, norm.bias, True, 0.0, norm.eps)

    with evaluating(net), removing([norm.register_forward_hook(see) for norm in norms]):
        for batch in batches_of(net, batches):
            forward(net, batch.x)
    if not sums:
        raise ValueError("no images to estimate the statistics from")
    for norm, (n, first, second) in sums.items():
        mean = first / n
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((second - n * mean.square()).clamp_min(0) / (n - 1))


@dataclass(frozen=True)
class _Layer:
    """A layer that ran, and the channels along its weight."""

    module: nn.Module
    out: np.ndarray  # (units,)
    inputs: np.ndarray  # (inputs,); none where inputs and outputs go together

    def produces(self, gone: np.ndarray) -> Tensor:
        return torch.from_numpy(np.isin(self.out, gone))

    def consumes(self, gone: np.ndarray) -> Tensor:
        return torch.from_numpy(np.isin(self.inputs, gone))

    @property
    def dense(self) -> bool:
        return getattr(self.module, "groups", 1) == 1


def _ran(net: nn.Module, channels: Channels) -> dict[str, _Layer]:
    """Layers with units that ran, by name."""
    layers = {}
    for name, module in net.named_modules():
        weight, dim = join(name, "weight"), out_dim(module)
        if isinstance(module, LINEAR) and (weight, dim) in channels.of:
            inputs = channels.of.get((weight, 1 - dim), np.zeros(0, int))
            layer = _Layer(module, channels.of[weight, dim], inputs)
            layers[name] = layer if layer.dense else _Layer(module, layer.out, inputs[:0])
    return layers


def _groups(
    net: nn.Module, layers: Mapping[str, _Layer], channels: Channels, ignored: Sequence[str]
) -> tuple[list[np.ndarray], list[tuple[list[str], str]]]:
    """Channels by group, in order; the layers of each group that cannot be pruned, and why."""
    inside = tuple(f"{name}." for name in ignored)
    stays = dict(channels.stays)
    for name, layer in layers.items():
        if f"{name}.".startswith(inside):
            stays |= dict.fromkeys(layer.out.tolist(), OUTPUT)
    dense = [layer.out for layer in layers.values() if layer.dense]
    size = 1 + max((out.max() for out in dense), default=0)
    of = components(size, [(out, out[:1].repeat(len(out))) for out in dense])
    groups, left = [], []
    for name, module in net.named_modules():
        made = isinstance(module, LINEAR) and module._parameters.get("weight") is None
        if made and not f"{name}.".startswith(inside):
            left.append(([name], f"{name!r} ({type(module).__name__}), whose weight is made from others"))
    for group in sorted({int(of[out[0]]) for out in dense}):
        members = np.unique(np.concatenate([out for out in dense if of[out[0]] == group]))
        reasons = {stays[channel] for channel in members.tolist() if channel in stays}
        if not reasons:
            groups.append(members)
        elif OUTPUT not in reasons:
            names = [name for name, layer in layers.items() if layer.dense and of[layer.out[0]] == group]
            left.append((names, min(reasons)))
    return groups, left


def _refusal(left: list[tuple[list[str], str]]) -> str:
    groups = []
    for names, why in left:
        others = f" and of {len(names) - 1} layers with it" if names[1:] else ""
        groups.append(f"the outputs of {names[0]!r}{others} go through {why}")
    return (
        f"{'; '.join(groups)}, which is not supported (a shared or no plain layer, or not of each channel "
        f"alone): put {', '.join(repr(names[0]) for names, _ in left)} in `ignored`, or set "
        "skip_unsupported=True to prune the rest"
    )


def _by_channel(layers: Mapping[str, _Layer], scores: Mapping[str, Tensor]) -> dict[int, float]:
    """The score of each channel: the sum over the layers that produce it."""
    total: dict[int, float] = defaultdict(float)
    for name, values in scores.items():
        check_scores(name, layers[name].module, values)
        for channel, score in zip(layers[name].out.tolist(), values.tolist(), strict=True):
            total[channel] += score
    return total


def check_scores(name: str, layer: nn.Module, scores: Tensor) -> None:
    """Raise ValueError for scores that are not one for each unit of a layer."""
    units = layer.weight.shape[out_dim(layer)]
    if scores.shape != (units,):
        got = tuple(scores.shape)
        raise ValueError(f"the scores of {name!r} must be ({units},), a score a unit; got {got}")


def _lowest(
    groups: Iterable[np.ndarray], channels: Channels, scores: Mapping[int, float], fraction: float
) -> np.ndarray:
    """floor(f n) channels of each group, those of the lowest scores, so that each layer keeps one."""
    places = defaultdict(list)  # channel -> where it is
    for place, ids in channels.of.items():
        for channel in np.unique(ids).tolist():
            places[channel].append(place)
    remaining = Counter(place for of in places.values() for place in of)
    gone = []
    for group in groups:
        order = sorted(group.tolist(), key=lambda channel: scores[channel])  # stable: of equal ones the first
        wanted = len(gone) + count(fraction, len(group))
        for channel in order:
            if len(gone) == wanted:
                break
            if all(remaining[place] > 1 for place in places[channel]):
                remaining.subtract(places[channel])
                gone.append(channel)
    return np.array(gone, int)


def _warn(net: nn.Module, layers: Mapping[str, _Layer], gone: np.ndarray, fraction: float) -> None:
    if not len(gone):
        warnings.warn(f"nothing was pruned: no group loses floor({fraction} n) channels", stacklevel=3)
        return
    idle = [name for name, module in net.named_modules() if type(module) in LINEAR and name not in layers]
    idle = [name for name in idle if net.get_submodule(name).weight.numel() > 1]
    if idle:
        effect = "left as large as before, so their inputs may not fit any more"
        warnings.warn(f"{', '.join(idle)} did not run: {effect}", stacklevel=3)


def _put_constants(
    net: nn.Module, batches: Sequence[Batch], consumers: Mapping[nn.Module, Tensor], constant: str
) -> None:
    """The biases of the consumers take the constants, and the weights from the channels become zero."""
    before = _means(net, batches, consumers, entering=constant == "mean") if constant != "zero" else {}
    missed = [str(layer) for layer in consumers if constant != "zero" and layer not in before]
    if missed:
        way_out = "must be called as a layer, not by its weight: put it in `ignored`"
        raise ValueError(f"{', '.join(missed)} {way_out}")
    if constant == "mean":  # what the layer makes of the means of its inputs, as a mean over positions
        for layer, (mean, size) in before.items():
            x = layer.weight.new_zeros(1, len(mean), *size)
            at = consumers[layer]
            x[:, at] = mean[at].to(x).view(-1, *[1] * len(size))
            out = layer.forward(x)  # the old bias is in it
            set_bias(layer, out.reshape(out.shape[-1] if not size else out.shape[1], -1).mean(1))
    for layer, at in consumers.items():
        layer.weight.movedim(1 - out_dim(layer), 0)[at.to(layer.weight.device)] = 0
    if constant == "output":  # what the mean of the layer's outputs lacks, from the input on
        for layer, (mean, _) in before.items():  # a pass each: what comes later sees the biases put so far
            lacks = mean - _means(net, batches, [layer], entering=False)[layer][0]
            set_bias(layer, lacks.to(layer.weight) + (0 if layer.bias is None else layer.bias))


def _means(
    net: nn.Module, batches: Sequence[Batch], layers: Iterable[nn.Module], *, entering: bool
) -> dict[nn.Module, tuple[Tensor, torch.Size]]:
    """Means of what enters or leaves layers, over images and positions, (channels,); its spatial size.

    In the order in which the layers run.
    """
    seen: dict[nn.Module, tuple[Tensor, int, torch.Size]] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0] if entering else output  # (N, channels, ...) or (N, ..., features)
        channel = x.dim() - 1 if isinstance(module, nn.Linear) else 1
        total = x.sum([dim for dim in range(x.dim()) if dim != channel], dtype=torch.float64)
        before, values, _ = seen.get(module, (0.0, 0, None))
        values += x.numel() // x.shape[channel]
        seen[module] = before + total, values, x.shape[channel + 1 :]

    with removing([module.register_forward_hook(see) for module in layers]):
        for batch in batches:
            forward(net, batch.x)
    return {module: (total / values, size) for module, (total, values, size) in seen.items()}


def _cut(net: nn.Module, x: Tensor, channels: Channels, gone: np.ndarray) -> None:
    """Take the channels out of all tensors, and check that the network does what it did."""
    before = [out for out in tree_leaves(net(x)) if isinstance(out, Tensor)]
    of = dict(channels.of)
    for name, module in net.named_modules():  # a new bias has the channels of its weight
        weight = join(name, "weight"), out_dim(module)
        if isinstance(module, LINEAR) and module.bias is not None and weight in of:
            of.setdefault((join(name, "bias"), 0), of[weight])
    kept = {place: np.flatnonzero(~np.isin(ids, gone)) for place, ids in of.items()}
    cut(net, {place: torch.from_numpy(at) for place, at in kept.items() if len(at) < len(of[place])})
    after = [out for out in tree_leaves(net(x)) if isinstance(out, Tensor)]
    for whole, smaller in zip(before, after, strict=True):
        bound = torch.finfo(whole.dtype).eps ** 0.5 * whole.abs().max()
        if whole.shape != smaller.shape or not (whole - smaller).abs().max() <= bound:
            why = "what was traced from an image is not all of its structure"
            what = "the smaller network gives other outputs than the whole one with the constants"
            raise ValueError(f"{what}, so {why}: put the layers in doubt in `ignored`")
