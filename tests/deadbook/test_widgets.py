"""What moves in a page: frames belong to their labels."""

from __future__ import annotations

import ipywidgets
import numpy as np
import pandas as pd

from deadbook import figures, widgets


def frames(theatre):
    """Labels and alternative texts of the frames, by unit."""
    choice, stack = theatre.children
    return {
        name: (
            [label for label, _ in part.children[0].children[1].options],
            [
                frame.value.partition('alt="')[2].partition('"')[0]
                for frame in part.children[1].children
                if isinstance(frame, ipywidgets.HTML)
            ],
        )
        for (name, _), part in zip(choice.options, stack.children, strict=True)
    }


def test_the_explorer_says_how_well_a_score_agrees_with_the_exact_change():
    steps = np.repeat(np.arange(100, 5100, 100), 8)
    exact = np.tile([3.0, 1, 2, 0, -1, 5, 4, 6], 50)
    scores = pd.DataFrame({"step": steps, "weight": np.tile(range(8), 50), "loss_change": exact})
    scores = scores.assign(taylor1=2 * exact, hessian=-4 * exact, magnitude=exact**2)
    found = widgets.saliency_explorer(
        scores.sample(frac=1, random_state=0), (2, 1, 2, 2), ["taylor1", "taylor2", "magnitude"]
    )
    parts = frames(found)
    assert list(parts) == ["Taylor 1", "Taylor 2", "magnitude"]
    labels = parts["Taylor 1"][0]
    assert labels[0] == "100: agreement 1.00"
    assert labels[-1] == "5,000: agreement 1.00"
    assert parts["Taylor 2"][0][0] == "100: agreement -1.00"  # 2 x - 4 x
    assert sum(len(labels) for labels, _ in parts.values()) <= widgets.FRAMES
    upper, lower = (one.value for one in found.children[1].children[1].children[1].children[0].children)
    assert upper != lower  # what is first by one is last by the other


def test_the_expansion_is_read_off_the_table():
    sizes = [0.1, 0.01, 1.0]
    rows = pd.DataFrame(
        [
            {
                "step": step,
                "direction": direction,
                "size": size,
                "exact": size,
                "first": -size,
                "second": 2 * size,
            }
            for step in (1, 50, 90)
            for direction in ("gradient", "removal")
            for size in sizes
        ]
    )
    found = frames(widgets.expansion_slider(rows, 0.01))
    assert list(found) == ["after step 1", "after step 90"]
    labels, spoken = found["after step 90"]
    assert labels[1] == "0.1: exact +0.100, first order -0.100, second +0.200"
    assert spoken == [f"step of size {label}" for label in labels]


def test_the_theatre_has_the_measurements_of_an_attack_as_far_as_it_lasted():
    rows = [
        {"layer": "fc1", "unit": 7, "seed": 0, "kind": kind, "step": step, "mrp": 8 + 8 * (kind == "twin")}
        for kind in ("twin", "attack")
        for step in (10, 20, 30)
        if kind == "twin" or step < 30  # it diverged
    ]
    rows = pd.DataFrame(rows).assign(mrs=0.5, minibatch=2.0)
    values = rows.assign(what="output", bin=20, count=9)
    found = widgets.attack_theatre(rows, rows, values, "relu")
    labels = [label for label, _ in found.children[0].children[1].options]
    assert labels == [f"{step}: MRP 8.000 (twin 16.000)" for step in (10, 20)]
    nothing = widgets.attack_theatre(rows, rows, values[values["kind"] == "twin"], "relu")
    assert figures.NOTHING in nothing.value
