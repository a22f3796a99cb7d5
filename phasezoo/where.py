"""Filter expressions: from what people write to what Arrow evaluates, and the rows it finds."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phasezoo.errors import ColumnNotFoundError, FilterError, PhaseZooError, nearest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

MAX_TERMS = 200  # Arrow takes seconds for a thousand, and a few thousand end the process
_HINT = 'Write, for example, "width <= 8 and lr in (0.1, 0.05) and not seed == 100".'


def match(table: pa.Table, condition: pc.Expression | str | None, columns: dict[str, Any]) -> list[int]:
    """Return the rows of a table that satisfy a condition and column=value pairs, ascending.

    Args:
        table: where to look.
        condition: a `pyarrow.compute` expression, or text for `parse`; None for all rows.
        columns: column=value pairs for `equals`.

    Raises:
        ColumnNotFoundError: the condition names a column that does not exist.
        FilterError: the condition cannot be read, or a value does not fit its column.

    >>> import pyarrow as pa
    >>> match(pa.table({"width": [2, 4, 8], "seed": [0, 0, 1]}), "width > 2", {"seed": [0, 1]})
    [1, 2]
    """
    import pyarrow as pa

    expression = equals(columns, table.column_names)
    if isinstance(condition, str):
        expression = expression & parse(condition, table.column_names)
    elif condition is not None:
        expression = expression & condition
    numbered = table.append_column("__row__", pa.array(range(table.num_rows), pa.int64()))
    try:
        return sorted(numbered.filter(expression)["__row__"].to_pylist())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0]
        unknown = reason.partition("FieldRef.Name(")[2].partition(")")[0]
        if unknown:
            known = nearest(unknown, table.column_names, limit=40)
            raise ColumnNotFoundError(f"no column {unknown!r}. {known}") from None
        shown = str(expression)
        types = ", ".join(f"{f.name} is {f.type}" for f in table.schema if f.name in shown)
        shown = shown if len(shown) <= 500 else f"{shown[:500]}..."
        raise FilterError(f"the condition {shown} does not fit its columns ({types}): {reason}") from None


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
