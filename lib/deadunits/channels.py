"""Which channels of a network can only be removed together, from one forward pass of one image.

Every index of every dimension of a parameter gets a number. While the network runs, each tensor carries the
numbers of its channels, and each operation says which of them are the same channel: an addition pairs them, a
linear map pairs its inputs with the columns of its weight and puts the rows in their place, `cat` joins them,
a grouped convolution ties inputs and outputs of a group. Numbers that are paired are one *channel*: all their
indices go, or none. Where an operation mixes channels (a normalisation over them, softmax, attention, a view
that cuts them in parts) or is not known, they stay, and the reason is kept.

PyTorch's own operations are seen (`TorchDispatchMode`), so that it does not matter how the network is
written. What depends on the image is seen for that image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from deadunits.batches import evaluating, removing

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (nn.Linear, *_CONV, *_TRANSPOSED)  #: layers whose units can be removed, and which take constants
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_PLAIN = (*LINEAR, *BATCH_NORM, *_NORMS, nn.PReLU)

OUTPUT = "output"  #: the reason why the outputs of the network stay

Ids = np.ndarray | None  #: the numbers along a dimension, (size,); None: no channels
Rule = Callable[["_Call"], list[list[Ids]]]  #: what an operation does to the numbers


class Channels:
    """The channels of a network, as an image sees them.

    Attributes:
        of: (name of a parameter or buffer, dimension) -> (size,), the channel of each index.
        stays: channel -> why it cannot be removed.
    """

    def __init__(self, net: nn.Module, x: Tensor):
        trace = _Trace(net)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # attention in steps that are known
        try:
            with evaluating(net), removing(trace.handles), torch.no_grad(), trace:
                out = net(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                trace.stay(trace.ids(tensor), OUTPUT)
        root = components(trace.size, trace.pairs)
        self.stays: dict[int, str] = {}
        for ids, reason in trace.fixed:
            for channel in root[ids].tolist():
                # that outputs stay is no reproach: it is told only where nothing else is in the way
                if self.stays.get(channel, OUTPUT) == OUTPUT:
                    self.stays[channel] = reason
        self.of = {place: root[ids] for place, ids in trace.places.items() if place[0] in trace.ran}


def out_dim(layer: nn.Module) -> int:
    """Dimension of the weight that the units of a layer stand in."""
    return int(isinstance(layer, _TRANSPOSED))


def components(size: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The smallest number that each is connected with, for numbers below `size`: (size,)."""
    root = np.arange(size)
    a, b = (np.concatenate([root[:0], *(pair[side] for pair in pairs)]) for side in (0, 1))
    while True:
        before, least = root.copy(), np.minimum(root[a], root[b])
        for ends in (a, b, before[a], before[b]):
            np.minimum.at(root, ends, least)
        root = root[root]
        if np.array_equal(root, before):
            return root


class _Trace(TorchDispatchMode):
    """Carries numbers through a forward pass."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.size, self.places = 0, {}  # of all numbers; (name, dimension) -> numbers
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.fixed: list[tuple[np.ndarray, str]] = []
        self.known: dict[tuple, tuple[Tensor, str | None, list[Ids]]] = {}  # the tensor, so that it lives
        self.fresh: dict[int, Tensor] = {}  # memory that is filled later, by the place of its storage
        self.ran: set[str] = set()  # parameters and buffers
        self.where: list[str] = []  # modules that are running
        self.handles = []
        for prefix, module in net.named_modules():
            self.handles += [
                module.register_forward_pre_hook(lambda *_, name=prefix: self.where.append(name)),
                module.register_forward_hook(self._leave),
            ]
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._number(f"{prefix}.{name}".lstrip("."), tensor, prefix, module)
        # columns of plain layers, which can take constants; rows, whose groups can go
        self.inputs, self.plain = np.zeros((2, self.size), bool)
        for prefix, module in net.named_modules():
            if _is_plain(module) and isinstance(module, LINEAR):
                weight, out = f"{prefix}.weight".lstrip("."), out_dim(module)
                self.plain[self.places.get((weight, out), [])] = True
                if getattr(module, "groups", 1) == 1:
                    self.inputs[self.places.get((weight, 1 - out), [])] = True

    def _number(self, name: str, tensor: Tensor, owner: str, module: nn.Module) -> None:
        known = self.known.get(_key(tensor))
        labels: list[Ids] = [None] * tensor.dim()
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                labels[dim] = self.places[name, dim] = np.arange(self.size, self.size + size)
                self.size += size
        reason = f"{owner!r} ({type(module).__name__})"
        known_kind = isinstance(module, _PLAIN) or type(module).__module__.startswith("torch.")
        if known is not None:  # weights of two layers
            self.stay([*known[2], *labels], f"{reason}, which shares its weights")
        elif known_kind and not _is_plain(module):
            self.stay(labels, reason)
        if known is None:
            self.known[_key(tensor)] = tensor, name, labels

    def _leave(self, *_: object) -> None:
        self.where.pop()

    def ids(self, tensor: Tensor) -> list[Ids]:
        """The numbers of each dimension of a tensor."""
        _, name, labels = self.known.get(_key(tensor), (tensor, None, [None] * tensor.dim()))
        if name is not None:
            self.ran.add(name)
        return labels

    def stay(self, labels: Sequence[Ids], reason: str) -> None:
        """These channels cannot be removed."""
        self.fixed += [(ids, reason) for ids in labels if ids is not None]

    def pair(self, a: Ids, b: Ids, reason: str) -> Ids:
        """Two dimensions of one size that are the same channels."""
        if a is None or b is None:
            self.stay([a, b], reason)
            return b if a is None else a
        self.pairs.append((a, b))
        return a

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sizes = [tuple(t.shape) if isinstance(t, Tensor) else t for t in args]
        labels = [list(self.ids(t)) if isinstance(t, Tensor) else t for t in args]
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in _IGNORED:
            return out
        outputs = [tensor for tensor in tree_iter(out) if isinstance(tensor, Tensor)]
        at = f"{self.where[-1]!r} ({name})" if self.where else name
        rule = _RULES.get(name) or _RULES.get(name.rstrip("_"))
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = _pointwise
        if rule is None:
            tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
            self.stay([ids for tensor in tensors for ids in self.ids(tensor)], at)
            results = [[None] * tensor.dim() for tensor in outputs]
        else:
            results = rule(_Call(self, at, sizes, labels, args, outputs))
        for tensor, found in zip(outputs, results, strict=False):
            if any(ids is not None for ids in found) or _key(tensor) in self.known:
                self.known[_key(tensor)] = tensor, None, found
        return out


class _Call:
    """An operation that was called: its arguments with their sizes and numbers, and the shapes it gave."""

    def __init__(self, trace: _Trace, at: str, sizes: list, labels: list, args: tuple, out: list[Tensor]):
        self.trace, self.at, self.args, self.out = trace, at, args, out
        self.sizes, self.labels, self.shapes = sizes, labels, [tuple(tensor.shape) for tensor in out]

    @property
    def x(self) -> list[Ids]:
        return self.labels[0]

    def stay(self, *labels: Ids) -> None:
        self.trace.stay(labels, self.at)

    def pair(self, a: Ids, b: Ids) -> Ids:
        return self.trace.pair(a, b, self.at)

    def aligned(self, shape: tuple[int, ...], tensors: Sequence[int]) -> list[Ids]:
        """Numbers of a result to which tensors are broadcast."""
        result: list[Ids] = []
        for back in range(len(shape), 0, -1):
            sides = [
                self.labels[i][-back]
                for i in tensors
                if back <= len(self.sizes[i]) and self.sizes[i][-back] == shape[-back] > 1
            ]
            ids = sides[0] if sides else None
            for side in sides[1:]:
                ids = self.pair(ids, side) if ids is not None or side is not None else None
            result.append(ids)
        return result


def _is_plain(module: nn.Module) -> bool:
    """Whether a layer is one of those whose attributes are known here, as PyTorch made it."""
    made = not isinstance(module, LINEAR) or {"weight", "bias"} <= module._parameters.keys()
    return made and type(module) in _PLAIN


def _key(tensor: Tensor) -> tuple:
    # a view may come back as another object: what says which it is are its place and its form
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _pointwise(call: _Call) -> list[list[Ids]]:
    tensors = [i for i, arg in enumerate(call.args) if isinstance(arg, Tensor)]
    return [call.aligned(shape, tensors) for shape in call.shapes]


def _fresh(call: _Call) -> list[list[Ids]]:
    """Memory that is filled later, by `_copy`."""
    call.trace.fresh[call.out[0].untyped_storage().data_ptr()] = call.out[0]
    return [[None] * call.out[0].dim()]


def _copy(call: _Call) -> list[list[Ids]]:
    """What is written into a part of fresh memory gives it its channels, as in circular padding."""
    part, base = call.args[0], call.trace.fresh.get(call.args[0].untyped_storage().data_ptr())
    if base is not None and base.dim() == part.dim() == call.args[1].dim():
        labels = call.trace.ids(base)
        for dim, size in enumerate(part.shape):
            if labels[dim] is None and base.shape[dim] == size:
                labels[dim] = call.labels[0][dim] = call.labels[1][dim]
        call.trace.known[_key(base)] = base, None, labels
    return _pointwise(call)


def _contract(call: _Call, a: Ids, b: Ids) -> None:
    """A sum over channels: one side must be the columns of a layer, which can take a constant."""
    inputs = call.trace.inputs
    if a is None or b is None or not (inputs[a].all() or inputs[b].all()):
        call.stay(a, b)
    else:
        call.pair(a, b)


def _matmul(call: _Call) -> list[list[Ids]]:
    first = len([arg for arg in call.args if isinstance(arg, Tensor)]) - 2  # behind a bias
    a, b = call.labels[first : first + 2]
    _contract(call, a[-1], b[-2])
    call.stay(*a[:-2], *b[:-2])
    out = [*[None] * (len(a) - 2), a[-2], b[-1]]
    if first:
        call.labels.append(out)
        call.sizes.append(call.shapes[0])
        call.aligned(call.shapes[0], [0, len(call.labels) - 1])
    return [out]


def _convolution(call: _Call) -> list[list[Ids]]:
    (x, weight, bias), groups = call.labels[:3], call.args[8]
    transposed = bool(call.args[6])
    out, inputs = weight[transposed], weight[1 - transposed]
    call.stay(*x[2:])
    if groups == 1:
        _contract(call, x[1], inputs)
    elif transposed or x[1] is None or out is None or not call.trace.plain[out].all():
        call.stay(x[1], out, inputs)
    else:  # groups go as a whole, with inputs and outputs
        call.stay(inputs)
        sides = [ids.reshape(groups, -1) for ids in (x[1], out)]
        for side in sides:
            call.pair(sides[0][:, :1].repeat(side.shape[1], 1).ravel(), side.ravel())
    if bias is not None and out is not None:
        call.pair(out, bias[0])
    return [[x[0], out, *[None] * (len(x) - 2)]]


def _batch_norm(call: _Call) -> list[list[Ids]]:
    for labels in call.labels[1:5]:
        if labels is not None and call.x[1] is not None:
            call.pair(call.x[1], labels[0])
    return [call.x]


def _group_norm(call: _Call) -> list[list[Ids]]:
    (x, weight, bias), groups = call.labels[:3], call.args[6]
    if groups == 1 or weight is None or x[1] is None:
        call.stay(x[1])
        return [x]
    parts = x[1].reshape(groups, -1)
    call.pair(parts[:, :1].repeat(parts.shape[1], 1).ravel(), x[1])
    for labels in (weight, bias):
        call.pair(x[1], labels[0])
    return [x]


def _mixing(dims: Callable[[_Call], int | Sequence[int]]) -> Rule:
    """What mixes the entries along some dimensions, changes their number or takes some: those stay."""

    def rule(call: _Call) -> list[list[Ids]]:
        among = dims(call)
        among = {dim % len(call.x) for dim in (among if isinstance(among, Iterable) else [among])}
        call.stay(*(call.x[dim] for dim in among))
        kept = [None if dim in among else ids for dim, ids in enumerate(call.x)]
        fewer = [ids for dim, ids in enumerate(call.x) if dim not in among]
        return [kept if len(shape) == len(kept) else fewer for shape in call.shapes]

    return rule


def _argument(place: int, default: int | None = None) -> Callable[[_Call], int | Sequence[int]]:
    """The dimensions that an argument says; by default all."""

    def dims(call: _Call) -> int | Sequence[int]:
        value = call.args[place] if len(call.args) > place else default
        return range(len(call.x)) if value is None else value

    return dims


def _changed(call: _Call) -> list[int]:
    """The dimensions that change in size, as padding, slices and parts do."""
    sizes = zip(call.sizes[0], call.shapes[0], strict=True)
    return [dim for dim, (before, after) in enumerate(sizes) if before != after]


def _cat(call: _Call) -> list[list[Ids]]:
    trace, shape = call.trace, call.shapes[0]
    tensors = [tensor for tensor in call.args[0] if tensor.dim() == len(shape)]
    call.sizes, call.labels = [tuple(tensor.shape) for tensor in tensors], [*map(trace.ids, tensors)]
    dim = (call.args[1] if len(call.args) > 1 else 0) % len(shape)
    out, sides = call.aligned(shape, range(len(tensors))), [labels[dim] for labels in call.labels]
    if any(side is not None for side in sides):
        for j, tensor in enumerate(tensors):
            if sides[j] is None:  # what has no channels stands among some that do
                sides[j] = np.arange(trace.size, trace.size + tensor.shape[dim])
                trace.size += tensor.shape[dim]
                call.stay(sides[j])
        out[dim] = np.concatenate(sides)
    return [out]


def _permute(call: _Call) -> list[list[Ids]]:
    return [[call.x[dim] for dim in call.args[1]]]


def _transpose(call: _Call) -> list[list[Ids]]:
    x = list(call.x)
    if len(x) > 1:
        a, b = call.args[1:3] if len(call.args) > 2 else (0, 1)
        x[a], x[b] = x[b], x[a]
    return [x]


def _reshape(call: _Call) -> list[list[Ids]]:
    """Dimensions are kept, joined or cut; channels that are cut stay."""
    out: list[Ids] = [None] * len(call.shapes[0])
    for before, after in _blocks(call.sizes[0], call.shapes[0]):
        sizes, labels = [call.sizes[0][i] for i in before], [call.x[i] for i in before]
        channels = [i for i, ids in enumerate(labels) if ids is not None]
        if len(channels) == 1 and len(after) == 1:
            form = [-1 if i == channels[0] else 1 for i in range(len(sizes))]
            out[after[0]] = np.broadcast_to(labels[channels[0]].reshape(form), sizes).ravel()
        else:
            call.stay(*labels)
    return [out]


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[list[list[int]]]:
    """The dimensions of two shapes, without those of size 1, in the smallest parts of equal size."""
    shapes = before, after
    sides = [[i for i, size in enumerate(shape) if size != 1] for shape in shapes]
    while all(sides):
        parts = [[side.pop(0)] for side in sides]
        while True:
            sizes = [math.prod(shape[i] for i in part) for shape, part in zip(shapes, parts, strict=True)]
            if sizes[0] == sizes[1]:
                break
            smaller = int(sizes[1] < sizes[0])
            parts[smaller].append(sides[smaller].pop(0))
        yield parts


_IGNORED = ("_assert_async", "_local_scalar_dense")
_RULES: dict[str, Rule] = {
    name: rule
    for rule, names in {
        _pointwise: "clone _to_copy detach alias lift_fresh contiguous hardswish _prelu_kernel rsub "
        "masked_fill zeros_like ones_like empty_like full_like expand",
        _fresh: "new_empty new_zeros new_full new_ones",
        _copy: "copy",
        _matmul: "mm addmm bmm baddbmm",
        _convolution: "convolution",
        _batch_norm: "native_batch_norm cudnn_batch_norm _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training",
        _group_norm: "native_group_norm",
        _mixing(lambda call: range(-len(call.args[1]), 0)): "native_layer_norm",
        _mixing(_argument(1)): "_softmax _log_softmax mean sum amax amin argmax",
        _mixing(_argument(2)): "roll linalg_vector_norm norm",
        _mixing(_argument(1, 0)): "select unbind",
        _mixing(lambda call: range(-2, 0)): "max_pool2d_with_indices avg_pool2d "
        "_adaptive_avg_pool2d adaptive_max_pool2d",
        _mixing(lambda call: range(-3, 0)): "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d",
        _mixing(_changed): "constant_pad_nd slice repeat split split_with_sizes reflection_pad1d "
        "reflection_pad2d replication_pad1d replication_pad2d upsample_nearest1d upsample_nearest2d "
        "upsample_bilinear2d",
        _cat: "cat",
        _permute: "permute",
        _transpose: "transpose t",
        _reshape: "view _unsafe_view reshape unsqueeze squeeze _reshape_alias",
    }.items()
    for name in names.split()
}
