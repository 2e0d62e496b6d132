"""deadunits: detecting dead weights and units in neural networks, re-run.

The core (`data`, `models`, `training`, `counterfactual`, `scorers`, `pruning`) needs torch and numpy
alone; `runs`, `claims`, `figures`, `widgets` and `book` serve the executable book.
"""

__version__ = "0.1.0"


class Invalid(ValueError):
    """Something that a user gave is wrong; the message names it and what would be right."""
