"""Saliency scores of units: how much each would be missed.

One signature: `scorer(net, batches, layers, loss=..., generator=...)` gives a dict from the name of each
layer to a tensor of scores, (units,). Low scores are to be pruned first. `UNIT_SCORERS` maps names to
scorers. The network, its mode, its gradients and the global random state are as before afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deadunits.counterfactual import Loss, sample_losses
from deadunits.mean_replacement import Batches, mean_replacement_penalty, observe

UnitScores = dict[str, Tensor]
UnitScorer = Callable[..., UnitScores]


def mrp(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> UnitScores:
    """The exact loss change when a unit is replaced by its mean, E_n |ℓ_n(c_i) - ℓ_n| (Eq. 3.1), in nats."""
    return mean_replacement_penalty(net, batches, layers, loss=loss)


def mrs(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> UnitScores:
    """First-order estimate of `mrp` for all units in one backward pass (Eq. 3.3), in nats; for ranking."""
    return {layer: units.mrs for layer, units in observe(net, batches, layers, loss=loss).items()}


def taylor(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> UnitScores:
    """First-order estimate of removing a unit: MRS with 0 for the mean, E_n |Σ_p h_p ∂ℓ/∂h_p|, in nats.

    As Molchanov et al. (2017) score feature maps, without their division by the number of positions.
    """
    seen = observe(net, batches, layers, constant="zero", loss=loss)
    return {layer: units.mrs for layer, units in seen.items()}


def norm_l1(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> UnitScores:
    """‖w_i‖₁ of the incoming weights (thesis: Table 4.1, `normScorerL1`); no images are looked at."""
    return {layer: weight.abs().sum(1) for layer, weight in _incoming(net, layers).items()}


def norm_l2(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> UnitScores:
    """‖w_i‖₂² of the incoming weights, squared as in the thesis (Table 4.1, `normScorerL2`)."""
    return {layer: weight.square().sum(1) for layer, weight in _incoming(net, layers).items()}


def random(
    net: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
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
    "mrp": mrp,
    "mrs": mrs,
    "taylor": taylor,
    "norm_l1": norm_l1,
    "norm_l2": norm_l2,
    "random": random,
}


def _incoming(net: nn.Module, layers: Sequence[str]) -> dict[str, Tensor]:
    """Incoming weights of each layer: (units, fan-in)."""
    known = {name: one for name, one in net.named_modules() if isinstance(one, (nn.Linear, nn.Conv2d))}
    for layer in layers:
        if layer not in known:
            raise ValueError(f"no linear or convolutional layer {layer!r}; there are: {', '.join(known)}")
    return {layer: known[layer].weight.detach().flatten(1) for layer in layers}
