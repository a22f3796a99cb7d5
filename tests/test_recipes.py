"""Recipes: the published facts as published, what is not published marked, and grids of the published size."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from phasezoo.registry import ZOOS
from phasezoo.training.recipes import names, recipe
from phasezoo.training.select import select
from phasezoo.training.tables import count_parameters

PUBLISHED = [name for name in names() if name in ZOOS and not ZOOS[name].embedded]


def test_there_is_a_recipe_for_each_of_the_twelve_zoos() -> None:
    assert set(PUBLISHED) == {name for name, z in ZOOS.items() if not z.embedded and z.variant_of is None}
    assert len(PUBLISHED) == 12


@pytest.mark.parametrize("name", names())
def test_a_grid_has_the_published_number_of_models_each_once(name: str) -> None:
    trials = recipe(name).trials()
    assert len({trial.model_id for trial in trials}) == len(trials)
    if name in ZOOS:
        assert len(trials) == ZOOS[name].models


def test_the_counts_are_192_147_264_and_700() -> None:
    counts = Counter(len(recipe(name).trials()) for name in PUBLISHED)
    assert counts == {192: 8, 147: 2, 264: 1, 700: 1}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("resnet")])
def test_networks_have_the_published_number_of_parameters(name: str) -> None:
    a, b, c = ZOOS[name].polynomial or (0, 0, 0)
    k = ZOOS[name].dataset.classes or 0
    for trial in recipe(name).trials()[:: 24 * 7]:
        w = int(trial.load)
        assert count_parameters(trial) == a * w * w + b * w + c * w * k + k


def test_the_largest_language_model_has_some_900_million_parameters() -> None:
    assert count_parameters(recipe("gpt2-openwebtext").trials()[-1]) == pytest.approx(900e6, rel=0.03)


def test_gradients_are_accumulated_in_the_published_cells() -> None:
    steps = {(t.load, t.batch_size): t.accumulation_steps for t in recipe("resnet50-cifar10").trials()}
    assert {cell: n for cell, n in steps.items() if n > 1} == {
        (64, 1024): 2,
        (128, 1024): 4,
        (128, 512): 2,
        (256, 1024): 8,
        (256, 512): 4,
        (256, 256): 2,
    }
    assert all(t.accumulation_steps == 1 for t in recipe("resnet18-cifar10").trials())


def test_images_are_cropped_and_turned_and_only_those_of_svhn_not_flipped() -> None:
    for name in (name for name in PUBLISHED if name.startswith("resnet")):
        found = recipe(name).augmentation
        assert found is not None
        assert (found.crop, found.flip, found.rotation) == (4, "svhn" not in name, 20)


@pytest.mark.parametrize(
    ("name", "epochs"), [("resnet50-cifar100", 150), ("resnet18-tinyimagenet", 100), ("vit-cifar10", 300)]
)
def test_every_epoch_is_kept_as_published(name: str, epochs: int) -> None:
    assert recipe(name).checkpoint_epochs == tuple(range(epochs + 1))


def test_what_is_not_published_is_marked_with_its_reason() -> None:
    marked = {name: {a.field for a in recipe(name).assumptions} for name in PUBLISHED}
    assert all(not marked[name] for name in PUBLISHED if name.startswith("resnet18"))
    assert marked["vit-cifar10"] >= {"depth", "heads", "patch_size", "optimizer"}
    assert marked["gpt2-openwebtext"] >= {"load", "temperature", "seeds", "depth", "optimizer", "epochs"}
    assert marked["pinn-convection"] >= {"load", "temperature", "seeds", "depth", "optimizer", "epochs"}
    assert all(len(a.reason) > 5 for name in PUBLISHED for a in recipe(name).assumptions)


def test_a_condition_selects_models() -> None:
    chosen = select(recipe("pinn-convection"), "beta == 5 and lr > 0.01 and seed < 2")
    assert {(t.beta, t.seed) for t in chosen} == {(5.0, 0), (5.0, 1)}
    assert {t.load for t in select(recipe("vit-cifar10"), "embedding_dim <= 12")} == {6, 12}


def test_another_number_of_epochs_keeps_its_last_checkpoint() -> None:
    short = recipe("mlp-digits").shortened(20)
    assert (short.epochs, short.checkpoint_epochs) == (20, (0, 10, 20))


def test_the_command_prints_a_recipe_and_marks_assumptions() -> None:
    command = [sys.executable, "-c", "from phasezoo.cli import main; main()", "recipe", "vit-cifar10"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = {line.split()[0]: line for line in lines if line.split()}
    assert "assumption" in next(line for line in lines if line.strip().startswith("heads"))
    assert not next(line for line in lines if line.startswith("lr")).endswith("assumption")
    assert "6, 12, 24, 48, 60, 96, 192" in rows["load"]
