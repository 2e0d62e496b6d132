"""Saliency scores of weights: how much each would be missed.

One signature: `scorer(net, batches, names, loss=..., generator=...)` gives a dict from the name of each
parameter to a tensor of scores of its shape. Low scores are to be pruned first. `SCORERS` maps names to
scorers. The network, its mode, its gradients and the global random state are as before afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadunits.counterfactual import Counterfactual, Loss, refuse_train_mode, sample_losses
from deadunits.data import Batch

Scores = dict[str, Tensor]
Batches = Batch | Iterable[Batch]
Scorer = Callable[..., Scores]


def loss_change(
    net: nn.Module,
    batches: Batches,
    names: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> Scores:
    """The exact change of the mean loss when one weight is set to zero, for each weight alone.

    S_i = L(w with w_i = 0) - L(w), in nats (thesis: 1.2.4, `lossChangeScorer`). Negative: the network is
    better off without that weight.

    Layers in a chain of known ones (`Counterfactual.supports`) take the fast way, all others one full
    forward pass a weight.

    Args:
        net: the network, not in training mode where that matters (batch norm, dropout).
        batches: a `Batch` or several; the mean is over all their images.
        names: parameters to score, as in `net.named_parameters()`.
        loss: (outputs, labels) -> (N,), the loss of each sample.
        generator: not used.

    Raises:
        ValueError: an unknown name, no images, batch norm or dropout in training mode.
    """

    def score(batch: Batch, name: str) -> Tensor:
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and Counterfactual.supports(net, layer):
            return _loss_change_fast(net, batch, layer, loss)
        return loss_change_slow(net, batch, name, loss)

    return _over_batches(net, batches, names, lambda batch: {name: score(batch, name) for name in names})


def taylor1(
    net: nn.Module,
    batches: Batches,
    names: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> Scores:
    """First-order estimate of `loss_change` for Δw_i = -w_i, for all weights in one backward pass.

    S_i = Δw_i ∂L/∂w_i = -w_i ∂L/∂w_i, in nats (thesis: Table 2.1, `taylor1Scorer`). Arguments and errors as
    for `loss_change`.
    """
    parameters = dict(net.named_parameters())

    def scores(batch: Batch) -> Scores:
        chosen = [parameters[name] for name in names]
        with torch.enable_grad():
            total = loss(net(batch.x), batch.y).sum()
            gradients = torch.autograd.grad(total, chosen, allow_unused=True)
        pairs = zip(names, chosen, gradients, strict=True)
        return {name: torch.zeros_like(w) if g is None else -w.detach() * g for name, w, g in pairs}

    return _over_batches(net, batches, names, scores)


def magnitude(
    net: nn.Module,
    batches: Batches,
    names: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> Scores:
    """S_i = |w_i| (thesis: Table 2.1, `magnitudeScorer`); no images are looked at."""
    parameters = _parameters(net, names)
    return {name: parameters[name].detach().abs() for name in names}


def random(
    net: nn.Module,
    batches: Batches,
    names: Sequence[str],
    *,
    loss: Loss = sample_losses,
    generator: torch.Generator | None = None,
) -> Scores:
    """S_i uniform in [0, 1), drawn from `generator` (thesis: 2.1, `randomScorer`).

    Raises:
        ValueError: no generator; the global random state is left alone.
    """
    if generator is None:
        raise ValueError("random scores need a generator: generator=torch.Generator().manual_seed(0)")
    parameters = _parameters(net, names)
    return {
        name: torch.rand(w.shape, generator=generator, dtype=w.dtype).to(w.device)
        for name, w in ((name, parameters[name]) for name in names)
    }


SCORERS: dict[str, Scorer] = {
    "loss_change": loss_change,
    "taylor1": taylor1,
    "magnitude": magnitude,
    "random": random,
}


@torch.no_grad()
def loss_change_slow(net: nn.Module, batch: Batch, name: str, loss: Loss = sample_losses) -> Tensor:
    """The plain way to `loss_change`, for any module: a forward pass a weight. Sum over the batch."""
    values = dict(net.named_parameters())[name].data
    before = loss(net(batch.x), batch.y)
    scores = torch.empty_like(values, memory_format=torch.contiguous_format)
    for index in torch.cartesian_prod(*map(torch.arange, values.shape)).view(-1, values.dim()).tolist():
        kept = values[tuple(index)].clone()
        try:
            values[tuple(index)] = 0
            scores[tuple(index)] = (loss(net(batch.x), batch.y) - before).sum()
        finally:
            values[tuple(index)] = kept
    return scores


@torch.no_grad()
def _loss_change_fast(net: nn.Module, batch: Batch, layer: str, loss: Loss) -> Tensor:
    """`loss_change` of a layer's weights: without weight k, the unit's h is h - w_k times its input."""
    asked = Counterfactual(net, batch, layer, loss)
    module = net.get_submodule(layer)
    weight = module.weight.flatten(1)  # (units, fan-in)
    inputs = _inputs(module, asked.inputs)  # (..., fan-in, N)
    scores = torch.empty_like(weight)
    for unit in range(len(weight)):
        h = asked.h[:, unit].movedim(0, -1).unsqueeze(-2)  # (N, ...) -> (..., 1, N)
        for k in range(0, weight.shape[1], asked.step):
            some = slice(k, k + asked.step)
            w, x = weight[unit, some, None], inputs[..., some, :]
            # into memory of its own, so that the images stay innermost
            without = torch.addcmul(h, x, w, value=-1, out=h.new_empty(x.shape))  # (..., K, N)
            losses = asked.losses(unit, without.movedim((-2, -1), (0, 1)))  # (K, N)
            scores[unit, some] = (losses - asked.baseline).sum(1)
    return scores.view(module.weight.shape)


def _inputs(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What each weight of a unit is multiplied with: (fan-in, N) or, at each position, (H, W, fan-in, N)."""
    if isinstance(module, nn.Linear):
        return x.T
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    for dim, size, dilation, stride in zip(
        (2, 3), module.kernel_size, module.dilation, module.stride, strict=True
    ):
        x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x.permute(2, 3, 1, 4, 5, 0).flatten(2, 4)  # (N, C, H, W, kH, kW) -> (H, W, C kH kW, N)


def _over_batches(
    net: nn.Module, batches: Batches, names: Sequence[str], score: Callable[[Batch], Scores]
) -> Scores:
    """Mean over all images of what `score` sums over a batch."""
    _parameters(net, names)
    refuse_train_mode(net)
    totals: Scores = {}
    images = 0
    for batch in [batches] if isinstance(batches, Batch) else batches:
        images += len(batch.y)
        for name, part in score(batch).items():
            totals[name] = totals[name] + part if name in totals else part
    if images == 0:
        raise ValueError("no images to score on: an empty batch, or no batches")
    return {name: total / images for name, total in totals.items()}


def _parameters(net: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    parameters = dict(net.named_parameters())
    for name in [names] if isinstance(names, str) else names:
        if name not in parameters or isinstance(names, str):
            raise ValueError(
                f"names are to be a list of parameters of this network, among: {', '.join(parameters)}; "
                f"got {names!r}"
            )
    return parameters
