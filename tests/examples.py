"""The examples of a module's docstrings, as doctest finds them, and those that it passes over."""

from __future__ import annotations

import doctest
import inspect
from functools import cached_property
from types import ModuleType


def examples(module: ModuleType) -> list[doctest.DocTest]:
    """Return the docstrings of a module that have examples.

    doctest looks neither into cached properties nor into functions that a decorator of another module has wrapped.
    """
    finder = doctest.DocTestFinder()
    found = {test.name: test for test in finder.find(module)}
    for owner in [module, *(cls for _, cls in inspect.getmembers(module, inspect.isclass))]:
        for value in vars(owner).values():
            value = value.func if isinstance(value, cached_property) else getattr(value, "__func__", value)
            function = inspect.unwrap(value) if callable(value) else value
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                name = f"{function.__module__}.{function.__qualname__}"
                for test in () if name in found else finder.find(function, name, module=module):
                    found[test.name] = test
    return [test for _, test in sorted(found.items()) if test.examples]
