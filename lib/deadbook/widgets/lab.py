"""Pieces of a page that compute there: their data, and the place where they are shown.

The pieces are JavaScript in ``book/assets/site/lab``. Their data are in the cell's output; the site has them
as files of their own, which a page loads when the piece comes into view.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from deadbook import widgets
from deadbook.runs import Run
from deadunits import data


def packed(parameters: Mapping[str, np.ndarray], sets: Mapping[str, Any], **about: Any) -> dict[str, Any]:
    """A `small_cnn` and images as JSON: float32 and bytes in base64.

    Args:
        parameters: by the name in its `state_dict`.
        sets: by name, images (N, channels, height, width) of at most 256 different values, and labels (N,).
        about: `activation`, `batch_norm`, and what else a piece shall know.
    """
    numbers = np.concatenate([[], *(values.ravel() for values in parameters.values())]).astype("<f4")
    images = [x for x, _ in sets.values()]
    palette, index = np.unique(np.concatenate([x.ravel() for x in images]), return_inverse=True)
    return about | {
        "shape": images[0].shape[1:],
        "parameters": [[name, values.size] for name, values in parameters.items()],
        "weights": base64.b64encode(numbers).decode(),
        "palette": palette.tolist(),
        "images": base64.b64encode(index.astype(np.uint8)).decode(),
        "labels": {name: y.tolist() for name, (_, y) in sets.items()},
    }


def carried(runs: Sequence[Run]) -> dict[str, Any]:
    """The network and the images of a run of `checkpoint`; nothing without one, or if they are not square."""
    if not runs:
        return {}
    run, chosen, sets = runs[0], runs[0].info["settings"], {}
    rows = run.table("snapshots").groupby("name", sort=False)["value"]
    parameters = {name: values.to_numpy() for name, values in rows}
    channels = parameters["conv1.weight"].size // parameters["conv1.bias"].size // 25
    pixels = run.table("images").groupby("set", sort=False)["value"]
    for name, labels in run.table("labels").groupby("set", sort=False)["label"]:
        side = math.isqrt(len(pixels.get_group(name)) // len(labels) // channels)
        if side * side * channels * len(labels) != len(pixels.get_group(name)):
            return {}
        x = pixels.get_group(name).to_numpy().reshape(-1, channels, side, side)
        sets[name] = x, labels.to_numpy()
    about = {name: chosen[name] for name in ("activation", "dataset", "seed", "epochs")}
    return packed(parameters, sets, run=run.folder.name, **about)


def digits() -> dict[str, Any]:
    """The embedded digits, 8 x 8 as they were before they were enlarged; no network."""
    images = data.digits(probe_size=100)
    sets = {"train": images.train, "probe": images.train_probe, "test": images.test}
    sets = {name: (x[:, :, 2:-2:3, 2:-2:3].numpy(), y.numpy()) for name, (x, y) in sets.items()}
    return packed({}, sets, dataset="digits")


def points(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Points in the plane (N, 2), and their labels (N,), 0 or 1."""
    return {"points": np.asarray(x).round(3).tolist(), "labels": np.asarray(y).astype(int).tolist()}


def piece(name: str, values: Mapping[str, Any], still: Figure, alt: str, **state: Any) -> HTML:
    """A piece, by the name of its script: "prune", "kill", "weight" or "two".

    Args:
        values: `carried`, `digits` or `points`; without any, the figure alone is shown.
        still: what is seen without JavaScript, and printed.
        alt: its words.
        state: what the piece starts with, as in the `state` of its script.
    """
    shown = f'<figure class="lab-still">{widgets.line_frame(still, alt)}</figure>'
    if values:
        text = json.dumps(dict(values) | {"state": state}, separators=(",", ":")).replace("</", "<\\/")
        shown += f'<script type="application/json" class="lab-data">{text}</script>'
        name += f'" data-run="{values.get("run", "")}'  # for `book.publish`
    return HTML(f'<div class="lab" data-lab="{name}">{shown}</div>')
