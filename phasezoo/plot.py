"""Pictures of a zoo, on matplotlib Axes: load on x, temperature on y, hot on top.

Cells are drawn as equal squares in the order of the grid, whatever its spacing; cells without a value are hatched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phasezoo.errors import ColumnNotFoundError, DependencyError, nearest
from phasezoo.phases import PHASE_COLORS, PHASES

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phasezoo.thresholds import Thresholds
    from phasezoo.zoo import Zoo

    ThresholdsLike = str | Thresholds | dict[str, Any] | None

MISSING = "#d9d9d9"
# What `figure` shows, in order: columns of `cells`, the first that exists of each.
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("test accuracy", ("test_acc",)),
    ("generalisation gap", ("gap",)),
    ("training loss", ("train_loss",)),
    ("similarity (CKA)", ("representation_similarity",)),
    ("Hessian trace", ("hessian_trace_train", "hessian_trace")),
    ("top eigenvalue", ("hessian_top_ev_train", "hessian_top_ev_val", "hessian_top_ev")),
    ("mode connectivity", ("curve_mc_train_error", "curve_mc_train_loss")),
    ("epoch average, gain", ("wiseft_acc_test_delta",)),
    ("seed average, gain", ("gitrebasin_acc_test_delta",)),
)


def heatmap(
    zoo: Zoo, metric: str, *, epoch: int | None = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw a metric of the cells over load x temperature.

    Metrics with two signs (mode connectivity, deltas) get a diverging map centred at zero; losses and Hessian metrics a
    logarithmic one.

    Args:
        zoo: the zoo or view.
        metric: a numeric column of `cells`, such as ``test_acc``.
        epoch: which; by default the last one with landscape metrics.
        ax: where to draw; a new figure by default.
        title: above the axes; name, epoch and metric by default.

    Raises:
        ColumnNotFoundError: no such column, or not a number.
        DependencyError: matplotlib is not installed.

    >>> import phasezoo
    >>> heatmap(phasezoo.load("mlp-digits"), "test_acc").get_xlabel()
    'width (load)'
    """
    import pyarrow as pa

    cells = zoo.phases(epoch=epoch)
    numeric = [f.name for f in cells.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    if metric not in numeric:
        raise ColumnNotFoundError(f"no numeric column {metric!r} of cells. {nearest(metric, numeric, limit=40)}")
    xs, ys, grid = _grid(zoo, cells, metric)
    ax = _axes(zoo, xs, ys, ax)
    values = [value for row in grid for value in row if value is not None]
    unit = (cells.schema.field(metric).metadata or {}).get(b"unit", b"").decode()
    image = ax.imshow(_masked(grid), origin="lower", aspect="auto", **_scale(metric, values))
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(metric + (f" ({unit})" if unit else ""))
    colors = image.cmap(image.norm(_masked(grid)))
    _write(ax, [[None if v is None else _brief(v) for v in row] for row in grid], colors)
    ax.set_title(_title(zoo, cells) if title is None else title)
    return ax


def phase_diagram(
    zoo: Zoo,
    *,
    epoch: int | None = None,
    thresholds: ThresholdsLike = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the phase of each cell; paler where the label is less sure, hatched where there is none.

    Args:
        zoo: the zoo or view.
        epoch: which; by default the last one with landscape metrics.
        thresholds: as `Zoo.phases` takes them.
        ax: where to draw; a new figure by default.
        title: above the axes.

    Raises:
        DependencyError: matplotlib is not installed.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> ax = phase_diagram(zoo, title="Digits")
    >>> ax.get_title()
    'Digits'
    """
    from matplotlib.patches import Patch

    cells = zoo.phases(epoch=epoch, thresholds=thresholds)
    xs, ys, labels = _grid(zoo, cells, "phase")
    _, _, sure = _grid(zoo, cells, "phase_confidence")
    ax = _axes(zoo, xs, ys, ax)
    picture = [[_paint(p, c) for p, c in zip(*rows, strict=True)] for rows in zip(labels, sure, strict=True)]
    ax.imshow(picture, origin="lower", aspect="auto")
    _write(ax, labels, picture)
    present = {p for row in labels for p in row if p}
    handles = [Patch(color=PHASE_COLORS[p], label=p) for p in PHASES if p in present]
    handles += [Patch(color=MISSING, label="metric missing")] if present - set(PHASES) else []
    if handles:
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="phase")
    ax.set_title(_title(zoo, cells) if title is None else title)
    return ax


def figure(zoo: Zoo, *, epoch: int | None = None, thresholds: ThresholdsLike = None) -> Figure:
    """Draw the whole story of a zoo: every metric that it has, and the phase map.

    Args:
        zoo: the zoo or view.
        epoch: which; by default the last one with landscape metrics.
        thresholds: as `Zoo.phases` takes them.

    Raises:
        DependencyError: matplotlib is not installed.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> [ax.get_title() for ax in figure(zoo).axes][:3]
    ['test accuracy', 'generalisation gap', 'training loss']
    """
    cells = zoo.phases(epoch=epoch, thresholds=thresholds)
    panels = [
        (title, name)
        for title, names in PANELS
        for name in [next((n for n in names if n in cells.column_names and cells[n].null_count < len(cells)), None)]
        if name
    ]
    columns = 3
    rows = math.ceil((len(panels) + 1) / columns)
    fig: Figure
    fig, axes = _pyplot().subplots(
        rows, columns, figsize=(5.6 * columns, 3.9 * rows), layout="constrained", squeeze=False
    )
    layout: Any = fig.get_layout_engine()
    layout.set(wspace=0.06, hspace=0.06)
    flat = [ax for row in axes for ax in row]
    for ax, (title, name) in zip(flat, panels, strict=False):
        heatmap(zoo, name, epoch=epoch, ax=ax, title=title)
    phase_diagram(zoo, epoch=epoch, thresholds=thresholds, ax=flat[len(panels)], title="phase")
    for ax in flat[len(panels) + 1 :]:
        ax.remove()
    when = f", epoch {cells['epoch'][0].as_py()}" if len(cells) else ""
    fig.suptitle(f"{zoo.manifest.title}{when}", fontsize=14)
    return fig


def trajectory(zoo: Zoo, *, epochs: Sequence[int] | None = None, thresholds: ThresholdsLike = None) -> Figure:
    """Draw the phase map at several epochs: how training walks through the phases.

    Args:
        zoo: the zoo or view.
        epochs: which; by default all that have landscape metrics.
        thresholds: as `Zoo.phases` takes them.

    Raises:
        DependencyError: matplotlib is not installed.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> [ax.get_title() for ax in trajectory(zoo, epochs=[10, 150]).axes][:2]
    ['epoch 10', 'epoch 150']
    """
    if epochs is None:
        measured = zoo.table("landscape")["epoch"].to_pylist() if "landscape" in zoo.manifest.tables else []
        epochs = sorted(set(measured)) or [zoo.phases()["epoch"][0].as_py()]
    fig: Figure
    fig, axes = _pyplot().subplots(1, len(epochs), figsize=(4.8 * len(epochs), 4), layout="constrained", squeeze=False)
    for ax, epoch in zip(axes[0], epochs, strict=True):
        phase_diagram(zoo, epoch=epoch, thresholds=thresholds, ax=ax, title=f"epoch {epoch}")
        if ax is not axes[0][-1] and ax.get_legend():
            ax.get_legend().remove()
    fig.suptitle(zoo.manifest.title, fontsize=14)
    return fig


def _title(zoo: Zoo, cells: pa.Table) -> str:
    return f"{zoo.name}, epoch {cells['epoch'][0].as_py()}" if len(cells) else zoo.name


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise DependencyError("pictures need matplotlib: pip install 'phasezoo[plot]'.") from None
    return plt


def _grid(zoo: Zoo, cells: pa.Table, name: str) -> tuple[list[float], list[float], list[list[Any]]]:
    """Return load values, temperature values from cold to hot, and the column as rows of the grid."""
    xs = sorted(set(cells["load"].to_pylist()))
    ys = sorted(set(cells["temperature"].to_pylist()), reverse=zoo.manifest.temperature.hot == "low")
    found = {
        (row["load"], row["temperature"]): row[name]
        for row in cells.select(["load", "temperature", name]).to_pylist()
        if not (isinstance(row[name], float) and math.isnan(row[name]))
    }
    return xs, ys, [[found.get((x, y)) for x in xs] for y in ys]


def _axes(zoo: Zoo, xs: Sequence[float], ys: Sequence[float], ax: Axes | None) -> Axes:
    if ax is None:
        size = (2.4 + 0.55 * len(xs), 1.3 + 0.42 * len(ys))
        _, ax = _pyplot().subplots(figsize=size, layout="constrained")
    load, temperature = zoo.manifest.load, zoo.manifest.temperature
    ax.patch.set(facecolor="white", hatch="////", edgecolor="0.7")
    ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    ax.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    for axis, role, put in ((load, "load", ax.set_xlabel), (temperature, "temperature", ax.set_ylabel)):
        put(f"{axis.label} ({role}{', ' + axis.unit if axis.unit else ''})")
    return ax


def _masked(grid: list[list[float | None]]) -> Any:
    import numpy as np

    return np.ma.masked_invalid(np.array([[np.nan if v is None else v for v in row] for row in grid], float))


def _scale(metric: str, values: Sequence[float]) -> dict[str, Any]:
    """Choose map and limits by what the metric is."""
    from matplotlib.colors import LogNorm

    if metric.startswith("curve_mc") or metric.endswith("_delta"):
        most = max((abs(value) for value in values), default=1.0) or 1.0
        return {"cmap": "RdBu", "vmin": -most, "vmax": most}
    reverse = "_r" if "loss" in metric or metric in ("gap",) else ""
    wide = values and min(values) > 0 and max(values) > 20 * min(values)
    if wide and ("loss" in metric or metric.startswith("hessian")):
        return {"cmap": "viridis" + reverse, "norm": LogNorm(min(values), max(values))}
    return {"cmap": "viridis" + reverse}


def _brief(value: float) -> str:
    if abs(value) < 1e-9:
        return "0"
    if 0.01 <= abs(value) < 100:
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"  # three digits: cells are narrow
    text = f"{value:.0e}" if abs(value) >= 1e4 or abs(value) < 0.01 else f"{value:.0f}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def _paint(phase: str | None, confidence: float | None) -> tuple[float, float, float, float]:
    """Return the colour of a cell, paler where the label is less sure; transparent where there is none."""
    from matplotlib.colors import to_rgb

    if phase is None:
        return 1.0, 1.0, 1.0, 0.0
    strength = 0.45 + 0.55 * (confidence or 0)
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(PHASE_COLORS.get(phase, MISSING)))
    return red, green, blue, 1.0


def _write(ax: Axes, texts: list[list[str | None]], colors: Any) -> None:
    """Write into each cell, black on light and white on dark."""
    size = 7 if len(texts[0]) <= 12 else 5 if texts else 7
    for y, row in enumerate(texts):
        for x, text in enumerate(row):
            if text is not None:
                red, green, blue = colors[y][x][:3]
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                color = "white" if dark else "black"
                ax.text(x, y, text, ha="center", va="center", fontsize=size, color=color)
