"""Torch-Pruning with the scores of units, and with mean replacement, which it does not have.

Torch-Pruning (github.com/VainF/Torch-Pruning) traces a network, so it knows which channels have to go
together, in residual networks too. `UnitImportance` is an importance for its pruners. `prune` uses its graph
alone: exactly floor(f n) channels of a group go, and their means stay.

A group is a set of channels that can only be removed together: the *producers* of a channel are the layers
whose outputs are added up in it (one in a chain, several in a residual stream), its *consumers* are the
convolutions and linear layers that take it in. With m the mean of a channel as it enters a consumer (behind
batch norm, additions and nonlinearities; over images and positions) and W the consumer's weights for it, the
consumer's bias takes W m, summed over the kernel window: the network without the channel is the same as one
in which every consumer sees m in its place.

With zero padding a constant channel is no constant bias, since windows at the border see zeros. The bias then
takes the mean over positions of what a channel of m would give, which is the constant nearest to it (in
squares). `compaction` takes the value of the interior; in a residual network on small images most windows
are at the border.

The library is an extra: `pip install 'deadunits[torch-pruning]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from deadunits.compaction import copy_without_hooks
from deadunits.counterfactual import Loss, refuse_train_mode, sample_losses
from deadunits.counting import count
from deadunits.data import Batch
from deadunits.graph import LINEAR, linear_layers
from deadunits.mean_replacement import Batches
from deadunits.unit_scorers import UNIT_SCORERS, UnitScorer

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph
    from torch_pruning.dependency import Group

CONSTANTS = ("mean", "output", "zero")

_KINDS = (  # Torch-Pruning's names for what acts on each channel alone, besides layers
    *("CONV", "DEPTHWISE_CONV", "LINEAR", "BN", "PRELU"),
    *("ELEMENTWISE", "CONCAT", "SPLIT", "SLICE", "RESHAPE", "OUTPUT"),
)


class Pruned(NamedTuple):
    """What `prune` makes."""

    net: nn.Module  # without the channels
    keep: dict[str, Tensor]  # layer that lost outputs -> (units,) bool, True keeps; on the CPU


class UnitImportance:
    """A Torch-Pruning importance: the scores of this library, for the channels of a group.

    ```python
    importance = UnitImportance(net, batches, "mrs")
    pruner = torch_pruning.BasePruner(net, (x,), importance, pruning_ratio=0.5, ignored_layers=[net.fc])
    ```

    All layers are scored once, now. The score of a channel i is Σ_l s_l,i over the layers l that produce it:
    to first order the changes of the loss add up, so with MRS the sum bounds that of replacing all of them. A
    group with more producers scores higher. `combine="mean"` divides by their number: to compare groups by a
    layer, when a pruner ranks over the whole network; within a group the ranks are mostly the same.

    Args:
        net: the network that the pruner is given, not in training mode where that matters.
        batches: images and labels to score on.
        scorer: a name in `UNIT_SCORERS` or a function of that signature.
        combine: "sum" or "mean".
        layers: names of the Conv2d and Linear to score; all by default. Each must run.
        loss, generator: handed on to the scorer.

    Raises:
        ValueError: batch norm or dropout in training mode; an unknown `scorer` or `combine`; what the scorer
            raises; when called, a layer that has been pruned since it was scored.
    """

    def __init__(
        self,
        net: nn.Module,
        batches: Batches,
        scorer: str | UnitScorer = "mrs",
        *,
        combine: str = "sum",
        layers: Sequence[str] | None = None,
        loss: Loss = sample_losses,
        generator: torch.Generator | None = None,
    ):
        refuse_train_mode(net)
        if isinstance(scorer, str) and scorer not in UNIT_SCORERS:
            raise ValueError(f"unknown scorer {scorer!r}; there are: {', '.join(UNIT_SCORERS)}")
        if combine not in ("sum", "mean"):
            raise ValueError(f"combine must be 'sum' or 'mean', got {combine!r}")
        known = linear_layers(net)
        scorer = UNIT_SCORERS[scorer] if isinstance(scorer, str) else scorer
        layers = list(known) if layers is None else layers
        scores = scorer(net, batches, layers, loss=loss, generator=generator)
        self.combine = combine
        self._scores = {known[name]: one.detach().double().cpu() for name, one in scores.items()}

    def __call__(self, group: Group) -> Tensor | None:
        """Scores of the group's channels, (channels,) float64; None if no scored layer produces them."""
        library = _library()
        producing = (
            library.prune_conv_out_channels,
            library.prune_linear_out_channels,
            library.prune_depthwise_conv_out_channels,
        )
        place = {channel: i for i, channel in enumerate(group[0].idxs)}
        total, parts = torch.zeros(2, len(place), dtype=torch.float64)
        for item in group.items:
            layer = item.dep.target.module
            if item.dep.handler not in producing or layer not in self._scores:
                continue
            if len(self._scores[layer]) != len(layer.weight):
                raise ValueError(f"{layer} was pruned since it was scored: make a new UnitImportance")
            at = torch.tensor([place[root] for root in item.root_idxs])
            total.index_add_(0, at, self._scores[layer][item.idxs])
            parts.index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
        if not parts.any():
            return None
        return total / parts.clamp_min(1) if self.combine == "mean" else total


def prune(
    net: nn.Module,
    batches: Batches,
    fraction: float,
    scorer: str | UnitScorer = "mrs",
    *,
    constant: str = "mean",
    ignored: Sequence[str] = (),
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> Pruned:
    """A smaller copy of any network that Torch-Pruning can trace, constants in the place of what is gone.

    Of each group of n channels the floor(f n) with the lowest scores go (`counting.count`; of equal ones the
    first), at least one stays. Scores and means are those of the whole network: all are taken before anything
    is removed (but see `constant`). A consumer without bias gets one if it is to take what is not 0. The
    outputs of the network stay. `net` is left as it is; the copy has no hooks.

    Between producers and consumers everything must act on each channel alone (batch norm, nonlinearities,
    pooling, additions, products); a normalisation over channels is refused, a function such as softmax over
    channels is not seen.

    Args:
        net: the network, not in training mode where that matters.
        batches: images, all of one size, and labels; kept, since they are needed twice.
        fraction: f, from 0 to 1.
        scorer: a name in `UNIT_SCORERS` or a function of that signature; for groups of several layers see
            `UnitImportance`.
        constant: what the biases take. "mean" as above; "output" so much that the mean of each consumer's
            outputs, over images and positions, is what it was before, from the input on, with a pass over
            the batches for each. That makes up for what has changed before it, too, and for zero padding:
            better where many layers lose channels at once. "zero": nothing.
        ignored: names of layers whose outputs stay, with all that go together with them.
        loss, generator: handed on to the scorer.

    Raises:
        ImportError: Torch-Pruning is not installed.
        ValueError: batch norm or dropout in training mode; a fraction outside 0 to 1; an unknown scorer,
            `constant` or layer; no images; channels that go through layers that are not supported (grouped
            convolutions, normalisation over channels, attention, bare parameters): name them in `ignored`.
    """
    library = _library()
    refuse_train_mode(net)
    count(fraction, 1)  # raises for what is no fraction
    if constant not in CONSTANTS:
        raise ValueError(f"constant must be one of {', '.join(CONSTANTS)}, got {constant!r}")
    batches = [batches] if isinstance(batches, Batch) else list(batches)
    if not batches:
        raise ValueError("no images to score on")
    small = copy_without_hooks(net)
    names = {one: name for name, one in small.named_modules()}
    unknown = set(ignored) - set(names.values())
    if unknown:
        raise ValueError(f"no module {', '.join(map(repr, sorted(unknown)))} to ignore")
    x = batches[0].x[:1]
    with _modes_and_flags(small), torch.enable_grad():
        # called by a function of our own: the library would unpack x first, into images without a batch
        graph = library.DependencyGraph().build_dependency(small, x, lambda net, x: net(x), verbose=False)
        layers = [names[one] for one in graph.module2node if isinstance(one, LINEAR)]
        importance = UnitImportance(small, batches, scorer, layers=layers, loss=loss, generator=generator)
        ignoring = [one for one, name in names.items() if name in ignored]
        chosen = [_lowest(group, importance, fraction) for group in _groups(graph, ignoring, names)]
        chosen = [root for root in chosen if root[2]]
        with torch.no_grad():
            shape = small(x).shape
            lost = _lost([graph.get_pruning_group(*root) for root in chosen])
            if constant != "zero":
                (_put_means if constant == "mean" else _put_outputs)(small, batches, lost["in"])
            for root in chosen:  # one after the other: where channels are concatenated their places move
                graph.get_pruning_group(*root).prune()
            if small(x).shape != shape:
                raise ValueError("some outputs of the network would go: name their layers in `ignored`")
    if any(one.dim() == 4 and not one.is_contiguous() for one in net.parameters()):
        small.to(memory_format=torch.channels_last)  # the library does not keep it
    sizes = {name: len(layer.weight) for name, layer in linear_layers(net).items()}
    keep = {}
    for layer, at in lost["out"].items():
        keep[names[layer]] = torch.ones(sizes[names[layer]], dtype=torch.bool)
        keep[names[layer]][at] = False
    return Pruned(small, keep)


def _library() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError("Torch-Pruning is missing: pip install 'deadunits[torch-pruning]'") from error
    return torch_pruning


@contextmanager
def _modes_and_flags(net: nn.Module) -> Iterator[None]:
    """A graph needs gradients of all parameters. The library turns on eval mode, and thaws what it cuts."""
    modes = {one: one.training for one in net.modules()}
    flags = {name: one.requires_grad for name, one in net.named_parameters()}
    net.requires_grad_(True)
    yield
    for one, training in modes.items():
        one.training = training
    for name, one in net.named_parameters():
        # a new bias is frozen if the weight beside it is
        one.requires_grad_(flags[name] if name in flags else flags[name.removesuffix("bias") + "weight"])


def _groups(
    graph: DependencyGraph, ignoring: list[nn.Module], names: dict[nn.Module, str]
) -> Iterator[Group]:
    """All groups but those of the network's outputs; ValueError for one that cannot be pruned here."""
    kinds = {getattr(graph.ops.OPTYPE, kind) for kind in _KINDS}
    owners = [id(one) for module in names for one in module._parameters.values() if one is not None]
    for group in graph.get_all_groups(ignored_layers=ignoring, root_module_types=LINEAR):
        nodes = [(item.dep.target, _takes_in(item.dep.handler)) for item in group.items]
        if any(not node.outputs and not takes_in for node, takes_in in nodes):
            continue
        for node, _ in nodes:
            layer, right = node.module, node.type in kinds
            if isinstance(layer, (*LINEAR, nn.modules.conv._ConvNd)):
                groups = getattr(layer, "groups", 1)
                right = type(layer) in LINEAR and {"weight", "bias"} <= layer._parameters.keys()
                right = right and (groups == 1 or layer.in_channels == layer.out_channels == groups)
                right = right and owners.count(id(layer.weight)) == 1
            if not right:
                root = names[group[0].dep.target.module]
                raise ValueError(
                    f"the outputs of {root!r} go through {names.get(layer) or type(layer).__name__!r}, which "
                    "is not supported (a grouped, shared or no plain layer, or not of each channel alone): "
                    f"put {root!r} in `ignored`"
                )
        yield group


def _takes_in(handler: Callable[..., object]) -> bool:
    """Whether it cuts inputs and leaves outputs; where both go together the name is that of the outputs."""
    return handler.__name__ == "prune_in_channels"


def _lowest(
    group: Group, importance: UnitImportance, fraction: float
) -> tuple[nn.Module, Callable[..., object], list[int]]:
    """Where the group begins, how that is cut, and its floor(f n) channels of the lowest scores."""
    root, channels = group[0].dep, group[0].idxs
    gone = min(count(fraction, len(channels)), len(channels) - 1)
    order = importance(group).argsort(stable=True)[:gone].tolist()
    return root.target.module, root.handler, [channels[i] for i in order]


def _lost(groups: list[Group]) -> dict[str, dict[nn.Module, list[int]]]:
    """What layers lose: side ("in" or "out") -> layer -> channels or features."""
    lost: dict[str, dict[nn.Module, list[int]]] = {"in": {}, "out": {}}
    for group in groups:
        for dep, at in group.items:
            if isinstance(dep.target.module, LINEAR):
                side = lost["in" if _takes_in(dep.handler) else "out"]
                side.setdefault(dep.target.module, []).extend(at)
    return lost


def _means(
    net: nn.Module, batches: Sequence[Batch], layers: Iterable[nn.Module], *, entering: bool
) -> dict[nn.Module, tuple[Tensor, torch.Size]]:
    """Means of what enters or leaves layers, over images and positions, (channels,); its height and width.

    In the order in which the layers run.
    """
    seen: dict[nn.Module, tuple[Tensor, int, torch.Size]] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0] if entering else output  # (N, channels, H, W) or (N, ..., features)
        channel = 1 if isinstance(module, nn.Conv2d) else x.dim() - 1
        total = x.sum([dim for dim in range(x.dim()) if dim != channel], dtype=torch.float64)
        before, values, _ = seen.get(module, (0.0, 0, None))
        values += x.numel() // x.shape[channel]
        seen[module] = before + total, values, x.shape[2:] if isinstance(module, nn.Conv2d) else x.shape[:0]

    handles = [one.register_forward_hook(see) for one in layers]
    for batch in batches:
        net(batch.x)
    for handle in handles:  # only after success: the network is a copy of our own
        handle.remove()
    return {module: (total / values, size) for module, (total, values, size) in seen.items()}


def _put_means(net: nn.Module, batches: Sequence[Batch], gone: dict[nn.Module, list[int]]) -> None:
    """Each bias takes what its layer makes of the means of its inputs, as a mean over positions."""
    for consumer, (mean, size) in _means(net, batches, gone, entering=True).items():
        at = gone[consumer]
        x = consumer.weight.new_zeros(1, len(mean), *size)
        x[:, at] = mean[at].to(x).view(-1, *[1] * len(size))
        _set_bias(
            consumer, consumer.forward(x).reshape(len(consumer.weight), -1).mean(1)
        )  # the old one is in it


def _put_outputs(net: nn.Module, batches: Sequence[Batch], gone: dict[nn.Module, list[int]]) -> None:
    """Each bias takes what the mean of its layer's outputs lacks, from the input on."""
    before = _means(net, batches, gone, entering=False)
    for consumer, at in gone.items():
        consumer.weight[:, at] = 0  # as if they were gone
    for consumer, (mean, _) in before.items():  # a pass each: what comes later sees the biases put so far
        lacks = mean - _means(net, batches, [consumer], entering=False)[consumer][0]
        _set_bias(consumer, lacks.to(consumer.weight) + (0 if consumer.bias is None else consumer.bias))


def _set_bias(layer: nn.Conv2d | nn.Linear, bias: Tensor) -> None:
    if layer.bias is not None:
        layer.bias.copy_(bias)
    elif bias.any():
        layer.bias = nn.Parameter(bias)
