"""Pictures follow the conventions of the field, whatever the zoo lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

import phasezoo
from phasezoo.errors import ColumnNotFoundError
from phasezoo.phases import PHASE_COLORS, PHASES
from phasezoo.plot import heatmap, phase_diagram, trajectory
from phasezoo.sensitivity import sensitivity, stability
from tests.test_phases import measured_zoo

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def texts(ax) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in ax.texts}


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_load_on_x_and_hot_on_top(zoo: phasezoo.Zoo) -> None:
    ax = zoo.heatmap("test_acc")
    assert ax.get_xlabel() == "width (load)"
    assert ax.get_ylabel() == "learning rate (temperature)"
    assert ticks(ax.xaxis) == ["2", "3", "4", "6", "8", "12", "16", "24", "32", "48", "64"]
    assert ticks(ax.yaxis)[0] == "0.005"  # rows go up
    assert ticks(ax.yaxis)[-1] == "0.1"
    assert ax.images[0].colorbar.ax.get_ylabel() == "test_acc (fraction)"


def test_small_batches_are_hot(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z")
    cold = zoo.manifest.temperature.model_copy(update={"hot": "low", "column": "batch_size"})
    zoo._index.manifest = zoo.manifest.model_copy(update={"temperature": cold})
    assert ticks(heatmap(zoo, "train_loss").yaxis) == ["0.2", "0.1"]


def test_every_cell_is_labelled_and_a_hole_is_hatched(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z", holes=True)
    ax = phase_diagram(zoo)
    assert texts(ax) == {(0, 1): "II", (1, 1): "IV-B", (1, 0): "III"}
    assert ax.images[0].get_array()[0, 0, 3] == 0  # see-through, so that the hatch shows
    assert ax.patch.get_hatch()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["II", "III", "IV-B"]


def test_metrics_with_two_signs_have_a_map_centred_at_zero(zoo: phasezoo.Zoo) -> None:
    for metric in ("curve_mc_train_error", "gitrebasin_acc_test_delta"):
        low, high = heatmap(zoo, metric).images[0].get_clim()
        assert low == -high


def test_the_figure_shows_what_the_zoo_has(zoo: phasezoo.Zoo, small) -> None:
    titles = [ax.get_title() for ax in zoo.figure().axes if ax.get_title()]
    assert {"test accuracy", "Hessian trace", "mode connectivity", "phase"} <= set(titles)
    assert "epoch average, gain" not in titles  # the embedded zoo has no five epochs in a row
    few = [ax.get_title() for ax in phasezoo.load(small()).figure().axes if ax.get_title()]
    assert few == ["test accuracy", "phase"]


def test_trajectories_have_a_map_for_each_measured_epoch(zoo: phasezoo.Zoo) -> None:
    assert [ax.get_title() for ax in trajectory(zoo).axes] == ["epoch 10", "epoch 50", "epoch 150"]


def test_one_cell_alone_can_be_drawn(zoo: phasezoo.Zoo) -> None:
    assert len(texts(zoo.filter(width=8, lr=0.1).phase_diagram())) == 1


def test_a_wrong_metric_says_which_there_are(zoo: phasezoo.Zoo) -> None:
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'test_acc'"):
        zoo.heatmap("tets_acc")


def test_phase_colours_differ_for_everyone_and_are_labelled_anyway() -> None:
    assert set(PHASE_COLORS) == set(PHASES)
    assert len(set(PHASE_COLORS.values())) == len(PHASES)


def test_sensitivity_counts_changed_labels(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z")
    changes = {(c.cut, round(c.value, 3)): c.changed for c in sensitivity(zoo)}
    assert changes[("mc_eps", 1.0)] == changes[("mc_eps", 4.0)] == 0  # barriers are 0, 5 and -9
    assert {cut for cut, _ in changes} == {"fit_cut", "mc_eps", "cka_of_max"}
    assert sum(changes.values()) == sum(c.changed for c in sensitivity(zoo))


def test_cells_far_from_every_boundary_are_stable(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z", seeds=1)
    assert set(stability(zoo, draws=5).values()) == {1.0}
    shaky = stability(measured_zoo(tmp_path / "y", seeds=3), draws=60)
    assert shaky["w4-lr0.2"] == 1.0
    assert shaky["w2-lr0.2"] < 1.0  # one of its three seeds fits
