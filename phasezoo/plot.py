"""Pictures of a zoo, on matplotlib Axes: load on x, temperature on y, hot on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phasezoo.errors import ColumnNotFoundError, DependencyError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from phasezoo.zoo import Zoo


def heatmap(zoo: Zoo, metric: str, *, ax: Axes | None = None) -> Axes:
    """Draw a metric over load x temperature, the mean over the seeds of each cell.

    Cells without a value are hatched.

    Args:
        zoo: the zoo or view.
        metric: a numeric column of `summary`, such as ``test_acc``.
        ax: where to draw; a new figure by default.

    Raises:
        ColumnNotFoundError: no such column, or not a number.
        DependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise DependencyError("pictures need matplotlib: pip install 'phasezoo[plot]'.") from None
    import numpy as np
    import pyarrow as pa

    table = zoo.table("summary")
    numeric = [f.name for f in table.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    if metric not in numeric:
        raise ColumnNotFoundError(f"no numeric column {metric!r}. {nearest(metric, numeric, limit=40)}")
    means = table.group_by(["load", "temperature"]).aggregate([(metric, "mean")])
    xs, ys = sorted(set(table["load"].to_pylist())), sorted(set(table["temperature"].to_pylist()))
    grid = np.full((len(ys), len(xs)), np.nan)
    for row in means.to_pylist():
        if row[f"{metric}_mean"] is not None:
            grid[ys.index(row["temperature"]), xs.index(row["load"])] = row[f"{metric}_mean"]
    load, temperature = zoo.manifest.load, zoo.manifest.temperature
    if temperature.hot == "low":  # small batches are hot
        ys, grid = ys[::-1], grid[::-1]
    if ax is None:
        _, ax = plt.subplots(figsize=(1.2 + 0.55 * len(xs), 1.2 + 0.42 * len(ys)), layout="constrained")
    image = ax.imshow(grid, origin="lower", aspect="auto", cmap="viridis")
    ax.patch.set(hatch="////", edgecolor="0.7")
    ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    ax.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    ax.set_xlabel(f"{load.label} (load)")
    ax.set_ylabel(f"{temperature.label} (temperature)")
    ax.set_title(zoo.name)
    unit = (table.schema.field(metric).metadata or {}).get(b"unit", b"").decode()
    colorbar = ax.figure.colorbar(image, ax=ax)
    colorbar.set_label(metric + (f" ({unit})" if unit else ""))
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            ax.text(
                column,
                row,
                f"{value:.2g}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if value < middle else "black",
            )
    return ax
