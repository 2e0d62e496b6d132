"""Torch-Pruning with the scores of units: an importance for its pruners.

Torch-Pruning (github.com/VainF/Torch-Pruning) has pruners of its own, which ask an importance for the scores
of a group, that is of channels that have to go together. `UnitImportance` answers with the scores of this
library. `prune`, from `structured`, needs no Torch-Pruning: it counts exactly and puts constants in the place
of what is gone.

The library is an extra: `pip install 'deadunits[torch-pruning]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deadunits.batches import Batches, Loss, refuse_train_mode, sample_losses
from deadunits.graph import linear_layers
from deadunits.structured import check_scores, prune
from deadunits.unit_scorers import UNIT_SCORERS, UnitScorer

if TYPE_CHECKING:
    from torch_pruning.dependency import Group

__all__ = ["UnitImportance", "prune"]


class UnitImportance:
    """A Torch-Pruning importance: the scores of this library, for the channels of a group.

    ```python
    importance = UnitImportance(net, batches, "mrs")
    pruner = torch_pruning.BasePruner(net, (x,), importance, pruning_ratio=0.5, ignored_layers=[net.fc])
    ```

    All layers are scored once, now. The score of a channel i is Σ_l s_l,i over the layers l that produce it:
    to first order the changes of the loss add up, so with MRS the sum bounds that of replacing all of them. A
    group with more producers scores higher. `combine="mean"` divides by their number: to compare groups by a
    layer, when a pruner ranks over the whole network; within a group the ranks are mostly the same.

    Args:
        net: the network that the pruner is given, not in training mode where that matters.
        batches: images and labels to score on.
        scorer: a name in `UNIT_SCORERS` or a function of that signature.
        combine: "sum" or "mean".
        layers: names of the Conv2d and Linear to score; all by default. Each must run.
        loss, generator: handed on to the scorer.

    Raises:
        ValueError: batch norm or dropout in training mode; an unknown `scorer` or `combine`; what the scorer
            raises; when called, a layer that has been pruned since it was scored.
    """

    def __init__(
        self,
        net: nn.Module,
        batches: Batches,
        scorer: str | UnitScorer = "mrs",
        *,
        combine: str = "sum",
        layers: Sequence[str] | None = None,
        loss: Loss = sample_losses,
        generator: torch.Generator | None = None,
    ):
        refuse_train_mode(net)
        if isinstance(scorer, str) and scorer not in UNIT_SCORERS:
            raise ValueError(f"unknown scorer {scorer!r}; there are: {', '.join(UNIT_SCORERS)}")
        if combine not in ("sum", "mean"):
            raise ValueError(f"combine must be 'sum' or 'mean', got {combine!r}")
        known = linear_layers(net)
        scorer = UNIT_SCORERS[scorer] if isinstance(scorer, str) else scorer
        layers = list(known) if layers is None else layers
        scores = scorer(net, batches, layers, loss=loss, generator=generator)
        self.combine = combine
        for name, values in scores.items():
            check_scores(name, known[name], values)
        self._scores = {known[name]: values.detach().double().cpu() for name, values in scores.items()}

    def __call__(self, group: Group) -> Tensor | None:
        """Scores of the group's channels, (channels,) float64; None if no scored layer produces them."""
        library = _library()
        producing = (
            library.prune_conv_out_channels,
            library.prune_linear_out_channels,
            library.prune_depthwise_conv_out_channels,
        )
        place = {channel: i for i, channel in enumerate(group[0].idxs)}
        total, parts = torch.zeros(2, len(place), dtype=torch.float64)
        for item in group.items:
            layer = item.dep.target.module
            if item.dep.handler not in producing or layer not in self._scores:
                continue
            if len(self._scores[layer]) != len(layer.weight):
                raise ValueError(f"{layer} was pruned since it was scored: make a new UnitImportance")
            at = torch.tensor([place[root] for root in item.root_idxs])
            total.index_add_(0, at, self._scores[layer][item.idxs])
            parts.index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
        if not parts.any():
            return None
        return total / parts.clamp_min(1) if self.combine == "mean" else total


def _library() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError("Torch-Pruning is missing: pip install 'deadunits[torch-pruning]'") from error
    return torch_pruning
