"""How long the fuzz tests look: shortly and always the same in the suite, longer and at random in the slow run."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
}


def quick(examples: int) -> settings:
    return settings(max_examples=examples, derandomize=True, **_COMMON)


def long(examples: int) -> settings:
    return settings(max_examples=examples, **_COMMON)


# What JSON can hold where it should not: numbers of all sizes, halves of characters, nesting.
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 4, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.sampled_from([0.0, -0.0, 0.5, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.sampled_from(["", "x", "0", "F32", "e0", "\0", "\ud800", "²", "../..", "a/b", "x" * 300, "é\n"]),
)
values = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
