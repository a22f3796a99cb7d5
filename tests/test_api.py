"""Every name of the API reference exists, and an example that runs shows what it is for."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest

import phasezoo
from tests.examples import examples

API = Path(__file__).parents[1] / "docs" / "api"
NAMES = [
    name for path in sorted(API.glob("*.md")) for name in re.findall(r"^::: (\S+)", path.read_text(), re.MULTILINE)
]


def resolve(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        home, _, attribute = name.rpartition(".")
        return getattr(resolve(home), attribute)


@cache
def shown(module: str) -> set[str]:
    return {test.name for test in examples(importlib.import_module(module))}


def has_example(thing: Any) -> bool:
    """Say whether a class or function has an example of its own, not one that it inherits."""
    return f"{thing.__module__}.{thing.__qualname__}" in shown(thing.__module__)


def members(cls: type) -> dict[str, Any]:
    """Return the functions behind the public methods and properties of a class, inherited ones included."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        for name, value in vars(base).items() if base.__module__.startswith("phasezoo") else ():
            if isinstance(value, property):
                value = value.fget
            value = value.func if isinstance(value, cached_property) else getattr(value, "__func__", value)
            if not name.startswith("_") and inspect.isroutine(value):
                found.setdefault(name, inspect.unwrap(value))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_reference_exists_and_has_an_example(name: str) -> None:
    thing = resolve(name)
    assert inspect.ismodule(thing) or has_example(thing)  # the page of a module has one


@pytest.mark.parametrize("name", phasezoo.__all__)
def test_a_public_name_and_every_method_and_property_of_it_has_an_example(name: str) -> None:
    thing = getattr(phasezoo, name)
    assert has_example(thing)
    if inspect.isclass(thing):
        assert not [member for member, function in members(thing).items() if not has_example(function)]


def test_the_reference_has_every_public_name() -> None:
    listed = [resolve(name) for name in NAMES]
    for name in phasezoo.__all__:
        thing = getattr(phasezoo, name)
        assert thing in listed or inspect.getmodule(thing) in listed, name
