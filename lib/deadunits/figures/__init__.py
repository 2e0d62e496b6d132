"""The figures of the book, each a function of a table, in one style: a module a chapter."""

from deadunits.figures.style import COLOURS, magnitudes, png, ranks, samples, title, use
from deadunits.figures.weights import (
    PRUNED_BY,
    correlations,
    error_signals,
    jumps,
    negative_share,
    penalties,
    penalty_by_scorer,
    removal,
    schedule,
    signed_and_absolute,
)
from deadunits.measures import NAMES

__all__ = [
    "COLOURS",
    "NAMES",
    "PRUNED_BY",
    "correlations",
    "error_signals",
    "jumps",
    "magnitudes",
    "negative_share",
    "penalties",
    "penalty_by_scorer",
    "png",
    "ranks",
    "removal",
    "samples",
    "schedule",
    "signed_and_absolute",
    "title",
    "use",
]
