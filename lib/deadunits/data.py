"""Data sets as tensors in memory, with fixed sets of images to score and to judge on.

torch is imported inside the functions: what is wrong with a name, a size or a file is said in a
fraction of a second, before torch is loaded.
"""

from __future__ import annotations

import gzip
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deadunits import Invalid

if TYPE_CHECKING:
    from torch import Tensor

TRAIN_SIZES = {"digits": 1437, "mnist": 60_000}  # images one may train on or hold out, by data set

# The unpacked files of MNIST and their sizes in bytes.
_MNIST_FILES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
_MNIST_MIRROR = "ossci-datasets.s3.amazonaws.com"  # the first that torchvision asks
_SPLIT_SEED = 2018  # the held-out sets are the same for every seed of every run


class Batch(NamedTuple):
    """Images and their labels."""

    x: Tensor  # (N, C, H, W) float32
    y: Tensor  # (N,) int64


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


def load(name: str, root: str | os.PathLike = "", probe_size: int = 1000) -> Images:
    """Load a data set: `digits` (embedded in scikit-learn) or `mnist` (files, or a download).

    Args:
        root: the folder that holds (or is to hold) the files; empty: `data_root()`.
        probe_size: images in each of `probe`, `other` and `train_probe`.

    Raises:
        Invalid: an unknown name, a probe larger than the split, missing or broken files.
    """
    check(name, root, probe_size)
    import torch

    read = {"digits": _digits, "mnist": _mnist}[name]
    (x, y), test = read(data_root(root))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    probe, other, rest = order.split([probe_size, probe_size, len(y) - 2 * probe_size])
    mean, std = x.double().mean().float(), x.double().std().float()

    def batch(x: Tensor, y: Tensor) -> Batch:
        return Batch((x - mean) / std, y)

    return Images(
        name=name,
        train=batch(x[rest], y[rest]),
        test=batch(*test),
        probe=batch(x[probe], y[probe]),
        other=batch(x[other], y[other]),
        train_probe=batch(x[rest[:probe_size]], y[rest[:probe_size]]),
        classes=10,
    )


def data_root(root: str | os.PathLike = "") -> Path:
    """The folder of the data sets: the argument, else `$DEADUNITS_DATA`, else `~/.cache/deadunits`."""
    chosen = root or os.environ.get("DEADUNITS_DATA") or "~/.cache/deadunits"
    return Path(chosen).expanduser()


def check(name: str, root: str | os.PathLike = "", probe_size: int = 1000) -> None:
    """Raise `Invalid` for whatever would make `load` fail, without loading anything."""
    check_size(name, probe_size)
    if name == "mnist":
        _check_mnist(data_root(root))


def check_size(name: str, probe_size: int) -> None:
    """Raise `Invalid` for an unknown data set, or one too small for sets of this size."""
    if name not in TRAIN_SIZES:
        raise Invalid(f"unknown data set {name!r}; there are: {', '.join(TRAIN_SIZES)}")
    largest = TRAIN_SIZES[name] // 3
    if not 1 <= probe_size <= largest:
        raise Invalid(
            f"probe_size = {probe_size} does not fit {name}: its {TRAIN_SIZES[name]:,} training images "
            f"are to give three sets of that size (probe, other, train_probe), so 1 to {largest:,}"
        )


def _check_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    missing, packed = [], False
    for name, size in _MNIST_FILES.items():
        file, archive = raw / name, raw / f"{name}.gz"
        if file.is_file() and file.stat().st_size == size:
            continue
        packed = True
        if not archive.is_file():
            missing.append(archive.name)
        elif _unpacked_size(archive) != size:
            raise Invalid(f"broken archive {archive}: delete it, and it is downloaded again")
    if packed and not _writable(root):
        raise Invalid(
            f"MNIST cannot be unpacked: {root} is not writable. Name a folder of your own "
            "with data_root or DEADUNITS_DATA"
        )
    if missing and not _reachable(_MNIST_MIRROR):
        raise Invalid(
            f"no MNIST in {raw} ({', '.join(missing)} missing) and no network to fetch it. Put the "
            "four official .gz files there, or name the folder that holds MNIST/raw with data_root or "
            "DEADUNITS_DATA; dataset = 'digits' needs no files"
        )


def _unpacked_size(archive: Path) -> int:
    """Bytes in a gzip file, -1 if it is broken (gzip checks its own sum)."""
    try:
        with gzip.open(archive) as file:
            return sum(len(block) for block in iter(lambda: file.read(1 << 20), b""))
    except (OSError, EOFError):  # gzip.BadGzipFile is an OSError
        return -1
    except Exception:  # zlib.error has no common base with them
        return -1


def _writable(folder: Path) -> bool:
    """Whether a file can be made under `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _reachable(host: str, seconds: float = 2.0) -> bool:
    """Whether a host answers; a thread, because a name server that hangs knows no timeout."""
    answered = threading.Event()

    def ask() -> None:
        try:
            socket.create_connection((host, 443), timeout=seconds).close()
            answered.set()
        except OSError:
            pass

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)


def _digits(root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The 1,797 digits of scikit-learn, enlarged to MNIST's 28 x 28 so that the same network fits."""
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    x = x.repeat_interleave(3, 2).repeat_interleave(3, 3)  # (N, 1, 24, 24)
    x = torch.nn.functional.pad(x, (2, 2, 2, 2))  # (N, 1, 28, 28)
    y = torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    train, test = order[: TRAIN_SIZES["digits"]], order[TRAIN_SIZES["digits"] :]
    return (x[train], y[train]), (x[test], y[test])


def _mnist(root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """MNIST through torchvision, which downloads, checks and unpacks what is not there yet."""
    from torchvision.datasets import MNIST

    def read(train: bool) -> tuple[Tensor, Tensor]:
        split = MNIST(root, train=train, download=True)
        return split.data.unsqueeze(1).float() / 255, split.targets  # (N, 28, 28) -> (N, 1, 28, 28)

    return read(True), read(False)
