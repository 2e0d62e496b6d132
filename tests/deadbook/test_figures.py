"""Figures as files."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from deadbook.figures import style


def drawn(noise: float) -> bytes:
    generator = np.random.default_rng(0)
    y, moved = generator.normal(size=(2, 300))
    figure = Figure()
    ax = figure.add_subplot()
    ax.fill_between(range(300), y * (1 + noise * moved), y + 1, alpha=0.2)
    ax.plot(y * (1 + noise * moved), "o-")
    ax.set_title("a@b #3")
    return style.svg(figure)


def test_a_figure_is_the_same_text_when_numbers_move_by_the_noise_of_a_processor():
    assert drawn(0) == drawn(1e-12)
    assert drawn(0) != drawn(1e-2)


def test_all_references_in_a_figure_lead_to_an_id_of_its_own():
    text = drawn(0).decode()
    ids = re.findall(r' id="([^"]+)"', text)
    used = re.findall(r'"#([^"]+)"|\(#([^)]+)\)', text)
    assert len(ids) == len(set(ids)) > 10
    assert {a or b for a, b in used} <= set(ids)
    assert "a@b #3" in text  # in its comment


def test_the_frame_of_a_figure_is_rounded_too():
    (frame,) = re.findall(r'viewBox="([^"]+)"', drawn(0).decode())
    figure = Figure(figsize=(1 / 3, 1 / 7))
    (odd,) = re.findall(r'viewBox="([^"]+)"', style.svg(figure).decode())
    assert all(len(number.partition(".")[2]) <= 2 for number in (frame + " " + odd).split())
