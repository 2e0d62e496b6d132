"""Saliency scores of units: how much each would be missed.

One signature: `scorer(net, batches, layers, loss=..., generator=...)` gives a dict from the name of each
layer to a tensor of scores, (units,). The lowest scores are pruned first. `UNIT_SCORERS` maps names to
scorers. The network, its mode, its gradients and the global random state are as before afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from deadunits import graph
from deadunits.batches import Batches, Loss, batches_of, forward, removing, sample_losses
from deadunits.graph import activation_of, unit_axis
from deadunits.mean_replacement import (
    check_axes,
    check_units,
    mean_replacement_penalty,
    observe,
    refuse_compiled,
)

UnitScores = dict[str, Tensor]
Names = Sequence[str]  #: of layers
Chance = torch.Generator | None  #: only `random` needs it
UnitScorer = Callable[..., UnitScores]


def mrp(
    net: nn.Module, batches: Batches, layers: Names, *, loss: Loss = sample_losses, generator: Chance = None
) -> UnitScores:
    """The exact loss change when a unit is replaced by its mean, E_n |ℓ_n(c_i) - ℓ_n| (Eq. 3.1), in nats."""
    return mean_replacement_penalty(net, batches, layers, loss=loss)


def mrs(
    net: nn.Module, batches: Batches, layers: Names, *, loss: Loss = sample_losses, generator: Chance = None
) -> UnitScores:
    """First-order estimate of `mrp` for all units in one backward pass (Eq. 3.3), in nats; for ranking."""
    return {layer: units.mrs for layer, units in observe(net, batches, layers, loss=loss).items()}


def taylor(
    net: nn.Module, batches: Batches, layers: Names, *, loss: Loss = sample_losses, generator: Chance = None
) -> UnitScores:
    """First-order estimate of removing a unit: MRS with 0 for the mean, E_n |Σ_p h_p ∂ℓ/∂h_p|, in nats.

    As Molchanov et al. (2017) score feature maps, without their division by the number of positions.
    """
    seen = observe(net, batches, layers, constant="zero", loss=loss)
    return {layer: units.mrs for layer, units in seen.items()}


def taylor_squared(
    net: nn.Module, batches: Batches, layers: Names, *, loss: Loss = sample_losses, generator: Chance = None
) -> UnitScores:
    """The squared first-order change of the mean loss when a unit gives 0, (E_n Σ_p h_p ∂ℓ/∂h_p)², in nats².

    As Molchanov et al. (2019, Eq. 8) score filters by a gate of 1 behind them, with all images as one batch.
    Equal to their sum over the filter's own weights and bias, (Σ_k w_k ∂L/∂w_k)².
    """
    seen = observe(net, batches, layers, constant="zero", loss=loss)
    return {layer: units.change.square() for layer, units in seen.items()}


def mean_activation(
    net: nn.Module, batches: Batches, layers: Names, *, loss: Loss = sample_losses, generator: Chance = None
) -> UnitScores:
    """The mean size of a unit's activation over that of its layer, E|a_i| / mean_k E|a_k|.

    The score of dormant neurons (Sokar et al. 2023). The activation is what the first nonlinearity behind the
    layer gives, in an `nn.Sequential`; elsewhere name the nonlinearities themselves. In a layer that is all 0
    each unit scores 0.

    Raises:
        ValueError: a linear or convolutional layer with no nonlinearity known behind it.
    """
    names = {layer: activation_of(net, layer) for layer in layers}
    for layer, name in names.items():
        if name is None:
            raise ValueError(f"no nonlinearity is known behind {layer!r}: name the nonlinearity itself")
    modules = {layer: net.get_submodule(name) for layer, name in names.items()}
    sizes: dict[str, list[Tensor]] = {layer: [] for layer in layers}  # (N, units) a batch

    def keep(layer: str, module: nn.Module, inputs: object, a: Tensor) -> None:
        axis = unit_axis(net.get_submodule(layer))  # its own is that of the units before it
        check_units(layer, net.get_submodule(layer), a, axis)
        sizes[layer].append(a.abs().movedim(axis, 1).flatten(2).mean(2) if a.dim() > 2 else a.abs())

    for name in names.values():
        refuse_compiled(net, name)
    for batch in batches_of(net, batches):
        check_axes(net, [layer for layer in layers if not any(map(len, sizes[layer]))], batch)  # once
        hooks = [module.register_forward_hook(partial(keep, layer)) for layer, module in modules.items()]
        with removing(hooks), torch.no_grad():
            forward(net, batch.x)
    silent = [name for layer, name in names.items() if not sizes[layer]]
    if silent:
        raise ValueError(f"no images, or {', '.join(silent)} did not run as a module")
    means = {layer: torch.cat(size).double().mean(0) for layer, size in sizes.items()}
    return {
        layer: mean / mean.mean().clamp_min(torch.finfo(mean.dtype).tiny) for layer, mean in means.items()
    }


def norm_l1(net: nn.Module, batches: Batches, layers: Names, **_: object) -> UnitScores:
    """‖w_i‖₁ of the incoming weights (thesis: Table 4.1, `normScorerL1`); no images are looked at."""
    return {layer: weight.abs().sum(1) for layer, weight in _incoming(net, layers).items()}


def norm_l2(net: nn.Module, batches: Batches, layers: Names, **_: object) -> UnitScores:
    """‖w_i‖₂² of the incoming weights, squared as in the thesis (Table 4.1, `normScorerL2`)."""
    return {layer: weight.square().sum(1) for layer, weight in _incoming(net, layers).items()}


def random(
    net: nn.Module, batches: Batches, layers: Names, *, generator: Chance = None, **_: object
) -> UnitScores:
    """Uniform in [0, 1), drawn from `generator` (thesis: Table 4.1, `randomScorer`)."""
    if generator is None:
        raise ValueError("random scores need a generator: generator=torch.Generator().manual_seed(0)")
    return {
        layer: torch.rand(len(weight), generator=generator, dtype=weight.dtype).to(weight.device)
        for layer, weight in _incoming(net, layers).items()
    }


#: Scorers by name.
UNIT_SCORERS: dict[str, UnitScorer] = {
    scorer.__name__: scorer
    for scorer in (mrp, mrs, taylor, taylor_squared, mean_activation, norm_l1, norm_l2, random)
}


def scorer_of(scorer: str | UnitScorer) -> UnitScorer:
    """A scorer by its name, or itself; a ValueError for a name that is not in `UNIT_SCORERS`."""
    if isinstance(scorer, str) and scorer not in UNIT_SCORERS:
        raise ValueError(f"unknown scorer {scorer!r}; there are: {', '.join(UNIT_SCORERS)}")
    return UNIT_SCORERS[scorer] if isinstance(scorer, str) else scorer


def _incoming(net: nn.Module, layers: Sequence[str]) -> dict[str, Tensor]:
    """Incoming weights of each layer: (units, fan-in)."""
    return {layer: graph.linear_layer(net, layer).weight.detach().flatten(1) for layer in layers}
