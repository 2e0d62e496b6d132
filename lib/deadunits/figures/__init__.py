"""The figures of the book, each a function of a table, in one style: a module a chapter."""

from deadunits.figures.attacks import by_attack, effects, fates, lives, rank_agreement, ridges
from deadunits.figures.background import (
    block_diagram,
    descent,
    expansion,
    expansion_error,
    propagation,
    removals,
)
from deadunits.figures.style import COLOURS, magnitudes, png, ranks, samples, title, use
from deadunits.figures.units import (
    by_fraction,
    estimates,
    speeds,
    stand_ins,
    unit_penalties,
    unit_scores_compared,
)
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
    "block_diagram",
    "by_attack",
    "by_fraction",
    "correlations",
    "descent",
    "effects",
    "error_signals",
    "estimates",
    "expansion",
    "expansion_error",
    "fates",
    "jumps",
    "lives",
    "magnitudes",
    "negative_share",
    "penalties",
    "penalty_by_scorer",
    "png",
    "propagation",
    "rank_agreement",
    "ranks",
    "removal",
    "removals",
    "ridges",
    "samples",
    "schedule",
    "signed_and_absolute",
    "speeds",
    "stand_ins",
    "title",
    "unit_penalties",
    "unit_scores_compared",
    "use",
]
