"""Images as tensors in memory, with fixed held-out sets to score and to judge on, and the embedded digits.

torch is imported inside the functions: what is wrong with a size is said before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deadunits import Invalid

if TYPE_CHECKING:
    from torch import Tensor

DIGITS_TRAIN_SIZE = 1437  #: of the 1,797 digits; the rest are test images
_SPLIT_SEED = 2018  # the held-out sets are the same for every seed of every run


class Batch(NamedTuple):
    """Images and their labels."""

    x: Tensor  #: (N, C, H, W) float32
    y: Tensor  #: (N,) int64


@dataclass(frozen=True)
class Images:
    """A data set, standardised by the mean and deviation of its training images.

    `probe` and `other` are disjoint and held out of `train`; `train_probe` is a part of `train`.
    `test` judges final loss and accuracy only.
    """

    name: str
    train: Batch
    test: Batch
    probe: Batch
    other: Batch
    train_probe: Batch
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return tuple(self.train.x.shape[1:])


def from_bytes(
    name: str, train: Batch, test: Batch, classes: int, probe_size: int = 1000, largest: int = 255
) -> Images:
    """Images of whole-numbered pixels, split and standardised; the order of `train` decides the split.

    Args:
        train: images (N, C, H, W) uint8 and labels (N,) int64; `test` alike.
        probe_size: images in each of `probe`, `other` and `train_probe`.
        largest: the value of a white pixel.

    Raises:
        Invalid: a probe larger than the split, or images that are all of one value.
    """
    import torch

    (x, y), scale = train, largest
    check_probe_size(name, len(y), probe_size)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    probe, other, rest = order.split([probe_size, probe_size, len(y) - 2 * probe_size])
    # From the counts of the 256 values: exact, and without a copy of the images in double precision.
    counts, values = torch.bincount(x.flatten(), minlength=256), (torch.arange(256).float() / scale).double()
    mean = (counts * values).sum() / counts.sum()
    std = ((counts * (values - mean) ** 2).sum() / (counts.sum() - 1)).sqrt()
    if not std > 0:
        raise Invalid(f"every pixel of the training images of {name} has the same value")
    mean, std = mean.float(), std.float()

    def batch(x: Tensor, y: Tensor) -> Batch:
        return Batch(x.float().div_(scale).sub_(mean).div_(std), y)  # in place: the images may be large

    return Images(
        name=name,
        train=batch(x[rest], y[rest]),
        test=batch(*test),
        probe=batch(x[probe], y[probe]),
        other=batch(x[other], y[other]),
        train_probe=batch(x[rest[:probe_size]], y[rest[:probe_size]]),
        classes=classes,
    )


def check_probe_size(name: str, size: int, probe_size: int) -> None:
    """Raise `Invalid` if three sets of this size cannot be had from `size` training images."""
    if not 1 <= probe_size <= size // 3:
        fits = f"so 1 to {size // 3:,}" if size >= 3 else "so they are too few"
        raise Invalid(
            f"probe_size = {probe_size} does not fit {name}: its {size:,} training images "
            f"must give three sets of that size (probe, other, train_probe), {fits}"
        )


def digits(probe_size: int = 200) -> Images:
    """The 1,797 digits of scikit-learn, enlarged to MNIST's 28 x 28 so that the same network fits.

    They are the test part of UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998;
    CC BY 4.0), 8 x 8 pixels.

    Args:
        probe_size: images in each of `probe`, `other` and `train_probe`, 1 to 479.

    Raises:
        Invalid: another `probe_size`.
    """
    check_probe_size("digits", DIGITS_TRAIN_SIZE, probe_size)
    import numpy as np
    import torch

    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        x = torch.from_numpy(stored["images"]).unsqueeze(1)  # (N, 1, 8, 8), 0 to 16
        y = torch.from_numpy(stored["labels"]).long()
    x = x.repeat_interleave(3, 2).repeat_interleave(3, 3)  # (N, 1, 24, 24)
    x = torch.nn.functional.pad(x, (2, 2, 2, 2))  # (N, 1, 28, 28)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    train, test = order[:DIGITS_TRAIN_SIZE], order[DIGITS_TRAIN_SIZE:]
    return from_bytes("digits", Batch(x[train], y[train]), Batch(x[test], y[test]), 10, probe_size, 16)
