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

from deadunits import graph
from deadunits.counterfactual import (
    Counterfactual,
    Loss,
    Passing,
    pass_through,
    refuse_train_mode,
    sample_losses,
)
from deadunits.data import Batch

Batches = Batch | Iterable[Batch]
Constants = str | Mapping[str, Tensor]  #: "mean", "median", "zero", or a value for each unit

CONSTANTS = ("mean", "median", "zero")
ABSOLUTES = ("sample", "element")
_CHUNK = 250  # images at once: what stays in the processor's cache


@dataclass(frozen=True)
class Units:
    """What was seen of a layer's units; each tensor is (units,), float64, over all images and positions."""

    mean: Tensor  #: of h
    variance: Tensor  #: of h
    constant: Tensor  #: that would stand for h
    mrs: Tensor  #: mean over images of |Σ_p (c - h_p) ∂ℓ/∂h_p|, in nats
    change: Tensor  #: the same without the absolute value: the first-order change of the mean loss
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
        _check(net, layers, constant)
        if absolute not in ABSOLUTES:
            raise ValueError(f"absolute must be one of {', '.join(ABSOLUTES)}, got {absolute!r}")
        self.net, self.constant, self.absolute = net, constant, absolute
        self._modules = {layer: net.get_submodule(layer) for layer in layers}
        self._sums = self._empty()
        self._loss, self._images = 0.0, 0  # Σ over images
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
        """A forward and backward pass over the images; `loss` is (outputs, labels) -> (N,)."""
        refuse_train_mode(self.net)
        trained = [one for one in self.net.parameters() if one.requires_grad]
        sums, total = self._empty(), 0.0
        try:
            for one in trained:  # so that no gradients of parameters are computed
                one.requires_grad_(False)
            for some in map(Batch, batch.x.split(_CHUNK), batch.y.split(_CHUNK)):
                part, found = self._observe(some, loss)
                total += part
                for layer, pairs in found.items():
                    sums[layer].add(pairs)
        finally:
            self._pass.outputs = None
            for one in trained:
                one.requires_grad_(True)
        for layer, more in sums.items():  # here, so that an exception leaves no half of a batch behind
            self._sums[layer].merge(more)
        self._loss, self._images = self._loss + total, self._images + len(batch.y)

    def _observe(self, batch: Batch, loss: Loss) -> tuple[float, dict[str, list[tuple[Tensor, Tensor]]]]:
        """The sum of the losses; outputs and their gradients, by layer."""
        self._pass.outputs = seen = {}
        changed = self._pass.copies
        try:
            with torch.enable_grad():
                losses = loss(self.net(batch.x), batch.y)
                total = losses.sum()
            changed = any(h._version != version for pairs in seen.values() for h, version in pairs)
        except RuntimeError:  # an output that needs a gradient may have been about to be changed in place
            if self._pass.copies:
                raise
            changed = True
        if changed and not self._pass.copies:
            self._pass.copies = True
            return self._observe(batch, loss)
        missing = [layer for layer in self._modules if layer not in seen]
        if missing:
            raise ValueError(f"{', '.join(missing)} did not run: use MeanReplacement as a `with` block")
        outputs = [h for layer in self._modules for h, _ in seen[layer]]
        gradients = iter(torch.autograd.grad(total, outputs, materialize_grads=True))
        pairs = {layer: [(h.detach(), next(gradients)) for h, _ in seen[layer]] for layer in self._modules}
        return losses.double().sum().item(), pairs

    @property
    def loss(self) -> float:
        """Mean loss of the images seen so far; not a number if there are none."""
        return self._loss / self._images if self._images else float("nan")

    def _empty(self) -> dict[str, _Sums]:
        keep = self.constant == "median" or self.absolute == "element"
        return {layer: _Sums(keep) for layer in self._modules}

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

    outputs: dict[str, list[tuple[Tensor, int]]] | None = None  # each with its version at that time
    copies: bool = False  # whether the network works on copies, because it changes outputs in place


@dataclass
class _Keep:
    """A forward hook that keeps a layer's output and, where that would be changed in place, gives a copy."""

    current: _Pass
    layer: str

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], h: Tensor) -> Tensor:
        if self.current.outputs is None:
            return h
        if not h.requires_grad:
            h = h.detach().requires_grad_()
        self.current.outputs.setdefault(self.layer, []).append((h, h._version))
        return h.clone() if self.current.copies else h


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
        self.second = self.second + h.square().sum(2).double().sum(0)
        self.gradients.append(g.sum(2).double())
        self.products.append(torch.linalg.vecdot(h, g).double())
        self.norms.append(torch.linalg.vecdot(g, g).double().sqrt())
        if self.keep:
            self.kept.append((h, g))

    def merge(self, more: _Sums) -> None:
        self.count += more.count
        self.first, self.second = self.first + more.first, self.second + more.second
        for name in ("gradients", "products", "norms", "kept"):
            getattr(self, name).extend(getattr(more, name))

    def units(self, constant: str | Tensor, absolute: str) -> Units:
        if self.count == 0:
            raise ValueError("no images were observed")
        mean = self.first / self.count
        variance = (self.second / self.count - mean.square()).clamp_min(0)
        if isinstance(constant, Tensor):
            c = constant.to(mean)
        elif constant == "median":
            c = _median([h for h, _ in self.kept])
        else:
            c = mean if constant == "mean" else torch.zeros_like(mean)
        changes = c * torch.cat(self.gradients) - torch.cat(self.products)  # (N, units)
        sizes = changes.abs()
        if absolute == "element":
            sizes = torch.cat(
                [((c[:, None] - h.double()).abs() * g.double().abs()).sum(2) for h, g in self.kept]
            )
        return Units(mean, variance, c, sizes.mean(0), changes.mean(0), torch.cat(self.norms).mean(0))


def _by_position(h: Tensor) -> Tensor:
    """(N, units) or (N, units, H, W) -> (N, units, positions)."""
    return h.flatten(2) if h.dim() > 2 else h[:, :, None]


def _median(values: Sequence[Tensor]) -> Tensor:
    """Of each unit over all images and positions: several (N, units, ...) -> (units,)."""
    by_unit = torch.cat([_by_position(h).movedim(1, 0).flatten(1) for h in values], 1)  # (units, values)
    return by_unit.double().median(1).values


def _check(net: nn.Module, layers: Sequence[str], constant: Constants) -> None:
    known = [name for name, _ in net.named_modules() if name]
    for layer in layers:
        if layer not in known:
            raise ValueError(f"no module {layer!r}; there are: {', '.join(known)}")
    if isinstance(constant, str) and constant not in CONSTANTS:
        raise ValueError(f"constant must be one of {', '.join(CONSTANTS)} or a dict, got {constant!r}")


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
    _check(net, layers, constant)
    refuse_train_mode(net)
    batches = [batches] if isinstance(batches, Batch) else list(batches)
    images = sum(len(batch.y) for batch in batches)
    if images == 0:
        raise ValueError("no images were observed")
    fast = [layer for layer in layers if Counterfactual.supports(net, layer)]
    slow = [layer for layer in layers if layer not in fast]
    seen = observe(net, batches, slow, constant=constant, loss=loss) if slow else {}
    # the pass that finds the means of a single batch serves again; several would fill the memory
    first = [pass_through(net, batch, fast) for batch in batches[:1]] if len(batches) == 1 and fast else None
    c = {layer: units.constant for layer, units in seen.items()}
    c |= _constants(net, first or (pass_through(net, batch, fast) for batch in batches), fast, constant)
    totals: dict[str, Tensor] = {}
    for batch in batches:
        passing = first[0] if first else pass_through(net, batch, fast) if fast else None
        for layer in layers:
            if layer in fast:
                changes = _ask_fast(Counterfactual(net, batch, layer, loss, passing), c[layer])
            else:
                changes = _ask_slow(net, batch, layer, c[layer], loss)  # (units, N)
            total = (changes.abs() if absolute else changes).double().sum(1)
            totals[layer] = totals[layer] + total if layer in totals else total
    return {layer: total / images for layer, total in totals.items()}


def _constants(
    net: nn.Sequential, passings: Iterable[Passing], layers: Sequence[str], constant: Constants
) -> dict[str, Tensor]:
    """What stands for each unit: name of a layer -> (units,), float64."""
    if not isinstance(constant, str):
        return {layer: constant[layer].double() for layer in layers}
    names = list(graph.chain(net) or ())
    behind = {layer: names.index(layer) + 1 for layer in layers}
    kept: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for passing in passings if layers else ():
        for layer, values in kept.items():
            h = _by_position(passing[behind[layer]])
            # sums over the positions of an image as the network computes, over images in float64
            values.append(h if constant == "median" else h.sum(2).double() / h.shape[2])
    if constant == "median":
        return {layer: _median(values) for layer, values in kept.items()}
    means = {layer: torch.cat(values).mean(0) for layer, values in kept.items()}
    return means if constant == "mean" else {layer: torch.zeros_like(mean) for layer, mean in means.items()}


def dead(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    below: float = 0.05,
    constant: Constants = "mean",
    loss: Loss = sample_losses,
) -> dict[str, Tensor]:
    """Units that hardly matter: MRP_i ≤ `below` times the mean of their layer (thesis: Def. 3.2.2).

    The thesis sets no threshold, because penalties depend on the loss and on the size of a layer; relative to
    the layer's mean, one number serves all. In a layer whose penalties are all 0, all are dead. Arguments and
    errors as for `mean_replacement_penalty`.

    Returns: name of a layer -> (units,), bool.
    """
    penalties = mean_replacement_penalty(net, batches, layers, constant=constant, loss=loss)
    return {layer: small(penalty, below) for layer, penalty in penalties.items()}


def frozen(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    below: float = 0.05,
    loss: Loss = sample_losses,
) -> dict[str, Tensor]:
    """Units that hardly get a gradient: E_n ‖∂ℓ_n/∂h_i‖ ≤ `below` times the layer's mean (Def. 3.2.1).

    A frozen unit's weights stay as they are; it may still matter, and a dead one may still learn. Arguments
    and errors as for `observe`.

    Returns: name of a layer -> (units,), bool.
    """
    seen = observe(net, batches, layers, loss=loss)
    return {layer: small(units.gradient, below) for layer, units in seen.items()}


def small(values: Tensor, below: float) -> Tensor:
    """Which values of a layer's units, (units,), are at most `below` times their mean.

    Raises:
        ValueError: a threshold that is not from 0 up to 1.
    """
    if not 0 <= below < 1:
        raise ValueError(f"below is a share of the layer's mean, from 0 up to 1, got {below}")
    return values <= below * values.mean()


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


def _ask_fast(asked: Counterfactual, constants: Tensor) -> Tensor:
    one = asked.baseline.new_ones(1, 1, *asked.positions)  # a candidate that is the same for all images
    changes = [
        asked.losses(unit, constant * one)[0] - asked.baseline
        for unit, constant in enumerate(constants.tolist())
    ]
    return torch.stack(changes)  # (units, N)


def _ask_slow(net: nn.Module, batch: Batch, layer: str, constants: Tensor, loss: Loss) -> Tensor:
    before = loss(net(batch.x), batch.y)
    changes = []
    for unit, constant in enumerate(constants.tolist()):
        with replaced(net, {layer: {unit: constant}}):
            changes.append(loss(net(batch.x), batch.y) - before)
    return torch.stack(changes)  # (units, N)
