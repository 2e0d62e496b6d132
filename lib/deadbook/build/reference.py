"""Sphinx extension: the reference page, made by autodoc and napoleon from docstrings in Markdown.

Autodoc wants reStructuredText. Of Markdown our docstrings use two things, code in single backticks and
fences; everything else in them is text.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature


def markdown(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText, in place; called by autodoc, before napoleon."""
    parts = "\n".join(lines).split("```")
    for number, part in enumerate(parts):
        if number % 2:
            language, _, code = part.partition("\n")
            parts[number] = f".. code-block:: {language}\n\n{textwrap.indent(code, '   ')}"
        else:
            spans = part.split("`")  # text, code, text ...
            spans[::2] = (re.sub(r"([\\*|_])", r"\\\1", text) for text in spans[::2])
            parts[number] = re.sub(r"(?m)^Returns: ", "Returns:\n    ", "``".join(spans))
    lines[:] = "".join(parts).split("\n")


def as_written(
    app: Sphinx, kind: str, name: str, thing: Callable[..., Any], options: object, *_: object
) -> tuple[str, str | None] | None:
    """The signature with the annotations of the source: `Batches`, not the type that it abbreviates."""
    if kind not in ("function", "method", "class") or typing.is_typeddict(thing):
        return None
    signature = inspect.signature(thing)
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "self"]
    arguments = stringify_signature(signature.replace(parameters=parameters), show_return_annotation=False)
    return arguments, None if kind == "class" else signature.return_annotation


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("autodoc-process-docstring", markdown, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-signature", as_written)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
