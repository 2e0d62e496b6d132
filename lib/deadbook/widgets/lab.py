"""Pieces of a page that compute there: their network and images, and the place where they are shown.

The pieces are JavaScript in ``book/assets/site/lab``. Their data are in the cell's output; the site has them
as files of their own, which a page loads when the piece comes into view.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from deadbook import figures
from deadbook.runs import Run

LICENCES = {
    "mnist": "MNIST: Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0.",
    "fashion-mnist": "Fashion-MNIST: Zalando SE; MIT licence.",
    "digits": "Digits: E. Alpaydin, C. Kaynak (UCI); CC BY 4.0.",
}


def packed(
    parameters: Mapping[str, np.ndarray],
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    activation: str,
    batch_norm: bool = False,
) -> dict[str, Any]:
    """A `small_cnn` and images as JSON: float32 and bytes in base64.

    Args:
        parameters: by the name in its `state_dict`.
        sets: by name, images (N, channels, height, width) of at most 256 different values, and labels (N,).
    """
    numbers = np.concatenate([values.ravel() for values in parameters.values()]).astype("<f4")
    images = [x for x, _ in sets.values()]
    palette, index = np.unique(np.concatenate([x.ravel() for x in images]), return_inverse=True)
    return {
        "activation": activation,
        "batch_norm": batch_norm,
        "shape": list(images[0].shape[1:]),
        "parameters": [[name, int(values.size)] for name, values in parameters.items()],
        "weights": base64.b64encode(numbers.tobytes()).decode(),
        "palette": palette.tolist(),
        "images": base64.b64encode(_without_runs(index.astype(np.uint8))).decode(),
        "labels": {name: y.tolist() for name, (_, y) in sets.items()},
    }


def _without_runs(values: np.ndarray) -> bytes:
    """Bytes with each run of zeros, up to 256 of them, as a zero and their number less one."""
    ends = np.flatnonzero(np.diff(values == 0)) + 1
    parts = []
    for part in np.split(values, ends):
        if part[0]:
            parts.append(part.tobytes())
        else:
            whole, rest = divmod(len(part), 256)
            parts.append(b"\0\xff" * whole + (bytes([0, rest - 1]) if rest else b""))
    return b"".join(parts)


def carried(run: Run) -> dict[str, Any]:
    """The network and the images, which are square, of a run of `checkpoint`, for a page."""
    chosen = run.info["settings"]
    rows = run.table("snapshots").groupby("name", sort=False)["value"]
    parameters = {name: values.to_numpy() for name, values in rows}
    channels = parameters["conv1.weight"].size // parameters["conv1.bias"].size // 25
    pixels = run.table("images").groupby("set", sort=False)["value"]
    sets = {}
    for name, labels in run.table("labels").groupby("set", sort=False)["label"]:
        x = pixels.get_group(name).to_numpy()
        side = math.isqrt(x.size // labels.size // channels)
        sets[name] = x.reshape(labels.size, channels, side, side), labels.to_numpy()
    about = f"small_cnn on {chosen['dataset']}, seed {chosen['seed']}, run {run.folder.name}."
    more = {"about": f"{about} {LICENCES.get(chosen['dataset'], '')}", "run": run.folder.name}
    return packed(parameters, sets, chosen["activation"]) | more


def prune(runs: Sequence[Run], still: Figure, alt: str, **state: Any) -> HTML:
    """Prune it yourself: units and weights of the network of a run of `checkpoint`; without one, the figure.

    Args:
        still: what is seen without JavaScript, and printed.
        alt: its words.
        state: what the piece starts with: `what` ("units" or "weights"), `score`, `fraction`, `by`.
    """
    return _piece("prune", carried(runs[0]) | {"state": state} if runs else {}, still, alt)


def _piece(name: str, data: Mapping[str, Any], still: Figure, alt: str) -> HTML:
    source = base64.b64encode(figures.svg(still)).decode()
    picture = f'<img class="line-frame" alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{source}">'
    shown = f'<div class="lab-still">{picture}</div>'
    if not data:
        return HTML(f'<div class="lab">{shown}</div>')
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    shown += f'<script type="application/json" class="lab-data">{text}</script>'
    run = f' data-run="{data["run"]}"' if "run" in data else ""  # for `book.publish`
    return HTML(f'<div class="lab" data-lab="{name}"{run}>{shown}</div>')
