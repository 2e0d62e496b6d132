"""What scorers take: images in any form, and the loss of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deadunits.data import Batch

Loss = Callable[[Tensor, Tensor], Tensor]  #: (outputs, labels) -> (N,), the loss of each sample
_RANDOM = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # while in training mode

Batches = Batch | Iterable[Batch]  #: a `Batch`, several, or any pairs (x, y), as a `DataLoader` gives them


def mapped(change: Callable[[Tensor], Tensor], x: object) -> object:
    """A tensor, or a tuple, list or dict of them, with each changed."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, dict):
        return {name: mapped(change, value) for name, value in x.items()}
    return tuple(mapped(change, value) for value in x) if isinstance(x, (tuple, list)) else x


def tensors(x: object) -> list[Tensor]:
    """The tensors of a tensor, or of a tuple, list or dict of them."""
    found: list[Tensor] = []
    mapped(lambda tensor: found.append(tensor) or tensor, x)
    return found


def batches_of(net: nn.Module, batches: Batches) -> Iterator[Batch]:
    """All batches, on the network's device; the global random state is as before afterwards.

    Args:
        batches: a pair (x, y), or several: a list, a generator, a `DataLoader`. x is a tensor, or a tuple or
            dict of them, for which the network is called as `net(*x)` or `net(**x)`; y is a tensor.

    Raises:
        ValueError: batch norm or dropout in training mode; not pairs; images and labels of different number;
            floating-point inputs of another type than the network's weights.
    """
    random = torch.get_rng_state()
    try:
        for pair in [batches] if _is_pair(batches) else batches:
            yield checked(net, pair)
    finally:
        torch.set_rng_state(random)


def checked(net: nn.Module, pair: Batch) -> Batch:
    """One pair as a `Batch` on the network's device; errors as for `batches_of`."""
    refuse_train_mode(net)
    if not _is_pair(pair):
        got = type(pair).__name__
        raise ValueError(f"a batch must be a pair (x, y) with a tensor of labels y, got {got}")
    weights = [weight for weight in net.parameters() if weight.is_floating_point()]
    devices, types = ({getattr(weight, of) for weight in weights} for of in ("device", "dtype"))
    batch = Batch(*pair)
    if len(devices) == 1:
        batch = Batch(*(mapped(lambda x: x.to(*devices), part) for part in pair))
    for x in tensors(batch.x):
        other = x.is_floating_point() and types and x.dtype not in types
        if other and not torch.is_autocast_enabled(x.device.type):
            (dtype, *_) = types
            raise ValueError(f"the images are {x.dtype}, the network's weights {dtype}: use x.to({dtype})")
        if x.dim() == 0 or len(x) != len(batch.y):
            raise ValueError(f"x and y must have one length, got {tuple(x.shape)} and {tuple(batch.y.shape)}")
    return batch


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch in parts of at most `size` images."""
    for start in range(0, len(batch.y), size):
        yield Batch(*(mapped(lambda x, start=start: x[start : start + size], part) for part in batch))


def forward(net: nn.Module, x: object) -> object:
    """The outputs for a tensor, a tuple (`net(*x)`) or a dict (`net(**x)`)."""
    if isinstance(x, dict):
        return net(**x)
    return net(*x) if isinstance(x, (tuple, list)) else net(x)


@contextmanager
def removing(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks when the block ends, however it ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The network in eval mode while the block lasts."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def sample_wise(loss: Loss) -> Loss:
    """The same loss, with an error where it is no loss of each sample.

    Raises:
        ValueError: when called, a result of another shape than (N,).
    """

    def losses(outputs: Tensor, y: Tensor) -> Tensor:
        values = loss(outputs, y)
        if values.shape != (len(y),):
            way_out = "take the mean of each sample: .flatten(1).mean(1)"
            if values.dim() == 0:
                way_out = "without its mean: functools.partial(F.cross_entropy, reduction='none'), say"
            shapes = f"({len(y)},), got {tuple(values.shape)}"
            raise ValueError(f"loss must give the loss of each sample, {shapes}: {way_out}")
        return values

    return losses


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


def losses_of(net: nn.Module, batch: Batch, loss: Loss) -> Tensor:
    """The loss of each sample, (N,)."""
    return sample_wise(loss)(forward(net, batch.x), batch.y)


def warn_of_rounding(net: nn.Module, what: str) -> None:
    """Warn where losses are computed in half precision: their differences drown."""
    half = {weight.dtype for weight in net.parameters()} & {torch.bfloat16, torch.float16}
    names = [str(dtype) for dtype in half]
    names += ["autocast"] if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))) else []
    if names:
        effect = "differences of losses drown in rounding; use net.float()"
        warnings.warn(f"{what} in {', '.join(names)}: {effect}", stacklevel=3)


def _is_pair(batches: object) -> bool:
    pair = isinstance(batches, (tuple, list)) and len(batches) == 2
    return pair and isinstance(batches[1], Tensor) and isinstance(batches[0], (Tensor, tuple, list, dict))
