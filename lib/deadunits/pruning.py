"""Masks of weights and units from scores, and the network without them, temporarily or permanently.

A mask is True (1) where a weight is kept, as in `torch.nn.utils.prune`; masks are a dict from the name of a
parameter to a tensor of its shape. Masks of units are a dict from the name of a layer to (units,).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deadunits.counting import count

Masks = dict[str, Tensor]  #: from the name of a parameter to a mask of its shape, True keeps


def lowest(scores: Tensor, fraction: float) -> Tensor:
    """Mask that prunes the floor(f n) lowest scores: True keeps, as in `torch.nn.utils.prune`.

    Of equal scores the one that comes first is given up first. Any shape; the mask has the same.
    """
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort(stable=True)[: count(fraction, scores.numel())]] = False
    return mask.view(scores.shape)


def masks(
    scores: Mapping[str, Tensor],
    fraction: float,
    *,
    by: str = "layer",
    existing: Mapping[str, Tensor] | None = None,
    whole_layers: bool = False,
) -> Masks:
    """Masks that prune the floor(f n) lowest scores, of each tensor or of all of them together.

    The fraction counts what `existing` masks have given up: those weights stay given up, and the lowest
    scores among the others fill up the number. A schedule is this function at growing fractions.
    Equal scores are given up in the order of the names, then of the elements.

    Args:
        scores: a score for each weight, by parameter.
        fraction: f, from 0 to 1.
        by: "layer" (f of each tensor, as the thesis does) or "network" (f of all weights, wherever they are).
        existing: masks to go on from.
        whole_layers: whether a tensor may lose all its weights when `by` is "network" (by default its
            best one stays). By layer only f = 1 does that.

    Raises:
        ValueError: a fraction outside 0 to 1, or below what is given up already; another `by`; masks of
            other names or shapes than the scores; no way to keep a weight of each tensor.
    """
    if by == "network":
        return _over_network(scores, fraction, existing, whole_layers)
    if by != "layer":
        raise ValueError(f"by must be 'layer' or 'network', got {by!r}")
    found = {}
    for name, score in scores.items():
        one = None if existing is None else {name: existing[name]} if name in existing else {}
        found |= _over_network({name: score}, fraction, one, whole_layers=True)
    return found


def unit_masks(
    scores: Mapping[str, Tensor],
    fraction: float,
    *,
    by: str = "layer",
    existing: Mapping[str, Tensor] | None = None,
    whole_layers: bool = False,
) -> Masks:
    """Masks that prune the floor(f n) units of lowest scores, of each layer or of all of them together.

    As `masks`, for scores of units (`unit_scorers`), with one difference: by layer too, the best unit of a
    layer stays, unless `whole_layers` is set. Scores of different layers can be compared if they are losses
    (MRP, MRS, Taylor); norms cannot. `compaction.remove` and `compaction.compact` take the units out.

    Args:
        scores: name of a layer -> (units,).

    Raises:
        ValueError: as for `masks`; scores that are not of one dimension.
    """
    wrong = [layer for layer, score in scores.items() if score.dim() != 1]
    if wrong:
        raise ValueError(f"a score for each unit is needed, (units,), for {', '.join(wrong)}")
    found = masks(scores, fraction, by=by, existing=existing, whole_layers=whole_layers)
    for layer, mask in found.items():
        if len(mask) and not mask.any() and not whole_layers:
            alive = existing[layer].bool() if existing is not None else torch.ones_like(mask)
            # of equal scores the last: those that come first are given up first
            best = scores[layer].masked_fill(~alive, -math.inf).argsort(stable=True)[-1]
            mask[best] = alive.any()
    return found


def schedule(kind: str, fraction: float, epochs: int) -> dict[int, float]:
    """After which epoch which fraction is pruned, up to `fraction` after the last one.

    "one-shot": all of it after the first. "thesis": at four epochs, after 2/5, 3/5, 4/5 and 5/5 of them 2/9,
    5/9, 8/9 and 9/9 of it (thesis: Table 2.2, where 90% go in five epochs; rounded up to whole epochs).
    "cubic": f (1 - (1 - t / T)³) after epoch t of T, most of it early (Zhu and Gupta 2018).

    ```python
    for epoch, fraction in pruning.schedule("cubic", 0.9, 10).items():
        ...  # train an epoch
        masks = pruning.masks(scorers.magnitude(net, (), names), fraction, existing=masks)
    ```

    Raises:
        ValueError: another kind, a fraction outside 0 to 1, no epochs.
    """
    count(fraction, 1)  # raises for what is no fraction
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if kind == "one-shot":
        return {1: fraction}
    if kind == "thesis":
        steps = {math.ceil(i * epochs / 5): share / 9 for i, share in ((2, 2), (3, 5), (4, 8), (5, 9))}
    elif kind == "cubic":
        steps = {epoch: 1 - (1 - epoch / epochs) ** 3 for epoch in range(1, epochs + 1)}
    else:
        raise ValueError(f"kind must be 'one-shot', 'thesis' or 'cubic', got {kind!r}")
    return {epoch: fraction if share == 1 else fraction * share for epoch, share in steps.items()}


def ranks(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rank of each score, from 0 for the lowest of all tensors together, in their shapes, as float64.

    For what takes absolute values of its scores, as `torch.nn.utils.prune` does: of signed scores it would
    keep the most negative, which this library prunes first. Of equal scores the first is the lowest.
    """
    return _apart(_rank(scores).double(), scores)


def _rank(scores: Mapping[str, Tensor]) -> Tensor:
    """The rank of each score of all tensors together, (n,) int64."""
    flat = torch.cat([score.detach().flatten() for score in scores.values()]) if scores else torch.zeros(0)
    order = flat.argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(flat), device=flat.device))


def _apart(flat: Tensor, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of all tensors together, in the shapes of the scores."""
    parts = flat.split([score.numel() for score in scores.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def _over_network(
    scores: Mapping[str, Tensor], fraction: float, existing: Mapping[str, Tensor] | None, whole_layers: bool
) -> Masks:
    rank = _rank(scores)
    n, given_up = len(rank), torch.zeros_like(rank, dtype=torch.bool)
    if existing is not None:
        for name, score in scores.items():
            if name not in existing or existing[name].shape != score.shape:
                raise ValueError(f"the existing masks have none of shape {tuple(score.shape)} for {name!r}")
        given_up = torch.cat([~existing[name].flatten().bool() for name in scores])
    wanted, before = count(fraction, n), int(given_up.sum())
    if wanted < before:
        raise ValueError(f"fraction {fraction} prunes {wanted} of {n} weights, {before} are already")
    rank[given_up] -= n  # before all others
    if not whole_layers:
        gone = _apart(given_up, scores)
        alive = [part.flatten() for name, part in _apart(rank, scores).items() if not gone[name].all()]
        for part in alive:
            part[part.argmax()] += n  # behind all others
        if wanted > n - len(alive):
            raise ValueError(f"fraction {fraction} leaves a layer without weights: allow whole_layers")
    return _apart(lowest(rank, fraction), scores)


@torch.no_grad()
def zero(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights whose mask is False to zero, in place."""
    known = dict(net.named_parameters())
    for name, mask in masks.items():
        known[name].masked_fill_(~mask.bool(), 0)


def hold(net: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Set the masked weights to zero now and after every step of the optimizer, whatever it does.

    So momentum, weight decay and Adam's moments cannot bring them back. `masks` may be changed meanwhile; the
    returned handle's `remove()` ends it.
    """
    zero(net, masks)
    return optimizer.register_step_post_hook(lambda *_: zero(net, masks))


@contextmanager
@torch.no_grad()
def pruned(net: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The network without the weights whose mask is False; as it was, bit for bit, when the block ends."""
    parameters = dict(net.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in masks}
    try:
        zero(net, masks)
        yield net
    finally:
        for name, values in kept.items():
            parameters[name].copy_(values)
