"""Derivatives of the mean loss with respect to chosen weights: gradient, Hessian products, Hessian, diagonal.

All are means over the images of any number of batches, for any `nn.Module`. The network, its mode, its
gradients and the global random state are as before afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F

from deadunits import batches as samples
from deadunits import graph
from deadunits.batches import Batches, Loss, sample_losses
from deadunits.data import Batch
from deadunits.incremental import by_position

Tensors = dict[str, Tensor]
Part = Callable[[Batch], Tensors]  #: sums over some images
Pairs = tuple[Sequence[Tensor], Sequence[Tensor]]

_PIECEWISE_LINEAR = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.ReLU6, nn.Flatten, nn.Dropout, nn.Identity),
)
_CHUNK = 500  # images at once: more of them fall out of the processor's cache
_DENSE = 5000  # weights, at most, in a dense Hessian: 100 MB in float32


def gradient(
    net: nn.Module, batches: Batches, names: Sequence[str], *, loss: Loss = sample_losses
) -> Tensors:
    """The gradient of the mean loss, ∂L/∂w_i: a dict from name to a tensor of the parameter's shape.

    Args:
        net: the network, not in training mode where that matters (batch norm, dropout).
        batches: a `Batch` or several.
        names: parameters, as in `net.named_parameters()`.
        loss: (outputs, labels) -> (N,), the loss of each sample.

    Raises:
        ValueError: an unknown name, no images, batch norm or dropout in training mode.
    """

    def first(batch: Batch) -> Tensors:
        with _total(net, batch, names, loss) as (values, total):
            return dict(zip(names, torch.autograd.grad(total, values, materialize_grads=True), strict=True))

    return over_batches(net, batches, names, first)


def hessian_vector(
    net: nn.Module, batches: Batches, vector: Mapping[str, Tensor], *, loss: Loss = sample_losses
) -> Tensors:
    """The product of the Hessian with a vector, (H v)_i = Σ_j ∂²L/∂w_i∂w_j v_j, over the names of `vector`.

    By differentiating the gradient in the direction of v (Pearlmutter 1994): forward over reverse where all
    operations of the network allow it, else by another backward pass. About three times the work of a
    gradient. Arguments and errors as for `gradient`.

    Args:
        vector: a dict from name to a tensor of the parameter's shape.
    """
    return gradient_and_product(net, batches, vector, loss=loss)[1]


def gradient_and_product(
    net: nn.Module, batches: Batches, vector: Mapping[str, Tensor], *, loss: Loss = sample_losses
) -> tuple[Tensors, Tensors]:
    """`gradient` and `hessian_vector` for the work of the second alone."""
    names = list(vector)
    every = net.named_parameters(remove_duplicate=False)
    # `functional_call` leaves a network with tied weights changed (torch 2.15)
    forward = len(list(every)) == len(list(net.parameters()))

    def both(batch: Batch) -> Pairs:
        nonlocal forward
        if forward:
            try:
                return _forward_over_reverse(net, batch, vector, loss)
            except NotImplementedError:  # by an operation without it, which is in every batch
                forward = False
        with _total(net, batch, names, loss) as (values, total):
            first = torch.autograd.grad(total, values, create_graph=True, materialize_grads=True)
            inner = _flat(first) @ _flat([vector[name] for name in names])
            return [one.detach() for one in first], _second(inner, values)

    return _pairs(net, batches, names, both)


def hessian(net: nn.Module, batches: Batches, names: Sequence[str], *, loss: Loss = sample_losses) -> Tensor:
    """The dense Hessian of the mean loss, (n, n), over all n weights of `names`, flattened in that order.

    One backward pass a weight and batch: for small n. Arguments as for `gradient`.

    Raises:
        ValueError: as for `gradient`; more than 5,000 weights.
    """
    n = sum(parameters(net, names)[name].numel() for name in names)
    if n > _DENSE:
        others = "`hessian_vector` gives its products, `hessian_diagonal` its diagonal"
        raise ValueError(f"a dense Hessian of {n:,} weights is too large: {_DENSE:,} at most; {others}")

    def rows(batch: Batch) -> Tensors:
        with _total(net, batch, names, loss) as (values, total):
            first = torch.autograd.grad(total, values, create_graph=True, materialize_grads=True)
            found = [_flat(_second(one, values)) for g in first for one in g.flatten()]
        return {"": torch.stack(found) if found else total.new_zeros(0, 0)}

    return over_batches(net, batches, names, rows)[""]


def hessian_diagonal(
    net: nn.Module, batches: Batches, names: Sequence[str], *, loss: Loss = sample_losses
) -> Tensors:
    """The diagonal of the Hessian, ∂²L/∂w_i², exact.

    Where all that follows a layer is piecewise linear in its weights (`gauss_newton_is_exact`), its block of
    the Hessian is Gauss-Newton's, H = Jᵀ (∂²ℓ/∂z²) J with J the Jacobian of the outputs z: a backward pass
    an output. Elsewhere (tanh behind the layer, unknown structure) a Hessian-vector product a weight: slow.
    Arguments and errors as for `gradient`.
    """
    return gradient_and_diagonal(net, batches, names, loss=loss)[1]


def gradient_and_diagonal(
    net: nn.Module, batches: Batches, names: Sequence[str], *, loss: Loss = sample_losses
) -> tuple[Tensors, Tensors]:
    """`gradient` and `hessian_diagonal` from the same images, which are asked for once."""

    def both(batch: Batch) -> Pairs:
        with _total(net, batch, names, loss) as (values, total):
            first = torch.autograd.grad(total, values, materialize_grads=True)
        ways = {True: _gauss_newton, False: _plain_diagonal}
        return first, [ways[gauss_newton_is_exact(net, name)](net, batch, name, loss) for name in names]

    return _pairs(net, batches, names, both)


def gauss_newton_is_exact(net: nn.Module, name: str) -> bool:
    """Whether Gauss-Newton's diagonal is the Hessian's, for a layer's weights in a chain of known layers."""
    layer, _, kind = name.rpartition(".")
    behind = graph.plain_behind(net, layer)
    return kind == "weight" and behind is not None and all(type(one) in _PIECEWISE_LINEAR for one in behind)


class Signals(NamedTuple):
    """What Eq. 2.4 multiplies, for each image n, unit u, weight k of it and position p of its output."""

    gradients: Tensor  #: ∂ℓ_n/∂w_uk, (N, units, fan-in)
    outputs: Tensor  #: ∂ℓ_n/∂h_up, the unit's output gradient, (N, units, positions)
    inputs: Tensor  #: what the weight is multiplied with there, (N, fan-in, positions)


def signals(net: nn.Module, batch: Batch, layer: str, *, loss: Loss = sample_losses) -> Signals:
    """The gradient of each image's own loss and its two factors (thesis: Eq. 2.4).

    ∂ℓ_n/∂w_uk = Σ_p ∂ℓ_n/∂h_up x_kp, for an `nn.Linear` (one position) or an `nn.Conv2d` without groups.

    Raises:
        ValueError: another kind of layer, batch norm or dropout in training mode.
    """
    batch = samples.checked(net, batch)
    inputs, h, z = _captured(net, batch, layer)
    with torch.enable_grad():
        (outputs,) = torch.autograd.grad(samples.sample_wise(loss)(z, batch.y).sum(), h)
    axis = graph.unit_axis(net.get_submodule(layer))
    outputs = by_position(outputs, axis, 0, len(outputs))  # (N, units, positions)
    return Signals(outputs @ inputs.transpose(1, 2), outputs, inputs)


def over_batches(
    net: nn.Module, batches: Batches, names: Sequence[str], part: Part, size: int = _CHUNK
) -> Tensors:
    """Mean over all images of what `part` sums over at most `size` of them.

    Raises:
        ValueError: an unknown name, no images, batch norm or dropout in training mode.
    """
    parameters(net, names)
    totals: Tensors = {}
    images = 0
    for batch in samples.batches_of(net, batches):
        images += len(batch.y)
        for portion in samples.split(batch, min(size, max(1, len(batch.y)))):
            for name, value in part(portion).items():
                totals[name] = totals[name] + value if name in totals else value
    if images == 0:
        raise ValueError("no images to score on: an empty batch, or no batches")
    return {name: total / images for name, total in totals.items()}


def _pairs(
    net: nn.Module, batches: Batches, names: Sequence[str], both: Callable[[Batch], Pairs]
) -> tuple[Tensors, Tensors]:
    """`over_batches` for two quantities at once."""

    def part(batch: Batch) -> Tensors:
        first, second = both(batch)
        pairs = zip(names, first, second, strict=True)
        return {(name, kind): one for name, *two in pairs for kind, one in enumerate(two)}

    found = over_batches(net, batches, names, part)
    return tuple({name: found[name, kind] for name in names} for kind in (0, 1))


def parameters(net: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The network's parameters by name; a ValueError if one of `names` is not among them."""
    known = dict(net.named_parameters())
    for name in [names] if isinstance(names, str) else names:
        if name not in known or isinstance(names, str):
            right = f"a list of parameters of this network, among: {', '.join(known)}"
            raise ValueError(f"names must be {right}; got {names!r}")
    return known


@contextmanager
def _total(
    net: nn.Module, batch: Batch, names: Sequence[str], loss: Loss
) -> Iterator[tuple[list[nn.Parameter], Tensor]]:
    """The chosen weights, which may be frozen otherwise, and the summed loss as a function of them."""
    known = dict(net.named_parameters())
    values = [known[name] for name in names]
    frozen = [one for one in values if not one.requires_grad]
    try:
        for one in frozen:
            one.requires_grad_()
        with torch.enable_grad():
            yield values, samples.losses_of(net, batch, loss).sum()
    finally:
        for one in frozen:
            one.requires_grad_(False)


def _forward_over_reverse(net: nn.Module, batch: Batch, vector: Mapping[str, Tensor], loss: Loss) -> Pairs:
    """The gradient of dual numbers w + ε v is g + ε H v: a forward and a backward pass of twice the work."""
    known = dict(net.named_parameters())
    with warnings.catch_warnings(), forward_ad.dual_level(), torch.enable_grad():
        # torch's own, when it loads its rules of the forward mode
        warnings.filterwarnings("ignore", message=".*torch.jit.script. is", category=FutureWarning)
        at = {name: (known[name].detach().requires_grad_(), v.to(known[name])) for name, v in vector.items()}
        duals = {name: forward_ad.make_dual(*pair) for name, pair in at.items()}
        x = (batch.x,) if isinstance(batch.x, Tensor) else batch.x
        outputs = functional_call(net, duals, *(((), x) if isinstance(x, dict) else (x,)))
        total = samples.sample_wise(loss)(outputs, batch.y).sum()
        found = torch.autograd.grad(total, list(duals.values()), materialize_grads=True)
        parts = [forward_ad.unpack_dual(one) for one in found]
    first = [primal.detach() for primal, _ in parts]
    tangents = zip(first, (tangent for _, tangent in parts), strict=True)
    return first, [torch.zeros_like(g) if t is None else t.detach() for g, t in tangents]


def _second(first: Tensor, values: Sequence[Tensor]) -> Sequence[Tensor]:
    """The gradient of a number that was made of gradients."""
    if not first.requires_grad:  # the loss is linear in these weights
        return [torch.zeros_like(one) for one in values]
    return torch.autograd.grad(first, values, retain_graph=True, materialize_grads=True)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in tensors])


def _plain_diagonal(net: nn.Module, batch: Batch, name: str, loss: Loss) -> Tensor:
    """A backward pass a weight: (∂/∂w_i of the gradient)_i. Sum over the batch."""
    with _total(net, batch, [name], loss) as (values, total):
        (first,) = torch.autograd.grad(total, values, create_graph=True, materialize_grads=True)
        elements = [_second(one, values)[0].flatten()[i] for i, one in enumerate(first.flatten())]
    return torch.stack(elements).view(first.shape) if elements else torch.zeros_like(first)


def _gauss_newton(net: nn.Module, batch: Batch, name: str, loss: Loss) -> Tensor:
    """Σ_n Σ_c λ_nc (v_ncᵀ J_n)², with λ and v the eigenpairs of each image's ∂²ℓ/∂z²."""
    inputs, h, z = _captured(net, batch, name.rpartition(".")[0])
    if not z.isfinite().all():  # the training has diverged; `eigh` would raise an error
        return torch.full_like(net.get_parameter(name), torch.nan)
    curvatures, directions = torch.linalg.eigh(_output_curvature(z.detach(), batch.y, loss))
    squares = inputs.square().squeeze(2) if h.dim() == 2 else None
    total = 0
    for c in range(z.shape[1]):
        curvature = curvatures[:, c, None, None]
        if not curvature.any():
            continue
        (g,) = torch.autograd.grad(z, h, directions[:, :, c], retain_graph=True)
        if squares is not None:  # one position: (g x)² = g² x²
            total = total + (g.square() * curvature[:, 0]).T @ squares
        else:
            g = by_position(g, graph.unit_axis(net.get_submodule(name.rpartition(".")[0])), 0, len(g))
            total = total + ((g @ inputs.transpose(1, 2)).square() * curvature).sum(0)
    shape = net.get_parameter(name).shape
    return total.view(shape) if isinstance(total, Tensor) else h.new_zeros(shape)


def _output_curvature(z: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """∂²ℓ_n/∂z_n² of each image: (N, C), (N,) -> (N, C, C)."""
    z = z.requires_grad_()
    with torch.enable_grad():
        (first,) = torch.autograd.grad(loss(z, y).sum(), z, create_graph=True, materialize_grads=True)
        rows = [_second(first[:, c].sum(), [z])[0] for c in range(z.shape[1])]
    return torch.stack(rows, 1).detach()


def _captured(net: nn.Module, batch: Batch, layer: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of a layer by weight and position, its pre-activations, and the outputs as their function."""
    module = net.get_submodule(layer)
    if not isinstance(module, graph.LINEAR) or getattr(module, "groups", 1) > 1:
        raise ValueError(f"{layer} must be an nn.Linear or an nn.Conv2d without groups, got {module}")
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], h: Tensor) -> Tensor:
        h = h.detach().requires_grad_()
        seen.extend((inputs[0].detach(), h))
        return h.clone()  # what follows may work in place

    with samples.removing([module.register_forward_hook(keep)]), torch.enable_grad():
        z = samples.forward(net, batch.x)
    if len(seen) != 2:
        raise ValueError(f"{layer} is used {len(seen) // 2} times in a forward pass; once is needed")
    x, h = seen
    if len(h) != len(batch.y) or (h.dim() != 4 and isinstance(module, nn.Conv2d)):
        raise ValueError(f"{layer} gives {tuple(h.shape)} for {len(batch.y)} images: must be (N, ...)")
    return inputs_by_position(module, x), h, z


def inputs_by_position(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What each weight of a unit is multiplied with: (N, inputs, positions)."""
    if isinstance(module, nn.Linear):
        return x.unsqueeze(1).flatten(1, -2).transpose(1, 2)  # (N, ..., inputs)
    return F.unfold(graph.padded(module, x), module.kernel_size, module.dilation, 0, module.stride)
