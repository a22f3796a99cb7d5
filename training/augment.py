"""Random crops, flips and rotations of image batches, on the device that holds them.

What is done to a sample depends on the seed, the epoch and its position in the epoch, and on nothing else: not on how
the epoch is cut into batches, where a run was resumed, or which device draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


@dataclass(frozen=True)
class Moves:
    """What is done to each image of a batch, in this order.

    Attributes:
        down: rows by which the crop starts below the upper edge of the image ``[batch]``; negative is above it.
        right: columns by which it starts right of the left edge.
        flip: is the crop mirrored left to right?
        angle: degrees by which it is then turned counter-clockwise.
    """

    down: torch.Tensor
    right: torch.Tensor
    flip: torch.Tensor
    angle: torch.Tensor


def augment(
    images: torch.Tensor,
    positions: torch.Tensor,
    *,
    seed: int,
    epoch: int,
    crop: int = 0,
    flip: bool = False,
    rotation: float = 0.0,
) -> torch.Tensor:
    """Crop, flip and turn images at random, as the published zoos did before they normalised.

    A crop of the image's own size from the image with a border of zeros; a flip of every second one; a turn about the
    centre. What comes from outside the image is zero: black, as long as pixels are not normalised.

    Args:
        images: ``[batch, channels, h, w]``, bytes or floats.
        positions: place of each image in the epoch ``[batch]``: 0 for the first that is seen.
        seed: seed of the run.
        epoch: the epoch.
        crop: width of the border.
        flip: flip with probability 1/2?
        rotation: largest angle, in degrees; the angle is uniform between minus that and that.

    Returns:
        The images, of the same type.

    >>> images, positions = torch.rand(6, 3, 8, 8), torch.arange(6)
    >>> whole = augment(images, positions, seed=0, epoch=1, crop=2, flip=True, rotation=20)
    >>> half = augment(images[3:], positions[3:], seed=0, epoch=1, crop=2, flip=True, rotation=20)
    >>> torch.equal(whole[3:], half)
    True
    """
    moves = draw(positions.to(images.device), seed=seed, epoch=epoch, crop=crop, flip=flip, rotation=rotation)
    return move(images, moves)


def draw(
    positions: torch.Tensor, *, seed: int, epoch: int, crop: int = 0, flip: bool = False, rotation: float = 0.0
) -> Moves:
    """Draw what `augment` does to the images at some positions of an epoch.

    The four numbers of a sample are drawn whatever is asked: a run without flips has the crops of one with them.

    >>> draw(torch.arange(4), seed=0, epoch=1, flip=True).down
    tensor([0, 0, 0, 0])
    """
    u = [_uniform(positions, seed=seed, epoch=epoch, draw=i) for i in range(4)]
    down, right = ((v * (2 * crop + 1)).long() - crop for v in u[:2])
    return Moves(down, right, (u[2] < 0.5) & flip, (2 * u[3] - 1) * rotation)


def move(images: torch.Tensor, moves: Moves) -> torch.Tensor:
    """Crop, flip and turn images as told; every pixel is that of the nearest place, or zero.

    The three are one look-up: for each pixel of the result, its place in the turned crop, in the flipped crop, in the
    crop and in the image. The turn is that of Pillow's ``Image.rotate``, which torchvision calls.

    Args:
        images: ``[batch, channels, h, w]``.
        moves: what to do with each.

    >>> image = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]])
    >>> move(image, Moves(torch.tensor([1]), torch.tensor([0]), torch.tensor([True]), torch.tensor([0.0])))
    tensor([[[[6, 5, 4],
              [0, 0, 0]]]])
    """
    batch, channels, height, width = images.shape
    # centres of pixels, relative to the centre of the image
    y = torch.arange(height, device=images.device)[:, None] + (1 - height) / 2
    x = torch.arange(width, device=images.device) + (1 - width) / 2
    theta = (moves.angle * (math.pi / 180)).view(-1, 1, 1)
    sin, cos = theta.sin(), theta.cos()
    # where each pixel of the turned crop comes from; y points down: [batch, h, w]
    column = (cos * x - sin * y + width / 2).floor().long()
    row = (sin * x + cos * y + height / 2).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column = torch.where(moves.flip.view(-1, 1, 1), width - 1 - column, column)
    row, column = row + moves.down.view(-1, 1, 1), column + moves.right.view(-1, 1, 1)
    inside &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row * width + column).masked_fill_(~inside, 0).view(batch, 1, -1)
    found = images.flatten(2).gather(2, source.expand(-1, channels, -1))
    return (found * inside.view(batch, 1, -1)).view_as(images)


def _uniform(positions: torch.Tensor, *, seed: int, epoch: int, draw: int) -> torch.Tensor:
    """Draw from [0, 1) by hashing (seed, epoch, draw, position): output number `position` of a splitmix64 stream.

    Source: Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014.
    """
    key = 0
    for part in (seed, epoch, draw):
        key = _mix(key + part + GOLDEN)
    # int64 wraps around as uint64 does; only shifts have to be told that there is no sign
    z = (positions.long() + 1) * _signed(GOLDEN) + _signed(key)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift(z, 31)
    return _shift(z, 40).float() * 2.0**-24


def _mix(z: int) -> int:
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    return z - 2**64 if z >= 2**63 else z


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
