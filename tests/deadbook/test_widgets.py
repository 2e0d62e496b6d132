"""What moves in a page: frames belong to their labels."""

from __future__ import annotations

import itertools

import ipywidgets
import numpy as np
import pandas as pd
import pytest

from deadbook import widgets


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


@pytest.mark.parametrize("seeds", [[0], [0, 3]])
def test_the_theatre_has_an_attack_of_each_unit_and_seed_as_far_as_it_lasted(seeds):
    kinds, units = ("twin", "attack"), [("conv1", 0), ("fc1", 7)]
    rows = [
        {"layer": layer, "unit": unit, "seed": seed, "kind": kind, "step": step, "mrp": 1 + unit + seed}
        for layer, unit in units
        for seed in seeds
        for kind in kinds
        for step in (10, 20, 30)
        if kind == "twin" or seed == 0 or step < 30  # it diverged
    ]
    rows = pd.DataFrame(rows).assign(mrs=0.5, minibatch=2.0)
    rows.loc[rows["kind"] == "twin", "mrp"] *= 2
    values = rows.assign(what="output", bin=20, count=9)
    parts = frames(widgets.attack_theatre(rows, rows, values, "relu"))
    of = {seed: f", seed {seed}" if len(seeds) > 1 else "" for seed in seeds}
    assert list(parts) == [f"{layer}, unit {unit}{of[seed]}" for layer, unit in units for seed in seeds]
    for (layer, unit), seed in itertools.product(units, seeds):
        labels, _ = parts[f"{layer}, unit {unit}{of[seed]}"]
        mrp, steps = 1 + unit + seed, (10, 20, 30) if seed == 0 else (10, 20)
        assert labels == [f"{step}: MRP {mrp:.3f} (twin {2 * mrp:.3f})" for step in steps]
