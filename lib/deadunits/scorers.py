"""Saliency scores of weights: how much each would be missed.

One signature: `scorer(net, batches, names, delta=..., loss=..., generator=...)` gives a dict from the name of
each parameter to a tensor of scores of its shape. The lowest scores are pruned first. `SCORERS` maps names to
scorers, signed and, as `..._abs`, absolute. The network, its mode, its gradients and the global random state
are as before afterwards.

A score asks what happens when a weight moves by Δw: to zero (`removal`, the default) or a little towards zero
(`sensitivity`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from deadunits import derivatives, graph
from deadunits.batches import Batches, Loss, batches_of, losses_of, sample_losses, split, warn_of_rounding
from deadunits.data import Batch
from deadunits.derivatives import inputs_by_position, over_batches, parameters
from deadunits.incremental import Snapshot, Ways, warn_of_passes

Scores = dict[str, Tensor]
Delta = Callable[[Tensor], Tensor]  #: from a weight tensor to its change Δw
Names = Sequence[str]  #: of parameters
Scorer = Callable[..., Scores]


def removal(w: Tensor) -> Tensor:
    """Δw = -w: every weight to zero."""
    return -w


def sensitivity(eps: float) -> Delta:
    """Δw = -ε sign(w): every weight a little closer to zero (thesis: Table 2.1, there divided by ε)."""
    return lambda w: -eps * w.sign()


class How(TypedDict, total=False):
    """What all scorers take by name."""

    delta: Delta  #: from a weight tensor to its change Δw, of the same shape; `removal` by default
    loss: Loss  #: (outputs, labels) -> (N,), the loss of each sample; cross entropy by default
    generator: torch.Generator | None  #: what `random` draws from; the others do not use it


def _asked(
    net: nn.Module, names: Names, delta: Delta = removal, loss: Loss = sample_losses, generator: object = None
) -> tuple[dict[str, Tensor], Loss]:
    """The changes Δw of the weights, and the loss."""
    known = parameters(net, names)
    return {name: delta(known[name].detach()) for name in names}, loss


def loss_change(net: nn.Module, batches: Batches, names: Names, **how: Unpack[How]) -> Scores:
    """The exact change of the mean loss when one weight moves by Δw_i, for each weight alone.

    S_i = L(w + Δw_i e_i) - L(w), in nats (thesis: 1.2.4, `lossChangeScorer`). Negative: the network is
    better off without that weight.

    Layers of a network that `torch.fx` traces take the fast way of `Incremental`, all others one full forward
    pass a weight; a warning says so.

    Args:
        net: the network, not in training mode where that matters (batch norm, dropout).
        batches: a `Batch` or several; the mean is over all their images.
        names: parameters to score, as in `net.named_parameters()`.
        how: `delta`, `loss` and `generator`, as in `How`.

    Raises:
        ValueError: an unknown name, no images, batch norm or dropout in training mode.
    """
    moves, loss = _asked(net, names, **how)
    warn_of_rounding(net, "loss change")
    batches = [batch for batch in batches_of(net, batches) if len(batch.y)]
    plain = [layer for layer in map(_layer, names) if type(net.get_submodule(layer)) in graph.LINEAR]
    layers = [layer for layer in dict.fromkeys(plain) if graph.is_plain(net.get_submodule(layer))]
    layers = [layer for layer in layers if not graph.is_shared(net, layer)]
    ways = Ways(net, batches[0], layers) if batches else None
    traced = [name for name in names if ways and _layer(name) in ways.traced]
    slow = [name for name in names if name not in traced]
    if slow and batches:
        reasons = {ways.by_layer.get(_layer(name), "no plain layer, or a shared weight") for name in slow}
        warn_of_passes("loss_change", slow, "weight", sum(moves[name].numel() for name in slow), reasons)

    def part(batch: Batch) -> Scores:
        scores = {name: loss_change_slow(net, batch, name, how.get("delta", removal), loss) for name in slow}
        for portion in split(batch, ways.portion) if traced else ():
            snapshot = ways.snapshot(portion, loss)
            for name in traced:
                score = _loss_change_traced(net, ways, snapshot, name, moves[name])
                scores[name] = scores[name] + score if name in scores else score
        return scores

    every = sys.maxsize  # images at once: the mechanism takes them in its own portions
    return over_batches(net, batches, names, part, every)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def taylor1(net: nn.Module, batches: Batches, names: Names, **how: Unpack[How]) -> Scores:
    """First-order estimate of `loss_change`, for all weights in one backward pass.

    S_i = Δw_i ∂L/∂w_i, in nats (thesis: Table 2.1, `taylor1Scorer`). Arguments and errors as for
    `loss_change`.
    """
    moves, loss = _asked(net, names, **how)
    first = derivatives.gradient(net, batches, names, loss=loss)
    return {name: dw * first[name] for name, dw in moves.items()}


def diagonal(
    net: nn.Module, batches: Batches, names: Names, *, lam: float = 0.5, **how: Unpack[How]
) -> Scores:
    """Second-order estimate of `loss_change`, each weight alone.

    S_i = Δw_i ∂L/∂w_i + λ Δw_i² ∂²L/∂w_i², in nats (thesis: Eq. 2.2), with the exact diagonal of the Hessian
    (`derivatives.hessian_diagonal`, which is fast where all that follows is piecewise linear). Arguments and
    errors as for `loss_change`.

    Args:
        lam: λ; 1/2 is Taylor's, 1 the thesis's.
    """
    moves, loss = _asked(net, names, **how)
    first, second = derivatives.gradient_and_diagonal(net, batches, names, loss=loss)
    return {name: dw * (first[name] + lam * dw * second[name]) for name, dw in moves.items()}


def hessian(net: nn.Module, batches: Batches, names: Names, **how: Unpack[How]) -> Scores:
    """The row sum of the Hessian's part in moving all weights of `names` together.

    S_i = Δw_i Σ_j H_ij Δw_j, in nats (thesis: Table 2.1, `hessianScorer`), by one Hessian-vector product.
    Which weights are scored together matters: j runs over all of them. Arguments and errors as for
    `loss_change`.
    """
    moves, loss = _asked(net, names, **how)
    product = derivatives.hessian_vector(net, batches, moves, loss=loss)
    return {name: dw * product[name] for name, dw in moves.items()}


def taylor2(
    net: nn.Module, batches: Batches, names: Names, *, lam: float = 0.5, **how: Unpack[How]
) -> Scores:
    """First order and λ times the row sum of the Hessian.

    S_i = Δw_i (∂L/∂w_i + λ Σ_j H_ij Δw_j), in nats (thesis: Eq. 2.3 and Table 2.1, `taylor2Scorer`). It
    splits the change of moving all weights *together* among them: with λ = 1/2 the scores sum to the
    second-order expansion of that change. Arguments and errors as for `loss_change`.

    Args:
        lam: λ; 1/2 is Taylor's, 1 the thesis's.
    """
    moves, loss = _asked(net, names, **how)
    first, product = derivatives.gradient_and_product(net, batches, moves, loss=loss)
    return {name: dw * (first[name] + lam * product[name]) for name, dw in moves.items()}


def magnitude(net: nn.Module, batches: Batches, names: Names, **_: object) -> Scores:
    """S_i = |w_i| (thesis: Table 2.1, `magnitudeScorer`); no images are looked at."""
    known = parameters(net, names)
    return {name: known[name].detach().abs() for name in names}


def random(
    net: nn.Module, batches: Batches, names: Names, *, generator: torch.Generator | None = None, **_: object
) -> Scores:
    """S_i uniform in [0, 1), drawn from `generator` (thesis: 2.1, `randomScorer`).

    Raises:
        ValueError: no generator; the global random state is left alone.
    """
    if generator is None:
        raise ValueError("random scores need a generator: generator=torch.Generator().manual_seed(0)")
    known = parameters(net, names)
    return {
        name: torch.rand(w.shape, generator=generator, dtype=w.dtype).to(w.device)
        for name, w in ((name, known[name]) for name in names)
    }


def absolute(scorer: Scorer) -> Scorer:
    """The scorer of absolute values, |S_i|: what hardly matters goes first, what helps to lose goes last."""

    @functools.wraps(scorer)
    def scores(*args: object, **kwargs: object) -> Scores:
        return {name: score.abs() for name, score in scorer(*args, **kwargs).items()}

    return scores


_SIGNED = {scorer.__name__: scorer for scorer in (loss_change, taylor1, diagonal, taylor2, hessian)}
#: Scorers by name.
SCORERS: dict[str, Scorer] = (
    _SIGNED
    | {f"{name}_abs": absolute(scorer) for name, scorer in _SIGNED.items()}
    | {"magnitude": magnitude, "random": random}
)


@torch.no_grad()
def loss_change_slow(
    net: nn.Module, batch: Batch, name: str, delta: Delta = removal, loss: Loss = sample_losses
) -> Tensor:
    """The plain way to `loss_change`, for any module: a forward pass a weight. Sum over the batch."""
    values = dict(net.named_parameters())[name].data
    moves = delta(values)
    before = losses_of(net, batch, loss)
    scores = torch.empty_like(values, memory_format=torch.contiguous_format)
    for index in torch.cartesian_prod(*map(torch.arange, values.shape)).view(-1, values.dim()).tolist():
        at = tuple(index)
        kept = values[at].clone()
        try:
            values[at] += moves[at]
            scores[at] = (losses_of(net, batch, loss) - before).sum()
        finally:
            values[at] = kept
    return scores


@torch.no_grad()
def _loss_change_traced(net: nn.Module, ways: Ways, snapshot: Snapshot, name: str, moves: Tensor) -> Tensor:
    """`loss_change` of a layer: when weight k moves by Δw_k, the unit's h moves by Δw_k times its input."""
    layer, _, kind = name.rpartition(".")
    way, module = ways.losses(snapshot, layer), net.get_submodule(layer)
    h = way.h.movedim(way.axis, 0)  # (units, N, ...)
    moves = moves.reshape(len(h), -1)
    if kind == "weight":
        x = inputs_by_position(module, way.x)  # (N, inputs, positions)
        x = x.permute(2, 1, 0).contiguous().permute(1, 2, 0) if way.innermost else x.movedim(1, 0)
        x = x.unflatten(0, (getattr(module, "groups", 1), -1)).unflatten(3, h.shape[2:] or (1,))
        x = x if h.dim() > 2 else x.squeeze(3)  # (groups, fan-in, N, ...)
    else:  # a bias is the weight of an input that is 1 everywhere
        x = h.new_ones(1, 1, *[1] * (h.dim() - 1))
    scores = torch.empty_like(moves)  # (units, fan-in)
    for unit, move in enumerate(moves):
        inputs = x[unit * len(x) // len(moves)]
        for k in range(0, len(move), way.step):
            dw = move[k : k + way.step]
            moved = torch.addcmul(h[unit], inputs[k : k + way.step], dw.view(-1, *[1] * (h.dim() - 1)))
            same = torch.full((len(dw),), unit, device=h.device)
            scores[unit, k : k + way.step] = (way.losses(same, moved) - way.baseline).sum(1)
    return scores.view(net.get_parameter(name).shape)
