"""Units, and what the loss would be if one gave the same for every image (thesis: 3.1).

A unit is a channel of a convolution or an element of a linear layer; h is its output, at one position or at
many. `MeanReplacement` looks at units while the network runs: means, variances, the first-order estimate MRS
and the output gradient, in one forward and backward pass a batch. `mean_replacement_penalty` is exact (MRP).
`replaced` is the network in which units give constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from deadunits.counterfactual import Counterfactual, Loss, refuse_train_mode, sample_losses
from deadunits.data import Batch

Batches = Batch | Iterable[Batch]
Constants = str | Mapping[str, Tensor]  #: "mean", "median", "zero", or a value for each unit

CONSTANTS = ("mean", "median", "zero")
ABSOLUTES = ("sample", "element")


@dataclass(frozen=True)
class Units:
    """What was seen of a layer's units; each tensor is (units,), float64, over all images and positions."""

    mean: Tensor  #: of h
    variance: Tensor  #: of h
    constant: Tensor  #: that would stand for h
    mrs: Tensor  #: mean over images of |Σ_p (c - h_p) ∂ℓ/∂h_p|, in nats
    gradient: Tensor  #: mean over images of the norm of ∂ℓ/∂h over positions


class MeanReplacement:
    """Hooks on layers that record their units while batches run (thesis: 3.1, `meanOutputReplacer`).

    ```python
    with MeanReplacement(net, ["conv1", "fc1"]) as units:
        for batch in batches:
            units.observe(batch)
    units.seen()["conv1"].mrs  # (8,)
    ```

    MRS_i = E_n |Σ_p (c_i - h_nip) ∂ℓ_n/∂h_nip| (Eq. 3.3, for each unit and image; `absolute="sample"`), with
    c_i the mean of h_i over all images, which is known only at the end: what is kept of an image are two
    numbers a unit. With `absolute="element"`, as in the original code, E_n Σ_p |c_i - h_nip| |∂ℓ_n/∂h_nip|;
    that and the median keep all outputs and gradients in memory. MRS is for ranking: its scale drifts away
    from MRP's over training.

    Nothing of the network changes: no gradients of parameters, no statistics of batch norm. The hooks are
    gone when the block ends, however it ends; `deepcopy` within it copies them along.

    Args:
        net: the network, not in training mode where that matters (batch norm, dropout).
        layers: names of modules with outputs (N, units, ...): linear or convolutional layers, or the batch
            norm or nonlinearity behind one.
        constant: "mean", "median", "zero", or a dict from layer to (units,).
        absolute: where the absolute value is taken, "sample" or "element".

    Raises:
        ValueError: no such module; an unknown `constant` or `absolute`; in `observe`, batch norm or dropout
            in training mode, or a layer that did not run; in `seen`, no images.
    """

    def __init__(
        self, net: nn.Module, layers: Sequence[str], *, constant: Constants = "mean", absolute: str = "sample"
    ):
        known = dict(net.named_modules())
        for layer in layers:
            if layer not in known or not layer:
                raise ValueError(f"no module {layer!r}; there are: {', '.join(filter(None, known))}")
        if isinstance(constant, str) and constant not in CONSTANTS:
            raise ValueError(f"constant is to be one of {', '.join(CONSTANTS)} or a dict, got {constant!r}")
        if absolute not in ABSOLUTES:
            raise ValueError(f"absolute is to be one of {', '.join(ABSOLUTES)}, got {absolute!r}")
        self.net, self.constant, self.absolute = net, constant, absolute
        self._modules = {layer: known[layer] for layer in layers}
        self._sums = {layer: _Sums(keep=constant == "median" or absolute == "element") for layer in layers}
        self._pass = _Pass()
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> MeanReplacement:
        for layer, module in self._modules.items():
            self._handles.append(module.register_forward_hook(_Keep(self._pass, layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def observe(self, batch: Batch, loss: Loss = sample_losses) -> None:
        """One forward and backward pass; `loss` is (outputs, labels) -> (N,)."""
        refuse_train_mode(self.net)
        trained = [one for one in self.net.parameters() if one.requires_grad]
        try:
            for one in trained:  # so that no gradients of parameters are computed
                one.requires_grad_(False)
            self._pass.outputs = {}
            with torch.enable_grad():
                total = loss(self.net(batch.x), batch.y).sum()
            seen = self._pass.outputs
            missing = [layer for layer in self._modules if layer not in seen]
            if missing:
                raise ValueError(f"{', '.join(missing)} did not run: use MeanReplacement as a `with` block")
            outputs = [h for layer in self._modules for h in seen[layer]]
            gradients = iter(torch.autograd.grad(total, outputs, materialize_grads=True))
        finally:
            self._pass.outputs = None
            for one in trained:
                one.requires_grad_(True)
        for layer, sums in self._sums.items():
            sums.add([(h.detach(), next(gradients)) for h in seen[layer]])

    def seen(self) -> dict[str, Units]:
        """What was seen so far, by layer."""
        return {
            layer: sums.units(
                self.constant if isinstance(self.constant, str) else self.constant[layer], self.absolute
            )
            for layer, sums in self._sums.items()
        }


@dataclass
class _Pass:
    """Outputs by layer while `observe` runs the network, None at all other times."""

    outputs: dict[str, list[Tensor]] | None = None


@dataclass
class _Keep:
    """A forward hook that keeps a layer's output and hands on a copy, which may be changed in place."""

    current: _Pass
    layer: str

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], h: Tensor) -> Tensor:
        if self.current.outputs is None:
            return h
        if not h.requires_grad:
            h = h.detach().requires_grad_()
        self.current.outputs.setdefault(self.layer, []).append(h)
        return h.clone()


class _Sums:
    """Running sums over images, in float64; a module that runs twice in a pass counts as more positions."""

    def __init__(self, keep: bool):
        self.keep = keep
        self.count, self.first, self.second = 0, 0.0, 0.0  # values, Σ h, Σ h²
        self.gradients: list[Tensor] = []  # Σ_p g, (N, units) a batch
        self.products: list[Tensor] = []  # Σ_p h g, (N, units) a batch
        self.norms: list[Tensor] = []  # (N, units) a batch
        self.kept: list[tuple[Tensor, Tensor]] = []  # h and g, (N, units, positions) a batch

    def add(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        sides = ([_by_position(one) for one in side] for side in zip(*pairs, strict=True))
        h, g = (side[0] if len(side) == 1 else torch.cat(side, 2) for side in sides)
        self.count += h.shape[0] * h.shape[2]
        # sums over the positions of an image as the network computes, over images in float64
        self.first = self.first + h.sum(2).double().sum(0)
        self.second = self.second + torch.linalg.vecdot(h, h).double().sum(0)
        self.gradients.append(g.sum(2).double())
        self.products.append(torch.linalg.vecdot(h, g).double())
        self.norms.append(torch.linalg.vecdot(g, g).double().sqrt())
        if self.keep:
            self.kept.append((h, g))

    def units(self, constant: str | Tensor, absolute: str) -> Units:
        if self.count == 0:
            raise ValueError("no images were observed")
        mean = self.first / self.count
        variance = (self.second / self.count - mean.square()).clamp_min(0)
        if isinstance(constant, Tensor):
            c = constant.to(mean)
        elif constant == "median":
            values = torch.cat([h.movedim(1, 0).flatten(1) for h, _ in self.kept], 1)  # (units, values)
            c = values.double().median(1).values
        else:
            c = mean if constant == "mean" else torch.zeros_like(mean)
        if absolute == "element":
            sizes = [((c[:, None] - h.double()).abs() * g.double().abs()).sum(2) for h, g in self.kept]
            mrs = torch.cat(sizes).mean(0)
        else:
            mrs = (c * torch.cat(self.gradients) - torch.cat(self.products)).abs().mean(0)
        return Units(mean, variance, c, mrs, torch.cat(self.norms).mean(0))


def _by_position(h: Tensor) -> Tensor:
    """(N, units) or (N, units, H, W) -> (N, units, positions)."""
    return h.flatten(2) if h.dim() > 2 else h[:, :, None]


def observe(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    constant: Constants = "mean",
    absolute: str = "sample",
    loss: Loss = sample_losses,
) -> dict[str, Units]:
    """`MeanReplacement` over all batches: what was seen of each layer's units."""
    with MeanReplacement(net, layers, constant=constant, absolute=absolute) as units:
        for batch in [batches] if isinstance(batches, Batch) else batches:
            units.observe(batch, loss)
    return units.seen()


@torch.no_grad()
def mean_replacement_penalty(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    constant: Constants = "mean",
    absolute: bool = True,
    loss: Loss = sample_losses,
) -> dict[str, Tensor]:
    """The exact change of the loss when a unit gives the same for every image, for each unit alone.

    MRP_i = E_n |ℓ_n(h_i = c_i) - ℓ_n|, in nats (thesis: Eq. 3.1, `mrpScorer`), or without the absolute value.
    Linear and convolutional layers in a chain of known ones take the fast way (`Counterfactual`), all others
    a forward pass a unit. Batches are kept, since they are needed twice. Arguments and errors as for
    `MeanReplacement`.

    Returns: name of a layer -> (units,), float64.
    """
    batches = [batches] if isinstance(batches, Batch) else list(batches)
    seen = observe(net, batches, layers, constant=constant, loss=loss)
    images = sum(len(batch.y) for batch in batches)
    penalties = {}
    for layer, units in seen.items():
        ask = _ask_fast if Counterfactual.supports(net, layer) else _ask_slow
        changes = (ask(net, batch, layer, units.constant, loss) for batch in batches)  # (units, N) each
        sums = [(one.abs() if absolute else one).double().sum(1) for one in changes]
        penalties[layer] = torch.stack(sums).sum(0) / images
    return penalties


@contextmanager
def replaced(net: nn.Module, constants: Mapping[str, Mapping[int, float]]) -> Iterator[nn.Module]:
    """The network in which units give constants: layer -> {unit: its output}, while the block lasts."""
    known = dict(net.named_modules())

    def put(of: Mapping[int, float]) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], h: Tensor) -> Tensor:
            h = h.clone()
            for unit, value in of.items():
                h[:, unit] = value
            return h

        return hook

    handles = []
    try:
        for layer, of in constants.items():
            handles.append(known[layer].register_forward_hook(put(of)))
        yield net
    finally:
        for handle in handles:
            handle.remove()


def _ask_fast(net: nn.Module, batch: Batch, layer: str, constants: Tensor, loss: Loss) -> Tensor:
    asked = Counterfactual(net, batch, layer, loss)
    shape = asked.h[:, 0].shape  # (N, ...)
    changes = [
        asked.losses(unit, asked.h.new_full((1, *shape), float(constant)))[0] - asked.baseline
        for unit, constant in enumerate(constants)
    ]
    return torch.stack(changes)  # (units, N)


def _ask_slow(net: nn.Module, batch: Batch, layer: str, constants: Tensor, loss: Loss) -> Tensor:
    before = loss(net(batch.x), batch.y)
    changes = []
    for unit, constant in enumerate(constants.tolist()):
        with replaced(net, {layer: {unit: constant}}):
            changes.append(loss(net(batch.x), batch.y) - before)
    return torch.stack(changes)  # (units, N)
