"""Augmentation against slices of arrays, Pillow and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from phasezoo.training.augment import Moves, augment, draw, move

PUBLISHED = {"crop": 4, "flip": True, "rotation": 20.0}


def pixels(n: int, *, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Bytes without zeros, so that a zero in a result comes from outside."""
    generator = torch.Generator().manual_seed(n)
    return torch.randint(1, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def cropped_and_flipped(image: np.ndarray, down: int, right: int, flip: bool, border: int) -> np.ndarray:
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (border, border), (border, border)))
    crop = padded[:, border + down : border + down + height, border + right : border + right + width]
    return np.ascontiguousarray(crop[:, :, ::-1] if flip else crop)


def each(moves: Moves) -> list[tuple[int, int, bool, float]]:
    columns = (moves.down, moves.right, moves.flip, moves.angle)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_and_flip_are_slices_of_the_padded_image(dtype: torch.dtype) -> None:
    images, positions = pixels(200, height=7, width=9).to(dtype), torch.arange(200)
    options = {"seed": 3, "epoch": 2, "crop": 2, "flip": True}
    result = augment(images, positions, **options)
    assert result.dtype == dtype
    for image, got, (down, right, flip, angle) in zip(images, result, each(draw(positions, **options)), strict=True):
        assert angle == 0
        assert np.array_equal(got.numpy(), cropped_and_flipped(image.numpy(), down, right, flip, 2))


def test_every_crop_of_the_padded_image_and_both_flips_occur() -> None:
    moves = draw(torch.arange(3000), seed=0, epoch=0, crop=2, flip=True)
    assert {(down, right, flip) for down, right, flip, _ in each(moves)} == {
        (down, right, flip) for down in range(-2, 3) for right in range(-2, 3) for flip in (False, True)
    }


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (28, 28), (9, 14)])
def test_crop_flip_and_turn_are_those_of_pillow_in_the_published_order(height: int, width: int) -> None:
    """Pillow, which torchvision calls, keeps coordinates in steps of 2^-16: only ties may fall to the other pixel."""
    image_module = pytest.importorskip("PIL.Image", reason="the original pipeline")
    images, positions = pixels(100, height=height, width=width), torch.arange(100)
    result = augment(images, positions, seed=1, epoch=5, **PUBLISHED)
    differ = 0
    for image, got, (down, right, flip, angle) in zip(
        images, result, each(draw(positions, seed=1, epoch=5, **PUBLISHED)), strict=True
    ):
        crop = cropped_and_flipped(image.numpy(), down, right, flip, 4)
        turned = np.asarray(image_module.fromarray(crop.transpose(1, 2, 0)).rotate(angle)).transpose(2, 0, 1)
        wrong = (turned != got.numpy()).any(0)
        differ += wrong.sum()
        assert not (wrong & ~_ties(height, width, angle)).any()
    assert differ <= 5e-4 * 100 * height * width


def _ties(height: int, width: int, angle: float) -> np.ndarray:
    """Where the source of a pixel lies within 2^-10 of the border between two pixels."""
    a = np.deg2rad(angle)
    y, x = np.mgrid[:height, :width] + 0.5
    y, x = y - height / 2, x - width / 2
    source = np.cos(a) * x - np.sin(a) * y + width / 2, np.sin(a) * x + np.cos(a) * y + height / 2
    return np.any([abs(s - s.round()) < 2**-10 for s in source], axis=0)


@pytest.mark.parametrize("angle", [-20.0, -3.0, 0.0, 11.5, 90.0])
def test_inside_the_image_a_turn_is_that_of_scipy(angle: float) -> None:
    """At the border the two have other ideas of where the image ends."""
    image = pixels(1)
    got = move(image, Moves(torch.zeros(1).long(), torch.zeros(1).long(), torch.tensor([False]), torch.tensor([angle])))
    expected = ndimage.rotate(image[0].numpy(), angle, axes=(1, 2), reshape=False, order=0)
    inside = ndimage.rotate(np.pad(np.ones((28, 28)), 2), angle, reshape=False, order=1) == 1
    assert inside.sum() > 500
    agree = (got[0].numpy() == expected).all(0)[inside & ~_ties(32, 32, angle)]
    assert agree.all()


def test_corners_that_the_image_leaves_are_black() -> None:
    result = augment(torch.ones(50, 1, 32, 32), torch.arange(50), seed=0, epoch=0, rotation=20)
    moves = draw(torch.arange(50), seed=0, epoch=0, rotation=20)
    far = moves.angle.abs() > 5
    assert far.any()
    assert not result[far][:, 0, 0, 0].any()
    assert result[:, 0, 8:24, 8:24].all()


def test_without_options_nothing_happens() -> None:
    images = pixels(20)
    assert torch.equal(augment(images, torch.arange(20), seed=0, epoch=3), images)


def test_cutting_an_epoch_otherwise_or_resuming_in_it_changes_nothing() -> None:
    images, order = pixels(60, height=8, width=8), torch.randperm(60, generator=torch.Generator().manual_seed(0))
    whole = augment(images[order], torch.arange(60), seed=4, epoch=7, **PUBLISHED)
    for size in (1, 7, 32):
        parts = [augment(images[order[p]], p, seed=4, epoch=7, **PUBLISHED) for p in torch.arange(60).split(size)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(augment(images[order[41:]], torch.arange(41, 60), seed=4, epoch=7, **PUBLISHED), whole[41:])


def test_the_generators_of_torch_are_left_alone() -> None:
    before = torch.get_rng_state()
    draw(torch.arange(10), seed=0, epoch=0, **PUBLISHED)
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_and_epochs_and_the_four_numbers_are_independent() -> None:
    positions = torch.arange(4000)
    columns = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2**40, 0), (-1, 0)]:
        moves = draw(positions, seed=seed, epoch=epoch, crop=1000, flip=True, rotation=1.0)
        columns += [moves.down.double(), moves.right.double(), moves.flip.double(), moves.angle.double()]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns), dtype=torch.float64)
    assert correlation.abs().max() < 5 / len(positions) ** 0.5
    neighbours = [torch.corrcoef(torch.stack([column[1:], column[:-1]]))[0, 1].abs() for column in columns]
    assert max(neighbours) < 5 / len(positions) ** 0.5


def test_numbers_are_uniform() -> None:
    moves = draw(torch.arange(20_000), seed=9, epoch=3, crop=4, flip=True, rotation=20)
    for offsets in (moves.down, moves.right):
        assert stats.chisquare((offsets + 4).bincount(minlength=9).numpy()).pvalue > 1e-3
    assert stats.chisquare(moves.flip.long().bincount().numpy()).pvalue > 1e-3
    assert stats.kstest(moves.angle.numpy(), stats.uniform(-20, 40).cdf).pvalue > 1e-3
    assert moves.angle.abs().max() <= 20


def test_numbers_are_those_of_splitmix64() -> None:
    """The generator by its definition, in integers without bounds; keys chain seed, epoch and number of the draw."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    assert mix(1234567 + golden) == 6457827717110365317  # first published output for this state
    key = 0
    for part in (5, 6, 3):
        key = mix(key + part + golden & mask)
    angles = draw(torch.arange(50), seed=5, epoch=6, rotation=1.0).angle
    expected = [2 * (mix(key + (i + 1) * golden & mask) >> 40) / 2**24 - 1 for i in range(50)]
    assert angles.tolist() == pytest.approx(expected, abs=1e-6)
