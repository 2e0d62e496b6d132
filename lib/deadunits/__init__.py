"""deadunits: detecting dead weights and units in neural networks, re-run.

`scorers` and `unit_scorers` say what a weight or a unit is worth, `mean_replacement` has the hooks of MRP
and MRS, `attack` kills a unit, `pruning` and `compaction` remove weights and units. All need torch and numpy
alone. The executable book, which uses them, is the package `deadbook` beside this one.
"""

__version__ = "0.1.0"


class Invalid(ValueError):
    """Something that a user gave is wrong; the message names it and what would be right."""
