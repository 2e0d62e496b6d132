"""The figures of the book, each a function of a table, in one style: a module a chapter."""
# ruff: noqa: F403  (all public names of the modules)

from deadbook.figures.attacks import *
from deadbook.figures.background import *
from deadbook.figures.questions import *
from deadbook.figures.style import *
from deadbook.figures.units import *
from deadbook.figures.weights import *
