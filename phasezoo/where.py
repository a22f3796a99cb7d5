"""Filter expressions: from what people write to what Arrow evaluates."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phasezoo.errors import ColumnNotFoundError, FilterError, PhaseZooError, nearest

if TYPE_CHECKING:
    import pyarrow.compute as pc

MAX_TERMS = 200  # Arrow takes seconds for a thousand, and a few thousand end the process
_HINT = 'Write, for example, "width <= 8 and lr in (0.1, 0.05) and not seed == 100".'


def parse(text: str, columns: Sequence[str]) -> pc.Expression:
    """Turn a condition written in Python's syntax into an Arrow expression.

    Comparisons (also chained), ``in``, ``and``, ``or``, ``not``, ``is None``, numbers and strings; nothing is
    evaluated as code.

    Args:
        text: the condition, such as ``"width <= 8 and lr in (0.1, 0.05)"``.
        columns: the columns that exist.

    Raises:
        FilterError: the text is not such a condition, or has more than `MAX_TERMS` comparisons.
        ColumnNotFoundError: it names a column that does not exist.

    >>> print(parse("2 <= width <= 8 and not seed == 100", ["width", "seed"]))
    (((2 <= width) and (width <= 8)) and invert((seed == 100)))
    """
    import pyarrow as pa

    try:
        tree = ast.parse(text.strip(), mode="eval").body
        terms = sum(isinstance(node, (ast.cmpop, ast.unaryop)) for node in ast.walk(tree))
        if terms > MAX_TERMS:
            raise FilterError(
                f"the condition {_brief(text)} has {terms:,} comparisons; {MAX_TERMS} are possible. Use 'in' with a "
                "list."
            )
        return _condition(tree, text, columns)
    except PhaseZooError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, OverflowError, pa.ArrowException):
        raise FilterError(f"cannot read the condition {_brief(text)}. {_HINT}") from None


def _brief(text: str) -> str:
    """Quote the text, and no more than its beginning if it is long."""
    return repr(text if len(text) <= 500 else f"{text[:500]}...")


def equals(conditions: dict[str, Any], columns: Sequence[str]) -> pc.Expression:
    """Turn column=value pairs into one expression; a list, tuple, set or range means any of its values.

    >>> print(equals({"width": [8, 16], "seed": 100}, ["width", "seed"]))
    (is_in(width, {value_set=int64:[
      8,
      16
    ], null_matching_behavior=MATCH}) and (seed == 100))
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    result: pc.Expression | None = None
    for name, value in conditions.items():
        column = _column(name, columns)
        if value is None:
            term = column.is_null()
        else:
            try:
                several = isinstance(value, (list, tuple, set, frozenset, range))
                term = column.isin(pa.array(list(value))) if several else column == value
            except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
                raise FilterError(
                    f"cannot look for {name} = {_brief(str(value))}: {error}. Give a number, a text, or a list of "
                    "numbers or of texts."
                ) from None
        result = term if result is None else result & term
    return pc.scalar(True) if result is None else result


def _column(name: str, columns: Sequence[str]) -> pc.Expression:
    import pyarrow.compute as pc

    if name not in columns:
        raise ColumnNotFoundError(f"no column {name!r}. {nearest(name, columns, limit=40)}")
    return pc.field(name)


def _condition(node: ast.expr, text: str, columns: Sequence[str]) -> pc.Expression:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, text, columns) for value in node.values]
        result = parts[0]
        for part in parts[1:]:
            result = result & part if isinstance(node.op, ast.And) else result | part
        return result
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_condition(node.operand, text, columns)
    if isinstance(node, ast.Compare):
        terms = [node.left, *node.comparators]
        pairs = list(zip(terms, node.ops, terms[1:], strict=False))
        result = _comparison(*pairs[0], text, columns)
        for pair in pairs[1:]:
            result = result & _comparison(*pair, text, columns)
        return result
    if isinstance(node, ast.Name):
        return _column(node.id, columns)
    raise FilterError(f"cannot read {_brief(ast.unparse(node))} in the condition {_brief(text)}. {_HINT}")


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr, text: str, columns: Sequence[str]) -> pc.Expression:
    import pyarrow as pa

    a = _term(left, text, columns)
    b = _term(right, text, columns)
    if a is None or isinstance(a, list):
        raise FilterError(f"cannot read the condition {_brief(text)}: a column stands on the left. {_HINT}")
    if isinstance(op, (ast.In, ast.NotIn)) and isinstance(b, list):
        inside = a.isin(pa.array(b))
        return inside if isinstance(op, ast.In) else ~inside
    if isinstance(op, (ast.Is, ast.IsNot)) and b is None:
        return a.is_null() if isinstance(op, ast.Is) else a.is_valid()
    if isinstance(b, list) or b is None:
        raise FilterError(f"cannot read the condition {_brief(text)}: use 'in' with a list and 'is' with None. {_HINT}")
    comparisons: dict[type, Any] = {
        ast.Eq: lambda: a == b,
        ast.NotEq: lambda: a != b,
        ast.Lt: lambda: a < b,
        ast.LtE: lambda: a <= b,
        ast.Gt: lambda: a > b,
        ast.GtE: lambda: a >= b,
    }
    if type(op) not in comparisons:
        raise FilterError(f"cannot use that comparison in the condition {_brief(text)}. {_HINT}")
    return comparisons[type(op)]()


def _term(node: ast.expr, text: str, columns: Sequence[str]) -> Any:
    """Return a column expression, a scalar expression, a list of literals, or None."""
    import pyarrow.compute as pc

    if isinstance(node, ast.Name):
        return _column(node.id, columns)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise FilterError(f"cannot read {_brief(ast.unparse(node))} in the condition {_brief(text)}. {_HINT}") from None
    if value is None:
        return None
    if isinstance(value, (list, tuple, set)):
        return list(value)
    if isinstance(value, (bool, int, float, str)):
        return pc.scalar(value)
    raise FilterError(f"cannot compare with {_brief(str(value))} in the condition {_brief(text)}. {_HINT}")
