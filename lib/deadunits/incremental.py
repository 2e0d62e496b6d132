"""Exact losses for changed units of whatever `torch.fx` traces: only what lies behind them runs again.

The one question behind every exact score: for each image of a batch, what would the loss be if one unit gave
something else? Removing a weight, removing a bias and replacing a unit by a constant are all answers to
"something else", so `Incremental.losses` serves them all.

What each operation of the network gives is computed once a batch. For a changed unit, operations that act on
each channel alone see that channel (`Channels`); the first linear maps take W[:, unit] times its change, and
what follows runs in full. Several changed units are stacked along the batch. An operation without a rule here
runs in full too, so that the answer is exact wherever the images of a batch do not see each other.

In a chain of which only linear layers are left behind the next linear map, the images lie innermost in
memory: every step then runs over a thousand images in vectors, however small the channels are. Shapes are
PyTorch's throughout.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.nn.utils import fuse_conv_bn_weights

from deadunits import graph
from deadunits.batches import Loss, forward, mapped, removing, sample_wise, tensors
from deadunits.data import Batch
from deadunits.graph import Trace

FLOATS = 1 << 22  #: of one operation's result for all candidates of a stack, at most (but for one candidate)
KEPT = 1 << 27  #: of all operations' results for the images of a snapshot, at most (but for one image)
_CACHED = 1 << 20  # as FLOATS, with the images innermost: what stays in the processor's cache
_DENSE = 1 << 22  # elements of a convolution as a matrix, at most

_POOLS = (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
_UNARY = {
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardswish),
    *(F.hardsigmoid, F.hardtanh, F.tanh, F.sigmoid, F.logsigmoid, F.softsign, F.dropout),
    *(torch.relu, torch.relu_, torch.tanh, torch.sigmoid, torch.exp, torch.abs, torch.square, torch.clamp),
    *("relu", "relu_", "tanh", "sigmoid", "exp", "abs", "square", "clamp", "clone", "contiguous", "detach"),
    *("float", "double", "neg", operator.neg, torch.neg),
}
_BINARY = {  # each with the one that changes nothing in place
    **{f: f for f in (operator.add, operator.sub, operator.mul, operator.truediv)},
    **{operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul},
    **{f: f for f in (torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum)},
    **{"add": torch.add, "add_": torch.add, "sub": torch.sub, "mul": torch.mul, "mul_": torch.mul},
    "div": torch.div,
}
_RESHAPES = {torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze}
_RESHAPES |= {"flatten", "reshape", "view", "squeeze", "unsqueeze"}
_MOVES = {torch.permute, torch.transpose, torch.mean, torch.sum, "permute", "transpose", "mean", "sum"}


Change = Callable[[Tensor, int], Tensor]  #: of a tensor along the dimension of its images


class Channels(NamedTuple):
    """A result of which K candidates change w channels each, the others being as they were."""

    value: Tensor  #: those channels, (N, K w, ...); 1 in the place of N where all images have the same
    index: Tensor  #: which they are, (K, w)
    axis: int  #: dimension of the channels

    def apart(self) -> Tensor:
        """(N, K w, ...) -> (K, w, N, ...)."""
        parts = self.value.unflatten(self.axis, self.index.shape)
        return parts.movedim((self.axis, self.axis + 1), (0, 1))

    def of(self, x: Tensor) -> Tensor:
        """The same channels of another tensor, (N, channels, ...) -> (N, K w, ...), in its memory layout."""
        index = self.index.flatten()
        if self.axis != 1 or not _innermost(x):
            return x.index_select(self.axis, index)
        return x.movedim((0, 1), (-1, -2)).index_select(-2, index).movedim((-1, -2), (0, 1))


class Map:
    """A linear map, with the batch norm behind it if nothing else takes its result."""

    def __init__(self, node: fx.Node, module: nn.Linear | nn.Conv2d, norm: nn.Module | None):
        self.module = module
        self.out = next(iter(node.users)) if norm is not None else node  #: whose value it gives
        self.conv = isinstance(module, nn.Conv2d)
        padding = getattr(module, "padding", ""), getattr(module, "padding_mode", "")
        self._by_zeros = isinstance(padding[0], tuple) and padding[1] == "zeros"
        self.weight, self.bias = module.weight.detach(), module.bias
        if norm is not None:
            of = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            self.weight, self.bias = fuse_conv_bn_weights(self.weight, self.bias, *of)
        if self.conv:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self._matrices: dict[torch.Size, Tensor] = {}
        self._pixels: dict[torch.Size, Tensor] = {}
        self._bands: dict[tuple[int, int], Tensor] = {}

    def full(self, x: Tensor) -> Tensor:
        """(M, channels, ...) -> (M, units, ...)."""
        if x.dim() == 2 and _innermost(x):
            bias = self.weight.new_zeros(1) if self.bias is None else self.bias
            return torch.addmm(bias[:, None], self.weight, x.T).T
        if not self.conv:
            return F.linear(x, self.weight, self.bias)
        matrix, shape = self._matrix(x.shape[1:])
        if matrix is None and self.module.groups == len(self.weight) == x.shape[1] and x[0, 0].numel() <= 4:
            return self._by_pixel(x)
        if matrix is None:
            return _convolve(self.module, x, self.weight, self.bias, self.module.groups)
        bias = None if self.bias is None else self.bias.repeat_interleave(math.prod(shape[1:]))
        out = x.flatten(1) @ matrix if bias is None else torch.addmm(bias, x.flatten(1), matrix)
        return out.unflatten(1, shape)

    def _by_pixel(self, x: Tensor) -> Tensor:
        """A depthwise convolution of images of at most 4 pixels, whose windows are mostly padding."""
        shape, pixels = x.shape[1:], x.flatten(2)  # (M, channels, H W)
        if shape not in self._pixels:
            basis = torch.eye(pixels.shape[2], dtype=x.dtype, device=x.device).view(-1, 1, *shape[1:])
            images = basis.expand(-1, *shape)
            self._pixels[shape] = _convolve(self.module, images, self.weight, None, self.module.groups)
        taps = self._pixels[shape].flatten(2)  # (H W, channels, H' W')
        out = pixels[:, :, :1] * taps[0]
        for i in range(1, len(taps)):
            out.addcmul_(pixels[:, :, i : i + 1], taps[i])
        out = out if self.bias is None else out.add_(self.bias[:, None])
        return out.unflatten(2, self._pixels[shape].shape[2:])

    def change(self, index: Tensor, delta: Tensor, before: Tensor) -> Tensor:
        """What was there and W[:, index] Δ: (K, w), (K, w, N, ...), (N, units, ...) -> (K, N, units, ...)."""
        matrix, shape = self._matrix((self.module.in_channels, *delta.shape[3:])) if self.conv else (None, ())
        if before.dim() == 2 and _innermost(before) and len(index.unique(dim=0)) == 1:  # many images at once
            columns = delta.movedim(1, 0).flatten(1)  # (w, K N)
            out = (self.weight[:, index[0]] @ columns).unflatten(1, (len(index), -1))
            return out.add_(before.T[:, None]).permute(1, 2, 0)
        if not self.conv:
            columns, rows = delta.movedim(1, -1), self.weight.T[index]  # (K, N, ..., w), (K, w, units)
        elif matrix is not None:
            places = matrix.unflatten(0, (self.module.in_channels, -1))  # (channels, H W, units H' W')
            columns, rows = delta.movedim(1, 2).flatten(2), places[index].flatten(1, 2)
            before = before.flatten(1)
        elif index.shape[1] == 1 and _innermost(before) and self._by_zeros:
            return self._by_rows(index, delta, before)
        else:
            columns, rows = self._windows(delta), self.weight[:, index]  # (units, K, w, kH, kW)
            rows = rows.flatten(2).permute(1, 2, 0)  # (K, w kH kW, units)
            before = before.permute(0, 2, 3, 1)
        k, width = len(index), rows.shape[2]
        base = before.reshape(1, -1, width)
        out = torch.baddbmm(base, columns.reshape(k, -1, columns.shape[-1]), rows)
        out = out.view(k, *before.shape)
        if not self.conv:
            return out
        return out.unflatten(2, shape) if matrix is not None else out.permute(0, 1, 4, 2, 3)

    def _by_rows(self, index: Tensor, delta: Tensor, before: Tensor) -> Tensor:
        """The same, the images innermost: all columns of an output row are a matrix times some input rows."""
        (top, side), (stride, _), (gap, _) = self.module.padding, self.module.stride, self.module.dilation
        x = F.pad(delta.squeeze(1).permute(2, 3, 0, 1), (0, 0, 0, 0, side, side, top, top))  # (H, W, K, N)
        before = before.permute(2, 3, 1, 0)  # (H', W', units, N)
        out = x.new_empty(*before.shape[:3], *x.shape[2:])  # (H', W', units, K, N)
        reach = gap * (self.module.kernel_size[0] - 1) + 1
        for k, unit in enumerate(index[:, 0].tolist()):
            matrix = self._band(unit, reach, x.shape[1])
            for i, row in enumerate(before):
                seen = x[i * stride : i * stride + reach, :, k].flatten(0, 1)  # (reach W, N)
                torch.addmm(row.flatten(0, 1), matrix, seen, out=out[i, :, :, k].flatten(0, 1))
        return out.permute(3, 4, 2, 0, 1)

    def _band(self, unit: int, reach: int, columns: int) -> Tensor:
        """What an output row takes of so many input rows of one channel: (W' units, reach W)."""
        if (unit, columns) not in self._bands:
            conv, size = self.module, reach * columns
            basis = torch.eye(size, dtype=self.weight.dtype, device=self.weight.device)
            weight, stride = self.weight[:, unit : unit + 1], (1, conv.stride[1])
            band = F.conv2d(basis.view(-1, 1, reach, columns), weight, None, stride, 0, conv.dilation)
            self._bands[unit, columns] = band.squeeze(2).permute(2, 1, 0).flatten(0, 1)
        return self._bands[unit, columns]

    def grouped(self, index: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The change of the channels of a convolution's group, and which they are: for one channel of each.

        (K, 1), (N, K, H, W) -> (N, K s, H', W'), (K, s), for groups of s units.
        """
        size, width = len(self.module.weight) // self.module.groups, self.module.weight.shape[1]
        first = index // width * size  # (K, 1)
        units = first + torch.arange(size, device=index.device)  # (K, s)
        weight = self.module.weight[units, index % width]  # (K, s, kH, kW)
        return _convolve(self.module, delta, weight.flatten(0, 1).unsqueeze(1), None, len(index)), units

    def _windows(self, delta: Tensor) -> Tensor:
        """What each output position sees of the channels: (K, w, N, H, W) -> (K, N, H', W', w kH kW)."""
        conv, shape = self.module, delta.shape[:3]
        x = graph.padded(conv, delta.flatten(0, 2).unsqueeze(1)).squeeze(1)  # (K w N, H, W)
        sizes = zip((1, 2), conv.kernel_size, conv.dilation, conv.stride, strict=True)
        for dim, size, dilation, stride in sizes:
            x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
        x = x.unflatten(0, shape)  # (K, w, N, H', W', kH, kW)
        return x.permute(0, 2, 3, 4, 1, 5, 6).flatten(4)

    def _matrix(self, shape: Sequence[int]) -> tuple[Tensor | None, torch.Size]:
        """A convolution of images no larger than its kernel as a matrix, (channels H W, units H' W').

        Their windows are mostly padding. None for all others; and the shape of an output, (units, H', W').
        """
        conv, shape = self.module, torch.Size(shape)
        if shape not in self._matrices:
            small = len(shape) == 3 and math.prod(shape[1:]) <= math.prod(conv.kernel_size)
            self._matrices[shape] = (None, shape)
            if small and conv.groups == 1 and shape.numel() * len(self.weight) * shape[1:].numel() <= _DENSE:
                basis = torch.eye(shape.numel(), dtype=self.weight.dtype, device=self.weight.device)
                images = _convolve(conv, basis.unflatten(1, shape), self.weight, None, 1)
                self._matrices[shape] = (images.flatten(1), images.shape[1:])
        return self._matrices[shape]


class Snapshot:
    """What each operation of a network gives for a batch; shared by its layers.

    Args:
        trace: the network.
        batch: its images and labels.
        loss: (outputs, labels) -> (N,).
        maps: of the same network, from another batch.
    """

    @torch.no_grad()
    def __init__(self, trace: Trace, batch: Batch, loss: Loss, maps: dict[fx.Node, Map] | None = None):
        self.trace, self.loss, self.y = trace, sample_wise(loss), batch.y
        self.maps = _maps(trace) if maps is None else maps
        n = len(batch.y)
        x = mapped(_channels_last, batch.x)
        self.values = self.all_values = trace.run(x)
        # of another number of images: what grows with it has a dimension of images
        few = [0] * (3 if n == 2 else 2)
        self.few = trace.run(mapped(lambda x: x[few], batch.x))
        self.baseline = self.loss(self.values[trace.output], batch.y)
        self.last = {source: node for node in trace.nodes for source in node.all_input_nodes}

    def at(self, images: Tensor) -> Snapshot:
        """The same of some of the images; what nothing asks for is not copied."""
        n = len(self.y)

        def chosen(x: Tensor, dim: int) -> Tensor:  # images of several places each, perhaps
            return x.unflatten(dim, (n, -1)).index_select(dim, images).flatten(dim, dim + 1)

        def part(node: fx.Node) -> object:
            value, few = self.values[node], self.few[node]
            return _each(value, value, few, chosen, lambda number: number // n * len(images))

        view = self._view(part)
        view.y, view.baseline = self.y[images], self.baseline[images]
        return view

    @cached_property
    def innermost(self) -> Snapshot:
        """The same with the images innermost in memory."""

        def moved(node: fx.Node) -> object:
            value = self.values[node]
            fits = isinstance(value, Tensor) and value.dim() in (2, 4) and self.images(node) == 0
            return _images_innermost(value) if fits else value

        return self._view(moved)

    def _view(self, change: Callable[[fx.Node], object]) -> Snapshot:
        view = copy.copy(self)
        vars(view).pop("innermost", None)
        view.values = _Lazy(change)
        return view

    def images(self, node: fx.Node) -> int | None:
        """The dimension of the images in what an operation gives; None: it is the same for all."""
        return _images(self.all_values[node], self.few[node])

    def stacked(self, node: fx.Node, k: int) -> object:
        """What an operation gives, k times along the images."""
        return _each(
            *(self.values[node], self.all_values[node], self.few[node]),
            lambda x, images: torch.cat([x] * k, images),
            lambda number: number * k,
        )

    def widest(self, nodes: Sequence[fx.Node]) -> int:
        """The most elements of one of their results."""
        sizes = (value.numel() for node in nodes for value in tensors(self.values[node]))
        return max(sizes, default=1)


class _Lazy(dict):
    """Results that are made when they are asked for."""

    def __init__(self, make: Callable[[fx.Node], object]):
        super().__init__()
        self._make = make

    def __missing__(self, node: fx.Node) -> object:
        self[node] = self._make(node)
        return self[node]


class Incremental:
    """Losses of a traced network on a batch, had units of one layer given another pre-activation.

    Args:
        snapshot: the network and the batch.
        layer: name of a module that runs once in a forward pass.
        axis: the dimension of the units in what it gives.

    Attributes:
        h: its pre-activations, (N, units, ...).
        innermost: whether the images lie innermost in memory.
        baseline: the losses as they are, (N,).
        step: candidates at once, at most.
        whole: operations that ran in full before the first linear maps, in the last call of `losses`.

    Raises:
        Untraceable: the layer does not run as a module, or more than once.
    """

    def __init__(self, snapshot: Snapshot, layer: str, axis: int = 1):
        self._of, self._trace = snapshot, snapshot.trace
        self._node = self._trace.node(layer)
        if self._node is None:
            raise graph.Untraceable(f"{layer!r} does not run once in the traced forward pass")
        self.h, axes = snapshot.values[self._node], snapshot.images(self._node)
        self.axis = axis % self.h.dim()
        self.baseline, self.whole = snapshot.baseline, []
        self._behind = self._dependent()
        self.step = max(1, FLOATS // snapshot.widest(self._behind))
        maps = [node for node in self._behind if node in snapshot.maps]
        line = all(len(node.all_input_nodes) == 1 for node in self._behind)
        line &= not any(snapshot.maps[node].conv for node in maps[1:])
        self.innermost = line and axes == 0 and self.h.dim() in (2, 4)
        if self.innermost:
            self._of = snapshot.innermost
            self.h = self._of.values[self._node]
            behind = self._behind[self._behind.index(maps[0]) if maps else 0 :]
            channel = self.h.numel() // self.h.shape[1]
            self.step = max(1, _CACHED // max(channel, snapshot.widest(behind)))

    @property
    def x(self) -> Tensor:
        """What enters the layer."""
        return self._of.all_values[self._node.args[0]]

    def _dependent(self) -> list[fx.Node]:
        """The operations behind the layer that give tensors; sizes are those of the snapshot."""
        behind = {self._node}
        for node in self._trace.nodes:
            if behind.intersection(node.all_input_nodes) and tensors(self._of.values[node]):
                behind.add(node)
        return [node for node in self._trace.nodes if node in behind and node is not self._node]

    @torch.no_grad()
    def losses(self, units: Tensor, candidates: Tensor) -> Tensor:
        """Loss of each image for each candidate: (K,), (K, N, ...) -> (K, N).

        Args:
            units: whose pre-activation each candidate is.
            candidates: as `h` without the dimension of the units; with 1 in the place of N if they are the
                same for all images.
        """
        parts = [self.baseline.new_empty(0, len(self.baseline))]
        for start in range(0, len(units), self.step):
            some, given = (part[start : start + self.step] for part in (units, candidates))
            losses = self._of.loss(self.outputs(some, given), torch.cat([self._of.y] * len(some)))
            # a dead unit costs exactly 0, not what another order of summation makes of it
            parts.append(torch.where(self._reached, losses.view(len(some), -1), self.baseline))
        return torch.cat(parts)

    def constants(self, values: Tensor) -> Tensor:
        """Candidates that are the same for all images and positions: (K,) -> (K, 1, ...)."""
        images = self._of.images(self._node)
        if images is None:
            raise graph.Untraceable(f"{self._node} has no dimension of images")
        shape = [1 if dim == images else size for dim, size in enumerate(self.h.shape) if dim != self.axis]
        return values.to(self.h).view(-1, *[1] * len(shape)).expand(-1, *shape)

    @torch.no_grad()
    def outputs(self, units: Tensor, candidates: Tensor) -> object:
        """The network's outputs for all candidates at once, along the images: (K N, ...)."""
        x = Channels(candidates.movedim(0, self.axis), units[:, None], self.axis)
        run = _Run(self._of, len(units), {self._node: x})
        for node in self._behind:
            if node not in run.changed:
                run.step(node)
            for source in node.all_input_nodes:
                if self._of.last[source] is node:
                    run.forget(source)
        self.whole, narrow = run.whole, isinstance(run.changed.get(self._trace.output), Channels)
        self._reached = torch.as_tensor(narrow or run.reached, device=self.baseline.device)
        return run.full(self._trace.output)


class _Run:
    """Once through the operations behind a layer, for one stack of k candidates."""

    def __init__(self, snapshot: Snapshot, k: int, changed: dict[fx.Node, Channels | object]):
        self.of, self.trace, self.k, self.changed = snapshot, snapshot.trace, k, changed
        self.copies: dict[fx.Node, object] = {}  # results in full, of what changed by channels or not at all
        self.whole: list[fx.Node] = []
        self.reached: Tensor | bool = False  #: where something behind the channels alone changes, (K, N)

    def forget(self, node: fx.Node) -> None:
        self.changed.pop(node, None)
        self.copies.pop(node, None)

    def step(self, node: fx.Node) -> None:
        inputs = [self.changed[source] for source in node.all_input_nodes if source in self.changed]
        narrow = [value for value in inputs if isinstance(value, Channels)]
        linear = self.of.maps.get(node)
        if linear is not None and len(inputs) == 1:
            result = self.by_channels(linear, node, *narrow) if narrow else linear.full(inputs[0])
            if result is not None:
                self.changed[linear.out if not isinstance(result, Channels) else node] = result
                return
        result = None
        if len(narrow) == len(inputs):
            result = self.narrow(node)
        if result is None and node.op != "call_module":
            result = self.combined(node)
            self.reached |= bool(narrow) and isinstance(result, Tensor)
        if result is None:
            if narrow:
                self.whole.append(node)
                self.reached = True
            result = self.in_full(node)
        self.changed[node] = result

    # --- linear maps

    def by_channels(self, linear: Map, node: fx.Node, x: Channels) -> Tensor | Channels | None:
        axis, dims = (1, 4) if linear.conv else (x.value.dim() - 1, x.value.dim())
        groups, images = getattr(linear.module, "groups", 1), self.of.images(node)
        if (x.axis, x.value.dim()) != (axis, dims) or (groups > 1 and x.index.shape[1] > 1) or images is None:
            return None
        delta = x._replace(value=x.value - x.of(self.of.values[node.args[0]]))
        if groups > 1:
            change, index = linear.grouped(x.index, delta.value)
            result = Channels(change, index, 1)
            return result._replace(value=change + result.of(self.of.values[node]))
        apart = delta.apart()
        self.reached |= (apart != 0).movedim(1, -1).flatten(2).any(2) if images == 0 else True
        out = linear.change(x.index, apart, self.of.values[linear.out])  # (K, N, units, ...)
        return out.movedim(0, images).flatten(images, images + 1)

    # --- operations on each channel alone

    def narrow(self, node: fx.Node) -> Channels | None:
        """The result of an operation on changed channels alone; None if it needs all."""
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        x, before = self.changed.get(source), self.of.all_values[node]
        named = any(isinstance(value, fx.Node) for value in node.kwargs.values())
        if x is None or not isinstance(before, Tensor) or named:
            return self.joined(node)
        if before is self.of.all_values[source]:  # nothing: dropout in eval mode, say
            return x
        module, target = self.trace.plain(node), None if node.op == "call_module" else node.target
        kind, image = type(module), x.axis == 1 and x.value.dim() == 4
        if target in _RESHAPES or kind is nn.Flatten:
            return self.reshaped(node, x)
        if target in _UNARY or kind in (*graph.ELEMENTWISE, *graph.NOTHING):
            value = x.value.clone() if self.trace.in_place(node) else x.value
            return x._replace(value=self.again(node, value))
        if image and (target in _POOLS or kind in graph.POOLS):
            return x._replace(value=self.again(node, x.value))
        if kind in graph.BATCH_NORM and module.running_mean is not None and x.axis == 1:
            return x._replace(value=graph.normed(module, x.value, x.index.flatten()))
        return self.moved(node, x) if target in _MOVES else self.joined(node)

    def again(self, node: fx.Node, first: object) -> object:
        """What an operation gives for another first argument."""
        return self.call(node, (first, *node.args[1:]), node.kwargs)

    def call(self, node: fx.Node, args: tuple, kwargs: dict) -> object:
        """What an operation gives, with the images innermost in a way of its own."""
        module, first = self.trace.plain(node), args[0] if args else None
        if type(module) is nn.MaxPool2d and _innermost(first):
            return _max_pool(module, first)
        if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            return _flat(first)
        return self.trace.call(node, args, kwargs)

    def reshaped(self, node: fx.Node, x: Channels) -> Channels | None:
        """The channels stay one dimension, perhaps with those behind it."""
        old, new = self.of.values[node.args[0]].shape, self.of.values[node].shape
        before, size = math.prod(old[: x.axis]), old[x.axis]
        for axis, width in enumerate(new):
            times, rest = divmod(width, size)
            behind = [math.prod(old[x.axis + 1 : end]) for end in range(x.axis + 1, len(old) + 1)]
            if math.prod(new[:axis]) == before and rest == 0 and times in behind:
                shape = [*new[:axis], x.index.numel() * times, *new[axis + 1 :]]
                images = self.of.images(node)
                if x.value.numel() != math.prod(shape):
                    if images is None:
                        return None
                    shape[images] = 1
                index = (x.index.unsqueeze(2) * times + torch.arange(times, device=x.index.device)).flatten(1)
                flat = _flat(x.value) if len(shape) == 2 and axis == 1 else x.value.reshape(shape)
                return Channels(flat.reshape(shape), index, axis)
        return None

    def moved(self, node: fx.Node, x: Channels) -> Channels | None:
        """Dimensions change places, or means are taken over others than the channels."""
        if any(isinstance(value, fx.Node) for value in node.args[1:]):
            return None
        places = self.again(node, torch.zeros(tuple(range(2, 2 + x.value.dim())))).shape
        axis = 2 + x.axis
        return Channels(self.again(node, x.value), x.index, places.index(axis)) if axis in places else None

    def joined(self, node: fx.Node) -> Channels | None:
        """Concatenated along the channels with what did not change."""
        parts = node.args[0] if node.target in (torch.cat, torch.concat) else ()
        changed = [i for i, part in enumerate(parts) if part in self.changed]
        if len(changed) != 1 or len(node.all_input_nodes) != len(parts):
            return None
        x = self.changed[parts[changed[0]]]
        values = [self.of.values[part] for part in parts]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if dim % values[0].dim() != x.axis:
            return None
        return x._replace(index=x.index + sum(value.shape[x.axis] for value in values[: changed[0]]))

    # --- sums, products and the like

    def combined(self, node: fx.Node) -> Channels | Tensor | None:
        """Of two operands, element by element; those that did not change are not copied k times."""
        function, before = _BINARY.get(node.target), self.of.values[node]
        if function is None or len(node.args) != 2 or node.kwargs:
            return None
        known = self.changed
        operands = [
            known.get(arg, self.of.values[arg]) if isinstance(arg, fx.Node) else arg for arg in node.args
        ]
        changed = [arg for arg in node.args if isinstance(arg, fx.Node) and arg in known]
        narrow = [known[arg] for arg in changed if isinstance(known[arg], Channels)]
        x = narrow[0] if narrow else None
        if any(y.axis != x.axis or not torch.equal(y.index, x.index) for y in narrow[1:]):
            return None
        if any(self.of.values[arg].dim() != before.dim() for arg in changed):
            return None
        if x is not None and self.of.values[changed[0]].shape[x.axis] != before.shape[x.axis]:
            return None
        if len(narrow) == len(changed):
            return x._replace(value=function(*(self.met(operand, x, before.dim()) for operand in operands)))
        if any(self.of.images(arg) != 0 for arg in (node, *changed)):
            return None
        wide = [arg in changed and not isinstance(known[arg], Channels) for arg in node.args]
        for i, (arg, operand) in enumerate(zip(node.args, operands, strict=True)):
            if wide[i]:
                operands[i] = operand.unflatten(0, (self.k, -1))  # (K, N, ...)
            elif isinstance(operand, Channels):
                operands[i] = self.of.values[arg]
        out = function(*operands)
        if x is not None:  # the changed channels once more, now with their change
            at = torch.arange(self.k, device=x.index.device)[:, None], x.index
            for i, operand in enumerate(operands):
                channels = operand.movedim(x.axis + 1, 1) if wide[i] else x.apart()
                operands[i] = channels[at] if wide[i] and channels.shape[1] > 1 else channels
            out.movedim(x.axis + 1, 1)[at] = function(*operands)  # (K, w, N, ...)
        return out.flatten(0, 1)

    def met(self, operand: object, x: Channels, dims: int) -> object:
        """An operand's part that meets the changed channels."""
        if isinstance(operand, Channels):
            return operand.value
        axis = x.axis - dims + operand.dim() if isinstance(operand, Tensor) else -1  # aligned at the last
        fits = axis >= 0 and operand.shape[axis] > 1
        return operand.index_select(axis, x.index.flatten()) if fits else operand

    # --- everything else

    def in_full(self, node: fx.Node) -> object:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.full)
        if self.trace.in_place(node) and (len(node.args[0].users) > 1 or node.args[0] not in self.changed):
            args = (args[0].clone(), *args[1:])
        return self.call(node, args, kwargs)

    def full(self, node: fx.Node) -> object:
        """A result of which all candidates have their copy, along the images."""
        value = self.changed.get(node)
        if value is not None and not isinstance(value, Channels):
            return value
        if node not in self.copies:
            self.copies[node] = self.of.stacked(node, self.k)
            if value is not None:
                self._put(node, value)
        return self.copies[node]

    def _put(self, node: fx.Node, x: Channels) -> None:
        images = self.of.images(node)
        if images is None:
            raise graph.Untraceable(f"{node} has no dimension of images")
        out = self.copies[node].unflatten(images, (self.k, -1)).movedim(images, 0).movedim(x.axis + 1, 1)
        out[torch.arange(self.k, device=x.index.device)[:, None], x.index] = x.apart()  # (K, w, N, ...)


class Ways:
    """How the layers of a network are scored: tried on two of the images, against forward passes.

    Attributes:
        by_layer: "fast" (up to the first linear maps only what changed is computed), "partly" (some operation
            before those runs in full) or, for a layer that takes a forward pass a unit, the reason.
        portion: images of one snapshot, at most (`KEPT`).
    """

    @torch.no_grad()
    def __init__(self, net: nn.Module, batch: Batch, layers: Iterable[str]):
        self.by_layer: dict[str, str] = {}
        self.portion, self._maps = len(batch.y), None
        self._axes = {layer: graph.unit_axis(net.get_submodule(layer)) for layer in layers}
        few = [0, min(1, len(batch.y) - 1)]
        pair = Batch(*(mapped(lambda x: x[few], part) for part in batch))
        try:
            self.trace = graph.trace(net, pair.x)
            snapshot = self.snapshot(pair, lambda outputs, y: y.new_zeros(len(y)))
        except Exception as error:  # whatever the operations do outside of the network
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.by_layer = dict.fromkeys(self._axes, reason)
            return
        kept = sum(value.numel() for value in tensors(tuple(snapshot.values.values())))
        self.portion = max(1, 2 * KEPT // max(1, kept))
        for layer, axis in self._axes.items():
            try:
                self.by_layer[layer] = _tried(net, pair, snapshot, layer, axis)
            except Exception as error:
                self.by_layer[layer] = f"{type(error).__name__}: {error}".splitlines()[0]

    @property
    def traced(self) -> list[str]:
        """The layers that take a way through `Incremental`."""
        return [layer for layer, way in self.by_layer.items() if way in ("fast", "partly")]

    def snapshot(self, batch: Batch, loss: Loss) -> Snapshot:
        """Of at most `portion` images."""
        snapshot = Snapshot(self.trace, batch, loss, self._maps)
        self._maps = snapshot.maps
        return snapshot

    def units(self, snapshot: Snapshot, layer: str) -> Tensor:
        """What one of the `traced` layers gives, (N, units, positions)."""
        node = self.trace.node(layer)
        return by_position(snapshot.values[node], self._axes[layer], snapshot.images(node), len(snapshot.y))

    def losses(self, snapshot: Snapshot, layer: str) -> Incremental:
        """The way of one of the `traced` layers."""
        return Incremental(snapshot, layer, self._axes[layer])


def _tried(net: nn.Module, batch: Batch, snapshot: Snapshot, layer: str, axis: int) -> str:
    """The way of a layer; an `Untraceable` if its answers are not those of forward passes."""
    way = Incremental(snapshot, layer, axis)
    units = torch.tensor([0, way.h.shape[way.axis] - 1], device=way.h.device)
    value = way.h.abs().max() + 1
    outputs = tensors(way.outputs(units, way.constants(value.repeat(2))))
    before = tensors(snapshot.values[snapshot.trace.output])
    for i, unit in enumerate(units.tolist()):
        with replacing(net.get_submodule(layer), way.axis, {unit: value}):
            expected = tensors(forward(net, batch.x))
        for output, old, new in zip(outputs, before, expected, strict=True):
            error = (output.unflatten(0, (2, -1))[i] - new).abs().max()
            effect, size = (new - old).abs().max(), old.abs().max()
            if error > effect / 100 + torch.finfo(new.dtype).eps ** 0.5 * size:
                raise graph.Untraceable("what was traced gives other outputs than the network itself")
    return "partly" if way.whole else "fast"


@contextmanager
def replacing(module: nn.Module, axis: int, constants: Mapping[int, Tensor | float]) -> Iterator[list[int]]:
    """A hook that puts constants in the place of units, while the block lasts; yields [how often it ran]."""
    calls = [0]

    def put(module: nn.Module, inputs: tuple, h: Tensor) -> Tensor:
        calls[0] += 1
        h = h.clone()
        for unit, value in constants.items():
            h.select(axis, unit).fill_(value)
        return h

    with removing([module.register_forward_hook(put)]):
        yield calls


def coverage(net: nn.Module, x: object) -> dict[str, str]:
    """How each layer of a network would be scored: "fast", "partly", or the reason for a pass a unit.

    "fast": up to the first linear maps behind it only the channel that changes is computed. "partly": some
    operation before those runs in full, on what was computed once up to the layer.

    Args:
        net: the network, in eval mode.
        x: two images are enough.
    """
    batch = Batch(x, torch.zeros(len(tensors(x)[0]), dtype=torch.long))
    return Ways(net, batch, graph.linear_layers(net)).by_layer


def warn_of_passes(what: str, names: Sequence[str], one: str, passes: int, reasons: Iterable[str]) -> None:
    """Warn that what is not traced takes a forward pass a unit or a weight."""
    passes = f"{passes:,} forward passes a batch, one a {one}, because of {', '.join(sorted(set(reasons)))}"
    warnings.warn(f"{what} of {', '.join(names)}: {passes}", stacklevel=3)


def by_position(h: Tensor, axis: int = 1, images: int = 0, n: int | None = None) -> Tensor:
    """(N, units, ...), or with its dimensions in another order, -> (N, units, positions)."""
    if (axis == -1 and h.dim() > 2) or images != 0 or n not in (None, len(h)):
        h = h.movedim(images, 0) if axis == -1 else h.movedim((images, axis), (0, -1))
        h = h.unflatten(0, (n, -1)).flatten(1, -2).transpose(1, 2)
    return h.flatten(2) if h.dim() > 2 else h[:, :, None]


def _maps(trace: Trace) -> dict[fx.Node, Map]:
    """The linear maps that do what their type says, each with the batch norm that it can take in."""
    maps = {}
    for node in trace.calls:
        module = trace.plain(node)
        if type(module) not in graph.LINEAR or len(node.args) != 1:
            continue
        norm = trace.plain(next(iter(node.users))) if len(node.users) == 1 else None
        fits = type(module) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None
        maps[node] = Map(node, module, norm if fits else None)
    return maps


def _convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    if conv.padding_mode != "zeros":
        return F.conv2d(graph.padded(conv, x), weight, bias, conv.stride, 0, conv.dilation, groups)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, groups)


def _innermost(x: Tensor) -> bool:
    """Whether the images lie innermost in memory."""
    return x.dim() in (2, 4) and len(x) > 1 and x.stride(0) == 1


def _images_innermost(x: Tensor) -> Tensor:
    """(N, C, H, W) or (N, C), laid out in memory as (H, W, C, N)."""
    x = x.movedim(1, -1)
    # as a matrix: its transposition has a fast way on a CPU
    return x.flatten(1).T.contiguous().T.unflatten(1, x.shape[1:]).movedim(-1, 1)


def _flat(x: Tensor) -> Tensor:
    """(N, ...) -> (N, features), in its memory layout."""
    return x.movedim(0, -1).flatten(0, -2).T if _innermost(x) else x.flatten(1)


def _max_pool(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Max-pooling as a maximum of shifted images: with the images innermost ten times as fast as torch's."""
    size, stride = _pair(pool.kernel_size), _pair(pool.stride)
    if _pair(pool.padding) != (0, 0) or _pair(pool.dilation) != (1, 1) or pool.ceil_mode:
        return pool(x)
    for dim in (2, 3):
        steps = (x.shape[dim] - size[dim - 2]) // stride[dim - 2] * stride[dim - 2] + 1
        every = (slice(None),) * dim + (slice(None, None, stride[dim - 2]),)
        first, *others = (x.narrow(dim, i, steps)[every] for i in range(size[dim - 2]))
        x = functools.reduce(torch.maximum, others, first)
    return x


def _channels_last(x: Tensor) -> Tensor:
    # the kernels of the CPU are up to five times faster in this memory layout
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _images(value: object, few: object) -> int | None:
    if not isinstance(value, Tensor):
        return None
    pairs = enumerate(zip(value.shape, few.shape, strict=True))
    return next((dim for dim, (one, other) in pairs if one != other), None)


def _each(x: object, value: object, few: object, change: Change, number: Callable[[int], int]) -> object:
    """Tensors changed along their images, and numbers that grow with those: `value` and `few` tell which."""
    if isinstance(x, Tensor):
        images = _images(value, few)
        return x if images is None else change(x, images)
    if isinstance(x, (dict, tuple, list)):
        keys = list(x) if isinstance(x, dict) else range(len(x))
        parts = [_each(x[key], value[key], few[key], change, number) for key in keys]
        return dict(zip(keys, parts, strict=True)) if isinstance(x, dict) else type(x)(parts)
    return number(x) if isinstance(x, int) and value != few else x
