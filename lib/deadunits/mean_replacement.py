"""Units, and what the loss would be if one gave the same for every image (thesis: 3.1).

A unit is a channel of a convolution or an element of a linear layer; h is its output, at one position or at
many. Of an `nn.Linear` (and an `nn.LayerNorm`) the units are the last dimension, of all else the one behind
the images: for inputs (N, ..., F) of a linear layer, as tokens, all dimensions between are positions. Its
mean is over images and positions, and stands at every position.

`MeanReplacement` looks at units while the network runs: means, variances, the first-order estimate MRS
and the output gradient, in one forward and backward pass a batch. `mean_replacement_penalty` is exact (MRP).
`replaced` is the network in which units give constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deadunits import batches as samples
from deadunits import graph
from deadunits.batches import Batches, Loss, sample_losses
from deadunits.data import Batch
from deadunits.graph import unit_axis
from deadunits.incremental import Snapshot, Ways, by_position, replacing, warn_of_passes

Constants = str | Mapping[str, Tensor]  #: "mean", "median", "zero", or a value for each unit

CONSTANTS = ("mean", "median", "zero")
ABSOLUTES = ("sample", "element")
_PARTS = 16  # in which `lowest` takes the images
_ROUNDING = 1 + 1e-6  # sums in another order round differently
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
        layers: names of modules with outputs (N, units, ...), or (N, ..., units) for `nn.Linear`: linear or
            convolutional layers, or the batch norm or nonlinearity behind one.
        constant: "mean", "median", "zero", or a dict from layer to (units,).
        absolute: where the absolute value is taken, "sample" or "element".

    Raises:
        ValueError: no such module, or a compiled one; an unknown `constant` or `absolute`; in `observe`,
            batch norm or dropout in training mode, a layer that did not run, outputs in which its units or
            the images cannot be told, a `loss` that is not one of each sample; in `seen`, no images.
    """

    def __init__(
        self, net: nn.Module, layers: Sequence[str], *, constant: Constants = "mean", absolute: str = "sample"
    ):
        _check(net, layers, constant)
        if absolute not in ABSOLUTES:
            raise ValueError(f"absolute must be one of {', '.join(ABSOLUTES)}, got {absolute!r}")
        self.net, self.constant, self.absolute = net, constant, absolute
        self._modules = {layer: net.get_submodule(layer) for layer in layers}
        self._parts: dict[str, list[_Part]] = {layer: [] for layer in layers}
        self._loss, self._images = 0.0, 0  # Σ over images
        self._pass = _Pass()
        self._shapes: dict[str, torch.Size] | None = None  # what two (or three) images give
        self._hooks = ExitStack()

    def __enter__(self) -> MeanReplacement:
        for layer, module in self._modules.items():
            self._hooks.callback(module.register_forward_hook(_Keep(self._pass, layer)).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def observe(self, batch: Batch, loss: Loss = sample_losses) -> None:
        """A forward and backward pass over the images; `loss` is (outputs, labels) -> (N,)."""
        batch = samples.checked(self.net, batch)
        if not self._images:
            check_axes(self.net, list(self._modules), batch)
        keep = self.constant == "median" or self.absolute == "element"
        parts, total = {layer: [] for layer in self._modules}, 0.0
        try:
            for portion in samples.split(batch, _CHUNK):
                part, pairs = self._observe(portion, samples.sample_wise(loss))
                total += part
                for layer, values in pairs.items():
                    runs = zip(*(self._by_position(layer, h, g, portion) for h, g in values), strict=True)
                    h, g = (side[0] if len(side) == 1 else torch.cat(side, 2) for side in runs)
                    parts[layer].append(_Part.of(h, g, keep))
        finally:
            self._pass.outputs = None
        for layer, more in parts.items():  # here, so that an exception leaves no half of a batch behind
            self._parts[layer] += more
        self._loss, self._images = self._loss + total, self._images + len(batch.y)

    def _observe(self, batch: Batch, loss: Loss) -> tuple[float, dict[str, list[tuple[Tensor, Tensor]]]]:
        """The sum of the losses; outputs and their gradients, by layer."""
        self._pass.outputs = seen = {}
        changed = self._pass.copies
        try:
            with torch.enable_grad():
                losses = loss(samples.forward(self.net, batch.x), batch.y)
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
            inside = "that the network does not call as modules (as inside of nn.MultiheadAttention)"
            way_out = f"use MeanReplacement as a `with` block, and leave out layers {inside}"
            raise ValueError(f"{', '.join(missing)} did not run: {way_out}")
        outputs = [h for layer in self._modules for h, _ in seen[layer]]
        gradients = iter(torch.autograd.grad(total, outputs, materialize_grads=True))
        pairs = {layer: [(h.detach(), next(gradients)) for h, _ in seen[layer]] for layer in self._modules}
        return losses.double().sum().item(), pairs

    def _by_position(self, layer: str, h: Tensor, g: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """An output and its gradient as (N, units, positions)."""
        axis, n = unit_axis(self._modules[layer]), len(batch.y)
        images = 0
        if h.shape[:1] != (n,) or (axis == -1 and h.dim() > 2):
            if self._shapes is None:
                self._pass.outputs, few = {}, [0] * (3 if n == 2 else 2)
                with torch.no_grad():
                    samples.forward(self.net, samples.mapped(lambda x: x[few], batch.x))
                self._shapes = {name: runs[0][0].shape for name, runs in self._pass.outputs.items()}
            pairs = enumerate(zip(h.shape, self._shapes[layer], strict=True))
            grows = [dim for dim, (size, other) in pairs if size != other]
            if len(grows) != 1:
                raise ValueError(f"{layer} gives {tuple(h.shape)}: one dimension must be that of the images")
            (images,) = grows
        check_units(layer, self._modules[layer], h, axis)
        return tuple(by_position(x, axis, images, n) for x in (h, g))

    @property
    def loss(self) -> float:
        """Mean loss of the images seen so far; not a number if there are none."""
        return self._loss / self._images if self._images else float("nan")

    def first_order(self, layer: str) -> Tensor:
        """|Σ_p (c - h_p) ∂ℓ_n/∂h_p| of each image and unit, (N, units), whose mean over images is MRS."""
        return _changes(self._parts[layer], self.seen()[layer].constant).abs()

    def seen(self) -> dict[str, Units]:
        """What was seen so far, by layer."""
        if not self._images:
            raise ValueError("no images were observed")
        return {layer: self._units(layer, parts) for layer, parts in self._parts.items()}

    def _units(self, layer: str, parts: list[_Part]) -> Units:
        count, first, second = (sum(part[i] for part in parts) for i in range(3))
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0)
        c = _constant(self.constant, layer, mean, [part.kept[0] for part in parts if part.kept])
        changes = _changes(parts, c)
        sizes = changes.abs()
        if self.absolute == "element":
            kept = [(h.double(), g.double()) for h, g in (part.kept for part in parts)]
            sizes = torch.cat([((c[:, None] - h) * g).abs().sum(2) for h, g in kept])
        norms = torch.cat([part.norms for part in parts])
        return Units(mean, variance, c, sizes.mean(0), changes.mean(0), norms.mean(0))


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


class _Part(NamedTuple):
    """What is kept of some images, float64; a module that runs twice in a pass counts as more positions."""

    count: int  # values of a unit
    first: Tensor  # Σ h, (units,)
    second: Tensor  # Σ h², (units,)
    gradients: Tensor  # Σ_p g, (N, units)
    products: Tensor  # Σ_p h g, (N, units)
    norms: Tensor  # (N, units)
    kept: tuple[Tensor, Tensor] | None  # h and g, (N, units, positions)

    @classmethod
    def of(cls, h: Tensor, g: Tensor, keep: bool) -> _Part:
        # sums over the positions of an image as the network computes, over images in float64
        first, second = (x.sum(2).double().sum(0) for x in (h, h.square()))
        products, squares = (torch.linalg.vecdot(x, g).double() for x in (h, g))
        gradients, kept = g.sum(2).double(), (h, g) if keep else None
        return cls(h.shape[0] * h.shape[2], first, second, gradients, products, squares.sqrt(), kept)


def _changes(parts: Sequence[_Part], c: Tensor) -> Tensor:
    """The first-order change of each image's loss: (units,) -> (N, units)."""
    return c * torch.cat([part.gradients for part in parts]) - torch.cat([part.products for part in parts])


def _constant(constant: Constants, layer: str, mean: Tensor, values: Sequence[Tensor]) -> Tensor:
    """What stands for each unit, (units,), float64; `values`, (N, units, positions) each, for the median."""
    if not isinstance(constant, str):
        return constant[layer].to(mean)
    if constant == "median":
        by_unit = torch.cat([h.movedim(1, 0).flatten(1) for h in values], 1)  # (units, values)
        return by_unit.double().median(1).values
    return mean if constant == "mean" else torch.zeros_like(mean)


def check_units(layer: str, module: nn.Module, h: Tensor, axis: int) -> None:
    """Refuse outputs whose units are not those of the layer."""
    if isinstance(module, graph.LINEAR):
        if h.dim() < 2 or h.shape[axis] != len(module.weight):
            right = "a convolution must give (N, units, ...), a linear layer (N, ..., units)"
            raise ValueError(f"{layer} has {len(module.weight)} units, and gives {tuple(h.shape)}: {right}")
    elif h.dim() < 2:
        raise ValueError(f"{layer} gives {tuple(h.shape)}: a dimension of images and one of units are needed")


@torch.no_grad()
def check_axes(net: nn.Module, layers: Sequence[str], batch: Batch) -> None:
    """Raise ValueError for layers without units of their own in a network with tokens, (N, ..., F).

    There a nonlinearity may stand behind a linear layer, whose units are the last dimension, or behind a
    convolution, whose units are the second; from its output that cannot be told.
    """
    clear = (*graph.LINEAR, *graph.BATCH_NORM, nn.LayerNorm, nn.GroupNorm)
    unclear = [layer for layer in layers if not isinstance(net.get_submodule(layer), clear)]
    of = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention, nn.RNNBase)
    tokens = []  # names of modules

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...], h: object) -> None:
        tokens.extend(name for x in samples.tensors(h) if x.dim() > 2)

    if unclear and len(batch.y):
        every = [(name, module) for name, module in net.named_modules() if isinstance(module, of)]
        with samples.removing([one.register_forward_hook(partial(see, name)) for name, one in every]):
            samples.forward(net, samples.mapped(lambda x: x[:2], batch.x))
    if tokens:
        why = f"{tokens[0]!r} gives tokens, so that the units of {', '.join(unclear)} cannot be told"
        raise ValueError(f"{why} from positions: name the layer with weights before it")


def _check(net: nn.Module, layers: Sequence[str], constant: Constants) -> None:
    known = [name for name, _ in net.named_modules() if name]
    for layer in layers:
        if layer not in known:
            raise ValueError(f"no module {layer!r}; there are: {', '.join(known)}")
        refuse_compiled(net, layer)
    if isinstance(constant, str) and constant not in CONSTANTS:
        raise ValueError(f"constant must be one of {', '.join(CONSTANTS)} or a dict, got {constant!r}")


def refuse_compiled(net: nn.Module, layer: str) -> None:
    """Raise ValueError if a hook on a layer might not run, because it or what calls it is compiled."""
    path = layer.split(".")
    for module in [net, *(net.get_submodule(".".join(path[: i + 1])) for i in range(len(path)))]:
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            way_out = "the module given to torch.compile (net._orig_mod), or a copy without compile()"
            raise ValueError(f"hooks on {layer!r} do not run in a compiled network: score {way_out}")


def observe(
    net: nn.Module, batches: Batches, layers: Sequence[str], *, loss: Loss = sample_losses, **options: object
) -> dict[str, Units]:
    """`MeanReplacement`, with its `constant` and `absolute`, over all batches: what was seen of the units."""
    with MeanReplacement(net, layers, **options) as units:
        for batch in samples.batches_of(net, batches):
            units.observe(batch, loss)
    return units.seen()


@torch.no_grad()
def mean_replacement_penalty(
    net: nn.Module, batches: Batches, layers: Sequence[str], *, absolute: bool = True, **options: object
) -> dict[str, Tensor]:
    """The exact change of the loss when a unit gives the same for every image, for each unit alone.

    MRP_i = E_n |ℓ_n(h_i = c_i) - ℓ_n|, in nats (thesis: Eq. 3.1, `mrpScorer`), or without the absolute value.
    Layers of a network that `torch.fx` traces take the fast way of `Incremental`, all others a forward pass a
    unit, which a warning says. Batches are kept, since they are needed twice. Arguments (with
    `constant` and `loss`) and errors as for `MeanReplacement`.

    Returns: name of a layer -> (units,), float64.
    """
    samples.warn_of_rounding(net, "mean replacement penalty")
    asked = Replacements(net, batches, layers, **options)
    totals = {layer: torch.zeros_like(constants) for layer, constants in asked.constants.items()}
    for portion in asked.portions():
        for layer in layers:
            changes = asked.changes(portion, layer)  # (units, N)
            totals[layer] += (changes.abs() if absolute else changes).double().sum(1)
    return {layer: totals[layer] / asked.images for layer in layers}


class Portion(NamedTuple):
    """Images, and what all layers of a traced network share of them."""

    batch: Batch
    snapshot: Snapshot | None

    def at(self, images: Tensor) -> Portion:
        """The same of some of the images."""
        images = images.to(self.batch.y.device)
        batch = Batch(*(samples.mapped(lambda x: x[images], part) for part in self.batch))
        return Portion(batch, self.snapshot and self.snapshot.at(images))


class Replacements:
    """The change of each image's loss when a unit gives a constant, by the fastest way that each layer has.

    Arguments and errors as for `mean_replacement_penalty`.

    Attributes:
        batches: all of them.
        images: their number.
        constants: what stands for each unit, by layer, (units,), float64.
    """

    def __init__(
        self,
        net: nn.Module,
        batches: Batches,
        layers: Sequence[str],
        constant: Constants = "mean",
        loss: Loss = sample_losses,
    ):
        _check(net, layers, constant)
        self.net, self.loss = net, loss
        self.batches = [batch for batch in samples.batches_of(net, batches) if len(batch.y)]
        self.images = sum(len(batch.y) for batch in self.batches)
        if self.images == 0:
            raise ValueError("no images were observed")
        check_axes(net, layers, self.batches[0])
        self._ways, self._only = Ways(net, self.batches[0], layers), None
        slow = [layer for layer in layers if layer not in self._ways.traced]
        seen = observe(net, self.batches, slow, constant=constant, loss=loss) if slow else {}
        if slow:
            units = sum(len(seen[layer].mean) for layer in slow)
            reasons = [self._ways.by_layer[layer] for layer in slow]
            warn_of_passes("mean replacement", slow, "unit", units, reasons)
        self.constants = {layer: units.constant for layer, units in seen.items()}
        self.constants |= self._constants(constant)

    def _constants(self, constant: Constants) -> dict[str, Tensor]:
        """What stands for each unit of the traced layers."""
        layers = self._ways.traced
        sums = dict.fromkeys(layers, 0.0)
        kept: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for portion in self.portions() if layers else ():
            for layer in layers:
                h = self._ways.units(portion.snapshot, layer)  # (N, units, positions)
                check_units(layer, self.net.get_submodule(layer), h, 1)
                # sums over the positions of an image as the network computes, over images in float64
                sums[layer] = sums[layer] + h.sum(2).double().sum(0) / h.shape[2]
                kept[layer] += [h] if constant == "median" else []
            if len(portion.batch.y) == self.images:  # serves again; several would fill the memory
                self._only = portion
        return {layer: _constant(constant, layer, sums[layer] / self.images, kept[layer]) for layer in layers}

    def portions(self) -> Iterator[Portion]:
        """The batches, in parts of which a traced network's results fit into the memory."""
        if self._only is not None:
            yield self._only
            return
        for batch in self.batches:
            for part in samples.split(batch, self._ways.portion):
                yield Portion(part, self._ways.snapshot(part, self.loss) if self._ways.traced else None)

    @torch.no_grad()
    def changes(self, portion: Portion, layer: str, units: Tensor | None = None) -> Tensor:
        """ℓ_n(h_i = c_i) - ℓ_n of all units, or of those: (units, N)."""
        units = torch.arange(len(self.constants[layer])) if units is None else units
        values = self.constants[layer][units]
        if layer in self._ways.traced:
            way = self._ways.losses(portion.snapshot, layer)
            return way.losses(units.to(values.device), way.constants(values)) - way.baseline
        before = samples.losses_of(self.net, portion.batch, self.loss)
        changes = [before.new_empty(0, len(before))]
        for unit, value in zip(units.tolist(), values.tolist(), strict=True):
            with replaced(self.net, {layer: {unit: value}}):
                changes.append((samples.losses_of(self.net, portion.batch, self.loss) - before)[None])
        return torch.cat(changes)

    def sizes(self, portion: Portion, layer: str, units: Tensor) -> Tensor:
        """Σ_n |ℓ_n(h_i = c_i) - ℓ_n| over a portion: (units,), float64, on the CPU."""
        return self.changes(portion, layer, units).abs().double().sum(1).cpu()


class Lowest(NamedTuple):
    """What `lowest` finds."""

    units: Tensor  #: (k,), the lowest penalty first
    penalties: Tensor  #: theirs, (k,), float64, in nats
    share: float  #: of the losses (of a unit and an image) that all penalties would take


@torch.no_grad()
def lowest(net: nn.Module, batches: Batches, layer: str, k: int, **options: object) -> Lowest:
    """The k units of lowest MRP, exactly, without the whole penalty of most others.

    N MRP_i = Σ_n |ℓ_n(h_i = c_i) - ℓ_n| has no negative terms, so that a part of the sum is a lower bound.
    The k units of lowest MRS are summed over all images; each other over the images of its largest
    first-order change first, until it passes the k-th sum. Arguments and errors as for
    `mean_replacement_penalty`.

    Besides what the share says it takes MRS and two forward passes, and units are taken one by one: where the
    layers behind are small, all penalties at once are quicker (see the library page).

    Raises:
        ValueError: k outside 0 to the number of units.
    """
    asked = Replacements(net, batches, [layer], **options)
    count = len(asked.constants[layer])
    if not 0 <= k <= count:
        raise ValueError(f"k must be from 0 to the {count} units of {layer}, got {k}")
    with MeanReplacement(net, [layer], constant=asked.constants) as seen:
        for batch in asked.batches:
            seen.observe(batch, asked.loss)
    terms = seen.first_order(layer).cpu()  # (N, units)
    order = terms.sum(0).argsort(stable=True)
    first, rest, totals = order[:k], order[k:].tolist() if k else [], torch.zeros(count, dtype=torch.float64)
    evaluations, start = k * asked.images, 0
    for portion in asked.portions():
        totals[first] += asked.sizes(portion, layer, first)
    complete = totals[first].sort().values
    for portion in asked.portions():
        end = start + len(portion.batch.y)
        for unit in rest:
            parts = terms[start:end, unit].argsort(descending=True).split(max(1, asked.images // _PARTS))
            while parts and totals[unit] <= complete[-1] * _ROUNDING:
                images, *parts = parts
                totals[unit] += asked.sizes(portion.at(images), layer, torch.tensor([unit]))[0]
                evaluations += len(images)
            if end - start == asked.images and not parts:  # perhaps a lower bound than that of the first k
                complete = torch.cat([complete, totals[unit : unit + 1]]).sort().values[:k]
        rest, start = [unit for unit in rest if totals[unit] <= complete[-1] * _ROUNDING], end
    left = torch.cat([first, torch.tensor(rest, dtype=torch.long)]).sort().values
    units = left[totals[left].argsort(stable=True)][:k]
    return Lowest(units, totals[units] / asked.images, evaluations / (count * asked.images))


def dead(
    net: nn.Module, batches: Batches, layers: Sequence[str], *, below: float = 0.05, **options: object
) -> dict[str, Tensor]:
    """Units that hardly matter: MRP_i ≤ `below` times the mean of their layer (thesis: Def. 3.2.2).

    The thesis sets no threshold, because penalties depend on the loss and on the size of a layer; relative to
    the layer's mean, one number serves all. In a layer whose penalties are all 0, all are dead. Arguments
    (`constant` and `loss` too) and errors as for `mean_replacement_penalty`.

    Returns: name of a layer -> (units,), bool.
    """
    penalties = mean_replacement_penalty(net, batches, layers, **options)
    return {layer: small(penalty, below) for layer, penalty in penalties.items()}


def frozen(
    net: nn.Module, batches: Batches, layers: Sequence[str], *, below: float = 0.05, **options: object
) -> dict[str, Tensor]:
    """Units that hardly get a gradient: E_n ‖∂ℓ_n/∂h_i‖ ≤ `below` times the layer's mean (Def. 3.2.1).

    A frozen unit's weights stay as they are; it may still matter, and a dead one may still learn. Arguments
    (`loss` too) and errors as for `observe`.

    Returns: name of a layer -> (units,), bool.
    """
    seen = observe(net, batches, layers, **options)
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
    """The network in which units give constants: layer -> {unit: its output}, while the block lasts.

    Raises:
        ValueError: no such module, or a compiled one; a layer that did not run meanwhile.
    """
    with ExitStack() as stack:
        counts = {}
        for layer, of in constants.items():
            _check(net, [layer], "mean")
            module = net.get_submodule(layer)
            counts[layer] = stack.enter_context(replacing(module, unit_axis(module), of))
        runs: list[nn.Module] = []
        stack.callback(net.register_forward_hook(lambda net, *_: runs.append(net)).remove)
        yield net
    missing = [layer for layer, calls in counts.items() if runs and calls == [0]]
    if missing:
        raise ValueError(f"{', '.join(missing)} did not run as modules while their units were replaced")
