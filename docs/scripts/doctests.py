"""Shows the examples of docstrings as code: in Markdown, lines that begin with ``>>>`` would be quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*?(?=\n[ \t]*\n|\Z)", flags=re.DOTALL | re.MULTILINE)


def fenced(text: str) -> str:
    r"""Put fences around every example, which ends at an empty line.

    >>> fenced("Add.\n\n>>> 1 + 1\n2\n\nThat is all.").splitlines()
    ['Add.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'That is all.']
    """
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", text)


class Doctests(griffe.Extension):
    """Puts fences around the examples of everything that has a docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of one object, as griffe loads it."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
