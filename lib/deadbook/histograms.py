"""How many values lie in which bin.

torch is imported inside, so that a page can show what was counted without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: Edges of the bins of `histogram` (161,), denser around 0: sinh of -8 to 8, so that ±1490 fits in.
EDGES = np.sinh(np.linspace(-8, 8, 161))
#: The same for values from -1 to 1, as tanh gives them: 0.05 wide.
BOUNDED = np.linspace(-1, 1, 41)


def histogram(values: Tensor, edges: np.ndarray) -> Tensor:
    """How many values lie in each bin, (bins + 1 edges,) -> (bins,); what lies outside is in the outermost.

    What is not a number is counted nowhere.
    """
    import torch

    inner = torch.from_numpy(edges[1:-1]).to(values)
    kept = values[~values.isnan()]
    return torch.bincount(torch.bucketize(kept.contiguous(), inner, right=True), minlength=len(edges) - 1)
