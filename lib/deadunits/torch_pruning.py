"""Torch-Pruning with the scores of units: an importance for its pruners.

Torch-Pruning (github.com/VainF/Torch-Pruning) has pruners of its own, which ask an importance for the scores
of a group, that is of channels that have to go together. `UnitImportance` answers with the scores of this
library. `prune`, from `structured`, needs no Torch-Pruning: it counts exactly and puts constants in the place
of what is gone.

The library is an extra: `pip install 'deadunits[torch-pruning]'`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deadunits.batches import Batches, refuse_train_mode
from deadunits.graph import linear_layers
from deadunits.structured import check_scores, prune
from deadunits.unit_scorers import UnitScorer, scorer_of

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
    group with more producers scores higher.

    Args:
        net: the network that the pruner is given, not in training mode where that matters.
        batches: images and labels to score on.
        scorer: a name in `UNIT_SCORERS` or a function of that signature.
        options: `loss` and `generator`, handed on to the scorer. Each Conv2d and Linear must run.

    Raises:
        ValueError: batch norm or dropout in training mode; an unknown `scorer`; what the scorer raises; when
            called, a layer that has been pruned since it was scored.
    """

    def __init__(self, net: nn.Module, batches: Batches, scorer: str | UnitScorer = "mrs", **options: object):
        refuse_train_mode(net)
        known = linear_layers(net)
        self._scores: dict[nn.Module, Tensor] = {}
        for name, values in scorer_of(scorer)(net, batches, list(known), **options).items():
            check_scores(name, known[name], values)
            self._scores[known[name]] = values.detach().double().cpu()

    def __call__(self, group: Group) -> Tensor | None:
        """Scores of the group's channels, (channels,) float64; None if no scored layer produces them."""
        library = _library()
        producing = (
            library.prune_conv_out_channels,
            library.prune_linear_out_channels,
            library.prune_depthwise_conv_out_channels,
        )
        place = {channel: i for i, channel in enumerate(group[0].idxs)}
        total, produced = torch.zeros(len(place), dtype=torch.float64), False
        for item in group.items:
            layer = item.dep.target.module
            if item.dep.handler not in producing or layer not in self._scores:
                continue
            if len(self._scores[layer]) != len(layer.weight):
                raise ValueError(f"{layer} was pruned since it was scored: make a new UnitImportance")
            at = torch.tensor([place[root] for root in item.root_idxs])
            total.index_add_(0, at, self._scores[layer][item.idxs])
            produced = True
        return total if produced else None


def _library() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError("Torch-Pruning is missing: pip install 'deadunits[torch-pruning]'") from error
    return torch_pruning
