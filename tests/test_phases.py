"""Phases: the decision order, what happens without a metric, and what independent data say."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import phasezoo
from phasezoo.builders.tables import write_zoo
from phasezoo.cells import cell_table, labelled, model_phases
from phasezoo.errors import ColumnNotFoundError, EpochNotFoundError, ThresholdError
from phasezoo.phases import PHASES, fit_cut_of, label, otsu
from phasezoo.registry import ZOOS
from phasezoo.summary import parse
from phasezoo.thresholds import BY_ZOO, DEFAULT, STRICT_YANG2021, Thresholds, thresholds_for
from phasezoo.training.recipes import names
from tests.conftest import draft

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not beside the repository")

LOSS, MC, CKA = "train_loss", "curve_mc_train_error", "representation_similarity"


def cells(*rows: tuple[float | None, float | None, float | None], **extra: list) -> pa.Table:
    return pa.table(
        {name: pa.array([row[i] for row in rows], pa.float64()) for i, name in enumerate((LOSS, MC, CKA))} | extra
    )


def phase_of(
    *rows: tuple[float | None, float | None, float | None], thresholds: Thresholds = DEFAULT
) -> list[str | None]:
    return label(cells(*rows), thresholds)["phase"].to_pylist()


def test_the_five_phases_in_the_order_of_decisions() -> None:
    rows = [(1.0, -10.0, 0.9), (1.0, 8.0, 0.9), (1e-3, -10.0, 0.9), (1e-3, -1.0, 0.5), (1e-3, -1.0, 0.9)]
    assert phase_of(*rows) == list(PHASES)


@pytest.mark.parametrize(
    ("row", "phase", "reason"),
    [
        ((1.0, None, 0.9), "I|II", "no curve_mc_train_error"),
        ((1e-3, None, 0.9), "III|IV", "no curve_mc_train_error"),
        ((1e-3, 0.0, None), "IV", "no representation_similarity"),
        ((1e-3, -9.0, None), "III", "curve_mc_train_error -9 < -2"),
        ((None, -9.0, 0.9), None, "no finite train_loss"),
        ((float("nan"), -9.0, 0.9), None, "no finite train_loss"),
        ((float("inf"), -9.0, 0.9), None, "no finite train_loss"),
        ((1e-3, float("nan"), 0.9), "III|IV", "no curve_mc_train_error"),
        ((0.0, 0.0, 0.9), "IV-B", "train_loss 0 < 0.02"),
    ],
)
def test_a_missing_metric_gives_a_set_and_a_reason_never_a_guess(row, phase, reason) -> None:
    one = label(cells(row), DEFAULT).to_pylist()[0]
    assert one["phase"] == phase
    assert any(reason in text for text in one["phase_reasons"])
    assert (one["phase_confidence"] is None) == (phase is None)


def test_probabilities_sum_to_one_and_confidence_falls_towards_a_boundary() -> None:
    table = label(cells((1e-4, 0.0, 0.9), (0.019, 0.0, 0.9), (0.021, 0.0, 0.9), (1e-4, -1.9, 0.9)), DEFAULT).to_pylist()
    for row in table:
        assert sum(row[f"p_{phase}"] for phase in PHASES) == pytest.approx(1)
        assert row["phase_confidence"] == row[f"p_{row['phase']}"]
    assert table[0]["phase_confidence"] > 0.8
    assert all(row["phase_confidence"] < 0.6 for row in table[1:])
    assert [row["margin_fit"] > 0 for row in table] == [True, True, False, True]


def test_test_accuracy_is_not_an_input() -> None:
    row = (1e-3, -1.0, 0.9)
    names = [name for name in label(cells(row), DEFAULT).column_names if name.startswith(("phase", "p_", "margin"))]
    a, b = (label(cells(row, test_acc=[accuracy]), DEFAULT).select(names) for accuracy in (0.1, 0.9))
    assert a.equals(b)


def test_a_collapsed_cell_is_flagged_and_not_called_a_phase() -> None:
    rows = cells((2.1, -1.0, 0.9), (1e-3, -1.0, 0.9), train_acc=[0.2, 1.0], final=[True, True])
    dead, alive = label(rows, DEFAULT, classes=10).to_pylist()
    assert (dead["phase"], dead["phase_flags"]) == (None, ["collapsed"])
    assert alive["phase_flags"] == []
    early = rows.set_column(4, "final", pa.array([False, False]))
    assert label(early, DEFAULT, classes=10)["phase"][0].as_py() == "II"  # near chance early is just early


def test_barriers_in_nearly_every_fitted_cell_are_suspect() -> None:
    table = label(cells(*[(1e-3, -30.0, 0.9)] * 5, (1.0, -30.0, 0.9)), DEFAULT).to_pylist()
    assert [row["phase_flags"] for row in table] == [["mc_protocol_suspect"]] * 5 + [[]]
    assert {row["phase"] for row in table[:5]} == {"III"}


def test_ends_that_are_worse_than_the_curve_are_flagged() -> None:
    row = label(cells((1e-3, 5.0, 0.9)), DEFAULT).to_pylist()[0]
    assert (row["phase"], row["phase_flags"]) == ("IV-B", ["ends_not_converged"])


def test_the_similarity_cut_follows_the_largest_similarity_of_phase_four() -> None:
    assert phase_of((1e-3, 0, 0.6), (1e-3, 0, 0.55), (1e-3, 0, 0.53)) == ["IV-B", "IV-B", "IV-A"]
    assert phase_of((1e-3, 0, 0.6), thresholds=Thresholds(cka_cut=0.7)) == ["IV-A"]


def test_otsu_is_accepted_only_for_losses_of_two_modes() -> None:
    two = [1e-3 * (1 + i / 10) for i in range(10)] + [1.0 + i / 10 for i in range(10)]
    cut, how = fit_cut_of([v / 10 for v in two], Thresholds(method="otsu"))
    assert 1.9e-4 < cut < 0.1 or how.startswith("the rule")
    cut, how = fit_cut_of([0.005] * 5 + [0.66, 0.7, 0.8], Thresholds(method="otsu"))
    assert how.startswith("Otsu's cut")
    assert 0.005 < cut < 0.66
    even = [10 ** (-3 + i / 10) for i in range(30)]
    cut, how = fit_cut_of(even, Thresholds(method="otsu", fit_cut=0.1))
    assert cut == 0.1
    assert "not of two modes" in how
    assert fit_cut_of([], Thresholds(method="otsu"))[0] == DEFAULT.fit_cut
    assert otsu([1.0, 1.0, 1.0])[1] == 0


def test_thresholds_can_be_named_changed_and_told_apart_by_their_hash() -> None:
    assert thresholds_for("resnet18-cifar10") is DEFAULT
    assert thresholds_for("resnet18-cifar10", "strict_yang2021") is STRICT_YANG2021
    changed = thresholds_for("mlp-digits", {"mc_eps": 0.5})
    assert (changed.mc_eps, changed.fit_cut) == (0.5, 0.1)
    assert changed.sources["mc_eps"] == "given by the caller"
    assert len({t.id for t in (DEFAULT, STRICT_YANG2021, changed, *BY_ZOO.values())}) >= 6
    with pytest.raises(ThresholdError, match="no threshold 'mc_epsilon'. Did you mean 'mc_eps'"):
        thresholds_for("mlp-digits", {"mc_epsilon": 1})
    with pytest.raises(ThresholdError, match="no set of thresholds 'strict'"):
        thresholds_for("mlp-digits", "strict")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit_cut": 0}, "must be above 0, not 0"),
        ({"mc_eps": -1}, "mc_eps is a distance and cannot be negative: -1"),
        ({"fit_width": math.nan}, "fit_width must be a finite number, not nan"),
        ({"cka_cut": "high"}, "cka_cut must be a finite number, not 'high'"),
        ({"method": "rul"}, "method is 'rul'. Did you mean 'rule'"),
        ({"fit": "test_loss"}, "fit is 'test_loss'. .*There are: train_loss, train_error"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ThresholdError, match=message):
        thresholds_for("mlp-digits", changes)


def test_a_gate_of_no_width_is_a_step() -> None:
    hard = Thresholds(mc_eps=0.0, fit_width=0.0, cka_cut=0.5)
    table = label(cells((1e-3, -1e-9, 0.9), (1e-3, 0.0, 0.9), (1.0, 1e-9, 0.9)), hard)
    assert table["phase"].to_pylist() == ["III", "IV-B", "II"]
    assert table["phase_confidence"].to_pylist() == pytest.approx([1.0, 0.5, 1.0], abs=1e-3)
    for zoo in BY_ZOO:
        assert zoo in {*ZOOS, *names()}


# In a zoo


def measured_zoo(out: Path, *, seeds: int = 2, holes: bool = False) -> phasezoo.Zoo:
    """A zoo of four cells, one in each corner: II, IV-B (hot), I, III (cold)."""
    configs, results, landscape = [], [], []
    corners = {
        (2, 0.2): (1.0, 5.0, 0.5),
        (4, 0.2): (1e-3, 0.0, 0.9),
        (2, 0.1): (1.0, -9.0, 0.5),
        (4, 0.1): (1e-3, -9.0, 0.7),
    }
    for (width, lr), (loss, mc, cka) in corners.items():
        if holes and (width, lr) == (2, 0.1):
            continue
        cell_id = f"w{width}-lr{lr}"
        for seed in range(seeds):
            model_id = f"{cell_id}-s{seed}"
            place = {"model_id": model_id, "cell_id": cell_id, "load": float(width), "temperature": lr, "seed": seed}
            configs.append({**place, "width": width, "lr": lr, "architecture": "mlp", "architecture_config": "{}"})
            for epoch in (0, 1):
                seen = 2.3 if epoch == 0 else 1e-3 if (seed == 1 and width == 2) else loss
                results.append({"model_id": model_id, "epoch": epoch, LOSS: seen, "train_acc": 0.5, "test_acc": 0.4})
        landscape.append({"model_id": None, "cell_id": cell_id, "epoch": 1, "protocol": "p", MC: mc, CKA: cka})
    table = pa.Table.from_pylist(
        landscape,
        schema=pa.schema(
            [
                ("model_id", "string"),
                ("cell_id", "string"),
                ("epoch", "int64"),
                ("protocol", "string"),
                (MC, "float64"),
                (CKA, "float64"),
            ]
        ),
    )
    write_zoo(
        out, draft(), configs=pa.Table.from_pylist(configs), results=pa.Table.from_pylist(results), landscape=table
    )
    return phasezoo.load(out)


def test_models_inherit_the_phase_of_their_cell_and_can_be_filtered_by_it(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z", seeds=3)
    phases = {row["cell_id"]: row["phase"] for row in zoo.phases().to_pylist()}
    assert phases == {"w2-lr0.2": "II", "w4-lr0.2": "IV-B", "w2-lr0.1": "I", "w4-lr0.1": "III"}
    assert {m.config["cell_id"] for m in zoo.filter(phase="IV-B")} == {"w4-lr0.2"}
    assert len(zoo.filter(phase=["I", "II"])) == 6
    assert len(zoo.filter("phase == 'III' and phase_confidence > 0.5")) == 3
    assert dict(Counter(zoo.configs["phase"])) == {"II": 3, "IV-B": 3, "I": 3, "III": 3}
    assert all(zoo.configs["phase_reasons"])
    assert [phase for phase, _ in zoo.groupby("phase")] == ["I", "II", "III", "IV-B"]


def test_a_seed_that_disagrees_with_its_cell_says_so(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z", seeds=3)
    odd = {m.config["cell_id"]: m.config["seed"] for m in zoo.filter(seed_disagrees=True)}
    assert odd == {"w2-lr0.2": 1, "w2-lr0.1": 1}
    assert len(zoo.filter(fit=True)) == 8


def test_cells_have_one_row_per_epoch_with_spreads_and_phases(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z", seeds=3)
    rows = zoo.cells.to_list()
    assert len(rows) == 8
    (row,) = [r for r in rows if r["cell_id"] == "w2-lr0.1" and r["epoch"] == 1]
    assert row["train_loss"] == pytest.approx(0.1)  # geometric mean of 1, 1e-3, 1
    assert (row["train_loss_min"], row["train_loss_max"], row["n_models"]) == (1e-3, 1.0, 3)
    assert row["gap"] == pytest.approx(0.1)
    assert {r["phase"] for r in rows if r["epoch"] == 0} == {"I|II"}  # not measured there


def test_a_view_does_not_change_a_label(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z")
    whole = {row["cell_id"]: row for row in zoo.phases().to_pylist()}
    part = zoo.filter(width=4, lr=0.1).phases().to_pylist()
    assert part == [whole["w4-lr0.1"]]


def test_thresholds_and_epochs_of_a_call(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z")
    assert {r["phase"] for r in zoo.phases(thresholds={"fit_cut": 10.0}).to_pylist()} <= {"III", "IV-A", "IV-B"}
    assert zoo.phases(epoch=0)["phase"].to_pylist() == ["I|II"] * 4
    with pytest.raises(EpochNotFoundError, match="no results at epoch 7.*from epoch 0 to 1"):
        zoo.phases(epoch=7)


def test_one_seed_one_cell_and_a_grid_with_holes(tmp_path: Path) -> None:
    one = measured_zoo(tmp_path / "one", seeds=1)
    assert len(one.phases()) == 4
    assert len(one[:1].phases()) == 1
    holes = measured_zoo(tmp_path / "holes", holes=True)
    assert len(holes.phases()) == 3


def test_a_zoo_without_metrics_has_no_phase_column(small) -> None:
    zoo = phasezoo.load(small())
    with pytest.raises(ColumnNotFoundError, match="no column 'phase'"):
        zoo.filter(phase="IV-B")
    assert set(zoo.phases()["phase"].to_pylist()) == {None}  # it has no training loss


def test_of_models_the_mean_and_of_logarithms_that_of_the_mean() -> None:
    configs = pa.table({"model_id": ["a", "b"], "cell_id": ["c", "c"], "load": [1.0, 1.0], "temperature": [1.0, 1.0]})
    results = pa.table({"model_id": ["a", "b"], "epoch": [0, 0], LOSS: [1e-2, 1e-4]})
    landscape = pa.table(
        {
            "model_id": ["a", "b"],
            "cell_id": ["c", "c"],
            "epoch": [0, 0],
            "protocol": ["p", "p"],
            "hessian_trace_train": [1.0, 3.0],
            "log_hessian_trace_train": [0.0, 1.0986],
        }
    )
    (row,) = cell_table(configs, results, landscape).to_pylist()
    assert row["train_loss"] == pytest.approx(1e-3)
    assert row["hessian_trace_train"] == 2.0
    assert row["log_hessian_trace_train"] == pytest.approx(0.6931, abs=1e-4)


def seeds(*losses: float | None, names: str = "abc") -> tuple[pa.Table, pa.Table]:
    """Configs and results of one cell whose seeds have these losses."""
    ids = list(names[: len(losses)])
    same = [1.0] * len(ids)
    configs = pa.table({"model_id": ids, "cell_id": ["c"] * len(ids), "load": same, "temperature": same})
    return configs, pa.table({"model_id": ids, "epoch": [0] * len(ids), LOSS: pa.array(losses, pa.float64())})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("others", [(), (1e-3, 1e-3)])
def test_a_loss_that_is_not_finite_is_never_a_small_one(bad: float, others: tuple[float, ...]) -> None:
    configs, results = seeds(bad, *others)
    (row,) = labelled(cell_table(configs, results, None), DEFAULT, classes=10).to_pylist()
    assert row["phase"] is None
    assert any("no finite train_loss" in reason for reason in row["phase_reasons"])
    models = model_phases(configs, results, cell_table(configs, results, None), DEFAULT, classes=10).to_pylist()
    assert [model["fit"] for model in models] == [False, *[True] * len(others)]
    assert {model["seed_disagrees"] for model in models} == {None}  # the cell has no fit to disagree with


def test_a_loss_that_was_not_recorded_is_left_out_of_the_mean() -> None:
    (row,) = labelled(cell_table(*seeds(None, 1e-2, 1e-4), None), DEFAULT, classes=10).to_pylist()
    assert row["train_loss"] == pytest.approx(1e-3)
    (row,) = labelled(cell_table(*seeds(None), None), DEFAULT, classes=10).to_pylist()
    assert (row["train_loss"], row["phase"]) == (None, None)


def test_a_loss_of_zero_is_small() -> None:
    (row,) = labelled(cell_table(*seeds(0.0, 0.0), None), DEFAULT, classes=10).to_pylist()
    assert row["phase"] == "III|IV"


def test_models_are_held_against_the_cut_that_their_cells_were() -> None:
    """Otsu's cut is found without collapsed cells, for cells and models alike."""
    losses = {"fit1": 0.005, "fit2": 0.006, "odd1": 0.05, "odd2": 0.055, **{f"dead{i}": 2.29 for i in range(12)}}
    ids = list(losses)
    place = [1.0] * len(ids)
    configs = pa.table({"model_id": ids, "cell_id": ids, "load": place, "temperature": place})
    results = pa.table({"model_id": ids, "epoch": [0] * len(ids), LOSS: list(losses.values())})
    thresholds = Thresholds(method="otsu", fit_cut=0.001)
    table = cell_table(configs, results, None)
    phases = dict(zip(ids, labelled(table, thresholds, classes=10)["phase"].to_pylist(), strict=True))
    fits = model_phases(configs, results, table, thresholds, classes=10)["fit"].to_pylist()
    for model_id, fit in zip(ids, fits, strict=True):
        if phases[model_id] is not None:
            assert fit == (phases[model_id] == "III|IV"), model_id


# Independent data


def yang() -> list[dict[str, float]]:
    with open(SHARED / "yang2021_cells.csv") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def label_yang(thresholds: Thresholds) -> dict[tuple[int, int], str]:
    rows = yang()
    table = cells(*[(r["train_loss"], r["mc_train_error_pp"], r["cka_softmax_mixup"]) for r in rows])
    phases = label(table, thresholds)["phase"].to_pylist()
    return {(int(r["width"]), int(r["batchsize"])): phase for r, phase in zip(rows, phases, strict=True)}


def _between(x: float, points: list[tuple[float, float]]) -> float:
    """Interpolate a boundary, both axes logarithmic; beyond its ends it goes on with its last slope."""
    from math import exp, log

    points = sorted(points)
    i = max(0, min(len(points) - 2, sum(px <= x for px, _ in points) - 1))
    (x0, y0), (x1, y1) = points[i], points[i + 1]
    s = (log(x) - log(x0)) / (log(x1) - log(x0))
    return exp(log(y0) + s * (log(y1) - log(y0)))


def drawn_phase(width: int, batch: int) -> str:
    """The phase that the published figure of Yang et al. draws (digitised boundaries), IV undivided."""
    if width >= 16:
        return "II" if batch < _between(width, [(16, 45), (280, 34)]) else "IV"
    if batch < _between(width, [(3, 16), (16, 45)]):
        return "II"
    # I | III runs from (6, 2000) through (8.6, 280) and (12, 90) to (16, 45): wider than it at a batch size is III.
    border = _between(batch, [(45, 16), (90, 12), (280, 8.6), (2000, 6)])
    return "III" if width > border else "I"


def four_way(phases: dict[tuple[int, int], str]) -> float:
    hits = [phase.replace("-A", "").replace("-B", "") == drawn_phase(*place) for place, phase in phases.items()]
    return sum(hits) / len(hits)


@needs_data
def test_default_thresholds_agree_with_the_boundaries_that_yang_et_al_drew() -> None:
    phases = label_yang(DEFAULT)
    assert len(phases) == 169
    assert four_way(phases) >= 0.90
    assert four_way(label_yang(STRICT_YANG2021)) >= 0.90


@needs_data
def test_test_accuracy_is_highest_in_phase_iv_b_though_it_was_no_input() -> None:
    phases = label_yang(DEFAULT)
    by_phase = defaultdict(list)
    for row in yang():
        by_phase[phases[int(row["width"]), int(row["batchsize"])]].append(row["test_acc"])
    means = {phase: sum(values) / len(values) for phase, values in by_phase.items()}
    assert set(means) == set(PHASES)
    assert max(means, key=lambda phase: means[phase]) == "IV-B"


@needs_data
def test_phases_predict_what_would_have_improved_a_model() -> None:
    """The failure sources of Zhou et al.'s MD tree data: I -> width, III -> width, II -> temperature too large."""
    with open(SHARED / "mdtree_resnet18_cifar10_clean.csv") as file:
        rows = list(csv.DictReader(file))
    # The cuts are those that facts about these data were published with: 0.1 nats, 1 pp, CKA 0.65.
    thresholds = Thresholds(fit_cut=0.1, mc_eps=1.0, cka_cut=0.65)
    table = cells(*[(float(r["train_loss"]), float(r["mode_connectivity"]), float(r["CKA"])) for r in rows])
    phases = label(table, thresholds)["phase"].to_pylist()
    assert len(phases) == 1690
    width, temperature = defaultdict(Counter), defaultdict(Counter)
    for row, phase in zip(rows, phases, strict=True):
        width[phase][row["width_vs_batch"]] += 1
        temperature[phase][row["bs_failure"]] += 1
    assert width["I"] == {"width": 283}
    assert width["III"] == {"width": 101}
    assert temperature["II"]["large"] == 574
    assert sum(temperature["II"].values()) == 626


@needs_data
@pytest.mark.parametrize(
    ("file", "zoo"),
    [
        ("cifar10_resnet18_e150.csv", "resnet18-cifar10"),
        ("cifar100_resnet50_e150_seed0.csv", "resnet50-cifar100"),
        ("cifar10_vit_e300_seed0.csv", "vit-cifar10"),
    ],
)
def test_published_zoos_have_coherent_maps(file: str, zoo: str) -> None:
    tables = parse((SHARED / "published_rows" / file).read_bytes(), ZOOS[zoo])
    found = cell_table(tables.configs, tables.results, tables.landscape)
    rows = labelled(found, thresholds_for(zoo), classes=ZOOS[zoo].dataset.classes).to_pylist()
    grid = {(row["load"], row["temperature"]): row["phase"] for row in rows}
    loads, temperatures = sorted({place[0] for place in grid}), sorted({place[1] for place in grid})
    pairs = [
        (grid[a, t], grid[b, u])
        for i, a in enumerate(loads)
        for j, t in enumerate(temperatures)
        for b, u in ([(loads[i + 1], t)] if i + 1 < len(loads) else [])
        + ([(a, temperatures[j + 1])] if j + 1 < len(temperatures) else [])
    ]
    assert sum(a == b for a, b in pairs) / len(pairs) >= 0.75
    by_phase = defaultdict(list)
    for row in rows:
        by_phase[row["phase"]].append(row["test_acc"])
    if zoo == "vit-cifar10":
        collapsed = [row for row in rows if "collapsed" in row["phase_flags"]]
        assert len(collapsed) == 12
        assert {row["phase"] for row in collapsed} == {None}
        assert any("mc_protocol_suspect" in row["phase_flags"] for row in rows if row["phase"] == "III")
    else:
        means = {phase: sum(values) / len(values) for phase, values in by_phase.items() if len(values) > 2}
        assert max(means, key=lambda phase: means[phase]) == "IV-B"


def test_the_thresholds_of_a_label_are_in_it(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z")
    ids = set(zoo.phases()["thresholds_id"].to_pylist())
    assert ids == {DEFAULT.id}
    assert json.dumps(DEFAULT.sources)
