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
from deadunits import data


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
    numbers = np.concatenate([[], *(values.ravel() for values in parameters.values())]).astype("<f4")
    images = [x for x, _ in sets.values()]
    palette, index = np.unique(np.concatenate([x.ravel() for x in images]), return_inverse=True)
    return {
        "activation": activation,
        "batch_norm": batch_norm,
        "shape": list(images[0].shape[1:]),
        "parameters": [[name, int(values.size)] for name, values in parameters.items()],
        "weights": base64.b64encode(numbers).decode(),
        "palette": palette.tolist(),
        "images": base64.b64encode(index.astype(np.uint8)).decode(),
        "labels": {name: y.tolist() for name, (_, y) in sets.items()},
    }


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
    about = {name: chosen[name] for name in ("dataset", "seed", "epochs")} | {"run": run.folder.name}
    return packed(parameters, sets, chosen["activation"]) | about


def prune(runs: Sequence[Run], still: Figure, alt: str, **state: Any) -> HTML:
    """Prune it yourself: units and weights of the network of a run of `checkpoint`; without one, the figure.

    Args:
        still: what is seen without JavaScript, and printed.
        alt: its words.
        state: what the piece starts with: `what` ("units" or "weights"), `score`, `fraction`, `by`.
    """
    return _piece("prune", carried(runs[0]) | {"state": state} if runs else {}, still, alt)


def kill(still: Figure, alt: str, **state: Any) -> HTML:
    """Kill a unit: a small network trains on the embedded digits, and a unit of it is attacked.

    Args:
        still: what is seen without JavaScript, and printed.
        alt: its words.
        state: what the piece starts with: `activation`, `norm`, `lr`, `seed`, `layer`, `unit`, `multiplier`.
    """
    if state.get("activation") == "own":
        state["activation"] = "relu"
    images = data.digits(probe_size=100)
    sets = {"train": images.train, "probe": images.train_probe, "test": images.test}
    # as they were before they were enlarged: 8 x 8
    arrays = {name: (x[:, :, 2:-2:3, 2:-2:3].numpy(), y.numpy()) for name, (x, y) in sets.items()}
    whole = packed({}, arrays, "relu") | {"dataset": "digits", "state": state}
    return _piece("kill", whole, still, alt)


def _piece(name: str, values: Mapping[str, Any], still: Figure, alt: str) -> HTML:
    source = base64.b64encode(figures.svg(still)).decode()
    picture = f'<img class="lab-figure" alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{source}">'
    shown = f'<div class="lab-still">{picture}</div>'
    if not values:
        return HTML(f'<div class="lab">{shown}</div>')
    text = json.dumps(values, separators=(",", ":")).replace("</", "<\\/")
    shown += f'<script type="application/json" class="lab-data">{text}</script>'
    run = f' data-run="{values["run"]}"' if "run" in values else ""  # for `book.publish`
    return HTML(f'<div class="lab" data-lab="{name}"{run}>{shown}</div>')
