"""The one question behind every exact score: the loss, had one unit given something else.

For each image of a batch: what would the loss be if the pre-activation h of one unit were another?
Removing a weight, removing a bias and replacing a unit by a constant are all answers to "something
else", so `Counterfactual.losses` serves them all.

The network before the layer runs once. Of the layers behind it, those that act on each channel alone
(nonlinearity, pooling, batch norm in eval mode, flattening) see only the channel that changed, and the
next linear map turns its change Δa into W[:, unit] Δa, added to what was there. Only what comes behind
that runs in full.

Shapes are PyTorch's throughout, (images, channels, height, width), but in memory the images lie innermost:
every step then runs over a thousand images in vectors, however small the channels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadunits import graph
from deadunits.batches import Loss, sample_wise
from deadunits.data import Batch

Passing = dict[int, Tensor]  #: what entered each module of a chain, by its place; at last, the outputs

_CHANNELWISE = (*graph.ELEMENTWISE, *graph.BATCH_NORM, *graph.POOLS, *graph.NOTHING)
_RANDOM = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # while in training mode
_FLOATS = 1 << 20  # of one intermediate result at once: what stays in the processor's cache


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of each sample: (N, classes), (N,) -> (N,), in nats.

    As `F.cross_entropy(logits, y, reduction="none")`, which is seven times slower on a CPU for ten classes.

    Raises:
        ValueError: outputs or labels of other shapes: they need a `loss` of their own.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or y.shape != logits.shape[:1]:
        shapes = (tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (logits, y))
        raise ValueError(
            "the default loss takes outputs (N, classes) and labels (N,), got {} and {}: pass loss=, a "
            "function of outputs and labels that gives the loss of each sample, (N,)".format(*shapes)
        )
    z = logits.T.contiguous()  # (classes, N)
    return z.logsumexp(0) - z.gather(0, y[None])[0]


def refuse_train_mode(net: nn.Module) -> None:
    """Raise ValueError if a batch norm or dropout layer is in training mode.

    There the score of one image would depend on the others of its batch, or on chance.
    """
    for name, module in net.named_modules():
        if module.training and isinstance(module, _RANDOM):
            raise ValueError(f"{name} ({type(module).__name__}) is in training mode: call net.eval() first")


def chain_behind(net: nn.Module, layer: str) -> list[nn.Module] | None:
    """The layers behind a linear or convolutional one in a chain; None if it is no such chain."""
    behind = graph.behind(net, layer)
    if behind is None:
        return None
    chosen = net.get_submodule(layer)
    if type(chosen) not in graph.LINEAR or _special(chosen) or graph.is_shared(net, layer):
        return None
    return list(behind.values())


class Counterfactual:
    """Losses of a network on a batch, had one unit of one layer given another pre-activation.

    Args:
        net: an `nn.Sequential`, nested or not, in which the chosen layer stands by name.
        batch: images (N, ...) and labels (N,).
        layer: name of an `nn.Linear` or `nn.Conv2d` in `net`.
        loss: a callable (outputs, labels) -> (N,); cross entropy by default.
        passing: of the same network and batch (`pass_through`), if there is one already.

    Attributes:
        inputs: what enters the layer, (N, ...).
        h: its pre-activations, (N, units) or (N, units, H, W).
        positions: the shape of one unit's h for one image, () or (H, W).
        baseline: the losses as they are, (N,).

    Raises:
        ValueError: the structure is not known here (`supports` tells), a layer takes other inputs than (N, F)
            or (N, C, H, W), or a batch norm or dropout layer is in training mode.
    """

    @torch.no_grad()
    def __init__(
        self,
        net: nn.Module,
        batch: Batch,
        layer: str,
        loss: Loss = sample_losses,
        passing: Passing | None = None,
    ):
        refuse_train_mode(net)
        if not self.supports(net, layer):
            raise ValueError(f"the layers behind {layer!r} are not a chain of known ones")
        seen = pass_through(net, batch, [layer]) if passing is None else passing
        names, modules = map(list, zip(*graph.chain(net).items(), strict=True))
        here = names.index(layer)
        after = _next_linear(modules, here)
        self.channelwise, self.suffix = modules[here + 1 : after], modules[after + 1 :]
        self.next = modules[after] if after < len(modules) else None
        if not _fits(modules, seen, here, after):
            raise ValueError(
                f"{layer!r} or the next linear map takes other inputs than (N, F) or (N, C, H, W)"
            )
        self.loss, self.y = sample_wise(loss), batch.y
        self.baseline = self.loss(seen[len(modules)].clone(), batch.y)
        self._inputs, self._h = seen[here], seen[here + 1]
        self.positions = self._h.shape[2:]
        self.a, self.z = (_images_innermost(seen[min(i, len(modules))]) for i in (after, after + 1))
        widest = max(self.z[:1].numel(), self._h[:1, :1].numel())  # floats an image
        self.step = max(1, _FLOATS // max(1, widest * len(batch.y)))

    @cached_property
    def inputs(self) -> Tensor:
        return _images_innermost(self._inputs)

    @cached_property
    def h(self) -> Tensor:
        return _images_innermost(self._h)

    @staticmethod
    def supports(net: nn.Module, layer: str) -> bool:
        """Whether `net` is a chain in which this layer is followed by layers whose structure is known.

        All of it must do what its type says: no subclasses, hooks or parametrizations.
        """
        behind = chain_behind(net, layer)
        if behind is None or not all(map(graph.is_plain, net.modules())):
            return False
        for module in behind:
            if type(module) is nn.Linear:
                return True
            if type(module) is nn.Conv2d:
                return not _special(module) and module.padding_mode == "zeros"
            if type(module) not in _CHANNELWISE:
                return False
            if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
                return False
            if getattr(module, "return_indices", False):
                return False
            if isinstance(module, graph.BATCH_NORM) and module.running_mean is None:
                return False
        return True

    @torch.no_grad()
    def losses(self, unit: int, candidates: Tensor) -> Tensor:
        """Loss of each image for each candidate: (K, N, ...) -> (K, N).

        Args:
            unit: index of the unit in its layer.
            candidates: K pre-activations of that unit for every image, (K, N) or (K, N, H, W); or, with 1 in
                the place of N, the same for all images.
        """
        parts = [self._losses(unit, part) for part in candidates.split(self.step)]
        return torch.cat(parts) if parts else self.baseline.new_empty(0, len(self.y))

    def _losses(self, unit: int, candidates: Tensor) -> Tensor:
        (k, own_images), n = candidates.shape[:2], len(self.y)
        a = candidates.movedim((0, 1), (-2, -1)).flatten(-2)  # (K, N or 1, ...) -> (..., K N or K)
        a = a.movedim(-1, 0).unsqueeze(1)  # (..., K N) -> (K N, 1, ...)
        a = a.clone() if _in_place(self.channelwise) else a  # the candidates are the caller's
        for module in self.channelwise:
            a = _channel(module, unit, a)
        own = slice(unit * a.shape[1], (unit + 1) * a.shape[1])  # 1 channel or, flattened, H W features
        if self.next is None:
            z = self.z.repeat(k, *[1] * (self.z.dim() - 1))  # (K N, units, ...)
            z.unflatten(0, (k, n))[:, :, own] = a.unflatten(0, (k, own_images))
        else:
            delta = (a.unflatten(0, (k, own_images)) - self.a[:, own]).flatten(0, 1)  # (K N, width, ...)
            z = _apply(self.next, own, delta)  # (K N, units of the next linear map, ...)
            z.unflatten(0, (k, n)).add_(self.z)
        return self.loss(_run(self.suffix, z), self.y.repeat(k, *[1] * (self.y.dim() - 1))).view(k, n)


@torch.no_grad()
def pass_through(net: nn.Sequential, batch: Batch, layers: Sequence[str]) -> Passing:
    """One forward pass, with what `Counterfactual` needs of it for some layers: it can then be shared."""
    names, modules = map(list, zip(*graph.chain(net).items(), strict=True))
    wanted = {len(modules)}
    for here in map(names.index, layers):
        after = _next_linear(modules, here)
        wanted |= {here, here + 1, after, after + 1}
    passing, x = {}, batch.x
    for i, module in enumerate([*modules, None]):
        if i in wanted:
            passing[i] = x
        if module is not None:
            # cloned: an in-place nonlinearity would overwrite what is kept, or the caller's images
            x = _run([module], x.clone() if _in_place([module]) and (i == 0 or i in wanted) else x)
    return passing


@torch.no_grad()
def fitting(net: nn.Module, batch: Batch, layers: Sequence[str]) -> list[str]:
    """Those of the layers that `Counterfactual` can take, for images like these."""
    layers = [layer for layer in layers if Counterfactual.supports(net, layer)]
    if not layers or not isinstance(batch.x, Tensor):
        return []
    names, modules = map(list, zip(*graph.chain(net).items(), strict=True))
    seen = pass_through(net, Batch(batch.x[:1], batch.y[:1]), layers)
    places = {layer: names.index(layer) for layer in layers}
    return [
        layer for layer, here in places.items() if _fits(modules, seen, here, _next_linear(modules, here))
    ]


def _fits(modules: list[nn.Module], seen: Passing, here: int, after: int) -> bool:
    """Whether a layer and the next linear map have their channels in the dimension behind the images."""
    inputs = {i: seen[i] for i in (here, after) if i < len(modules)}
    return all(x.dim() == modules[i].weight.dim() for i, x in inputs.items())


def _next_linear(modules: list[nn.Module], here: int) -> int:
    """Index of the first linear map behind a module; if there is none, how many modules there are."""
    linear = (i for i in range(here + 1, len(modules)) if isinstance(modules[i], graph.LINEAR))
    return next(linear, len(modules))


def _special(module: nn.Module) -> bool:
    """Convolutions that are left to the slow way: of groups of channels, or padded by a word."""
    return isinstance(module, nn.Conv2d) and (module.groups > 1 or isinstance(module.padding, str))


def _in_place(modules: list[nn.Module]) -> bool:
    return any(getattr(module, "inplace", False) for module in modules)


def _images_innermost(x: Tensor) -> Tensor:
    """The same tensor with the images innermost in memory, the other dimensions in the order they were."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    x = x.movedim(1, -1) if last else x
    # as a matrix: its transposition has a fast way on a CPU
    x = x.flatten(1).T.contiguous().T.unflatten(1, x.shape[1:])
    return x.movedim(-1, 1) if last else x


def _run(modules: list[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = _max_pool(module, x) if type(module) is nn.MaxPool2d else module(x)
    return x


def _max_pool(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Max-pooling as a maximum of shifted images, ten times faster here than the CPU's own kernel."""
    size, stride = _pair(pool.kernel_size), _pair(pool.stride)
    if _pair(pool.padding) != (0, 0) or _pair(pool.dilation) != (1, 1) or pool.ceil_mode:
        return pool(x)
    for dim in (0, 1):
        steps = (x.shape[2 + dim] - size[dim]) // stride[dim] * stride[dim] + 1
        shifted = [x.narrow(2 + dim, i, steps) for i in range(size[dim])]
        every = (slice(None),) * (2 + dim) + (slice(None, None, stride[dim]),)
        x = shifted[0][every]
        for other in shifted[1:]:
            x = torch.maximum(x, other[every])
    return x


def _apply(linear: nn.Linear | nn.Conv2d, own: slice, x: Tensor) -> Tensor:
    """W[:, own] x, without the bias: (M, width, ...) -> (M, units, ...)."""
    weight = linear.weight[:, own]
    if isinstance(linear, nn.Linear):
        return (weight @ x.T).T
    # A convolution of one channel: all columns of an output row are one matrix times some input rows.
    (padding, side), (stride, along), (gap, _) = linear.padding, linear.stride, linear.dilation
    x = F.pad(x, (side, side, padding, padding)) if padding or side else x
    reach, columns = gap * (weight.shape[2] - 1) + 1, x.shape[3]
    basis = torch.eye(reach * columns, dtype=x.dtype, device=x.device).view(-1, 1, reach, columns)
    band = F.conv2d(basis, weight, None, (1, along), 0, linear.dilation)  # (reach columns, units, 1, W')
    matrix = band.flatten(1).T.contiguous()  # (units W', reach columns)
    rows = x.squeeze(1).movedim(0, -1)  # (H, W, M)
    starts = range(0, rows.shape[0] - reach + 1, stride)
    out = x.new_empty(len(starts), matrix.shape[0], x.shape[0])  # (H', units W', M)
    for row, start in zip(out, starts, strict=True):
        torch.mm(matrix, rows[start : start + reach].flatten(0, 1), out=row)
    return out.unflatten(1, (len(weight), -1)).permute(3, 1, 0, 2)  # (H', units, W', M) -> (M, units, H', W')


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _channel(module: nn.Module, unit: int, x: Tensor) -> Tensor:
    """What a layer does to one channel alone: (M, 1, ...) -> (M, 1, ...)."""
    if not isinstance(module, graph.BATCH_NORM):
        return _run([module], x)
    own = slice(unit * x.shape[1], (unit + 1) * x.shape[1])
    weight, bias = (p[own] if p is not None else None for p in (module.weight, module.bias))
    statistics = module.running_mean[own], module.running_var[own]
    return F.batch_norm(x, *statistics, weight, bias, eps=module.eps)
