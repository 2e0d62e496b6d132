"""Data sets by name or from a folder of images: MNIST, CIFAR-10, and the digits that the library carries.

torch is imported inside the functions: what is wrong with a name, a size or a file is said in a
fraction of a second, before torch is loaded.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import socket
import threading
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deadunits import Invalid
from deadunits.data import DIGITS_TRAIN_SIZE, Batch, Images, check_probe_size, digits, from_bytes

if TYPE_CHECKING:
    from torch import Tensor

#: Images one may train on or hold out, by data set; `train_size` knows those of a folder as well.
TRAIN_SIZES = {"digits": DIGITS_TRAIN_SIZE, "mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000}

# The data sets in MNIST's format: torchvision's class, and the first host that it asks.
_MNISTS = {
    "mnist": ("MNIST", "ossci-datasets.s3.amazonaws.com:443"),
    "fashion-mnist": ("FashionMNIST", "fashion-mnist.s3-website.eu-central-1.amazonaws.com:80"),
}
# Their unpacked files and their sizes in bytes.
_MNIST_FILES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
# CIFAR-10: the folder of the official batches, a tree of the same images, and the host torchvision asks.
_CIFAR_BATCHES, _CIFAR_TREE = "cifar-10-batches-py", "cifar10"
_CIFAR_ARCHIVE = "cifar-10-python.tar.gz"  # of the batches
_CIFAR_HOST = "www.cs.toronto.edu:443"
# SHA-256 of its pixels (uint8, height x width x RGB), the images sorted by class and name of the file.
_CIFAR_PIXELS = {
    "train": "61bea91e73ac2b02dfb856e685981dce64abe13d4e780aa98a1ac1e7c056d03b",
    "test": "52a9dc125982c0440d5eed87474b2f521e96c45a98df08e4329aa42c692b9d9d",
}
# The endings that torchvision's ImageFolder reads; typed, because torchvision would bring torch.
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def load(
    name: str, root: str | os.PathLike = "", probe_size: int = 1000, image_size: int = 0, pixels: str = ""
) -> Images:
    """Load a data set by its name, or from a folder of images.

    `digits` come with the library; `mnist` and `fashion-mnist` are files, or a
    download. `cifar10` are the official batches or, where those are not, a folder `cifar10` as below; where
    neither is, the batches are downloaded. Both give the images by class and name of the file, in one order.
    Re-coded images are not the same, so the pixels are compared with the official ones, and the result's
    `name` says which they are: `cifar10 (official)` or `cifar10 (folder)`. A name with a path separator, or
    that starts with `.` or `~`, is the path of a folder with
    `train/<class>/*` and `test/<class>/*`, as torchvision's ImageFolder reads it: grey if every image is,
    else RGB. Its images are decoded once, and kept under `root` in `decoded/` until a file of the folder
    changes.

    Args:
        root: the folder of the files, or for a download of them; empty: `data_root()`.
        probe_size: images in each of `probe`, `other` and `train_probe`.
        image_size: for a folder of images, the side in pixels: the shorter side is resized to it, and the
            centre cut out. 0: the images are of one size already.
        pixels: which CIFAR-10 it must be: "official", or another ("folder"); empty: either.

    Raises:
        Invalid: an unknown name, a probe larger than the split, missing or broken files, images of
            different sizes, the other CIFAR-10.
    """
    if is_path(name):
        check_size(name, probe_size)  # what else `check` looks at, `_folder` does where it has to decode
    else:
        check(name, root, probe_size, image_size)
    if name == "digits":
        return digits(probe_size)
    classes, title = 10, name
    if is_path(name):
        train, test, classes = _folder(name, data_root(root), image_size)
    elif name == "cifar10":
        train, test = _cifar10(data_root(root))
        title = f"cifar10 ({_pixels(train, test)})"
        if pixels and pixels not in title:
            raise Invalid(
                f"the images in {data_root(root)} are {title}, the run is on cifar10 ({pixels}). "
                "Name the folder of those with data_root or DEADUNITS_DATA"
            )
    else:
        train, test = _mnist(name, data_root(root))
    return from_bytes(title, train, test, classes, probe_size)


def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `load` and `check` that a run's settings, or a chapter's parameters, give."""
    return {"name": settings["dataset"]} | {name: settings[name] for name in ("probe_size", "image_size")}


def data_root(root: str | os.PathLike = "") -> Path:
    """The folder of the data sets: the argument, else `$DEADUNITS_DATA`, else `~/.cache/deadunits`."""
    chosen = root or os.environ.get("DEADUNITS_DATA") or "~/.cache/deadunits"
    return Path(chosen).expanduser()


def check(name: str, root: str | os.PathLike = "", probe_size: int = 1000, image_size: int = 0) -> None:
    """Raise `Invalid` for whatever would make `load` fail, without loading anything.

    Of images not decoded yet the headers are read: one that breaks off later is found by `load` only.
    """
    check_size(name, probe_size)
    if is_path(name):
        tree = _tree(name)
        if not _cache_file(tree, data_root(root), image_size).is_file():
            _shape(tree, image_size)
    elif image_size:
        raise Invalid(f"image_size = {image_size} is for a folder of images; for {name} it must be 0")
    elif name in _MNISTS:
        _check_mnist(name, data_root(root))
    elif name == "cifar10":
        _check_cifar10(data_root(root))


def decodes(name: str, root: str | os.PathLike = "") -> bool:
    """Whether the images are files that `load` decodes once, which no two processes should do at a time."""
    return is_path(name) or (name == "cifar10" and not (data_root(root) / _CIFAR_BATCHES).is_dir())


def _official(root: Path) -> bool:
    """Whether CIFAR-10's own files are there, packed or not."""
    return (root / _CIFAR_BATCHES).is_dir() or (root / _CIFAR_ARCHIVE).is_file()


def check_size(name: str, probe_size: int) -> None:
    """Raise `Invalid` for an unknown data set, or one too small for sets of this size."""
    check_probe_size(name, train_size(name), probe_size)


def train_size(name: str, root: str | os.PathLike = "") -> int:
    """How many images one may train on or hold out; those of a folder are counted, not opened.

    Args:
        root: as for `load`; no size depends on it.

    Raises:
        Invalid: an unknown name, or a folder that is not as `load` wants it.
    """
    if is_path(name):
        return len(_tree(name).train)
    if name not in TRAIN_SIZES:
        known = ", ".join(TRAIN_SIZES)
        raise Invalid(
            f"unknown data set {name!r}; there are: {known}, or the path of a folder with train/ and test/"
        )
    return TRAIN_SIZES[name]


def _check_mnist(name: str, root: Path) -> None:
    kind, host = _MNISTS[name]
    raw = root / kind / "raw"
    missing, packed = [], False
    for part, size in _MNIST_FILES.items():
        file, archive = raw / part, raw / f"{part}.gz"
        if file.is_file() and file.stat().st_size == size:
            continue
        packed = True
        if not archive.is_file():
            missing.append(archive.name)
        elif _unpacked_size(archive) != size:
            raise Invalid(f"broken archive {archive}: delete it, and it is downloaded again")
    if packed and not _writable(root):
        raise Invalid(
            f"{kind} cannot be unpacked: {root} is not writable. Name a folder of your own "
            "with data_root or DEADUNITS_DATA"
        )
    if missing and not _reachable(host):
        raise Invalid(
            f"no {kind} in {raw} ({', '.join(missing)} missing) and no network to fetch it. Put the "
            f"four official .gz files there, or name the folder that holds {kind}/raw with data_root or "
            "DEADUNITS_DATA; dataset = 'digits' needs no files"
        )


def _check_cifar10(root: Path) -> None:
    tree, batches, archive = root / _CIFAR_TREE, root / _CIFAR_BATCHES, root / _CIFAR_ARCHIVE
    if batches.is_dir():
        return  # torchvision checks their sums
    if archive.is_file():
        if not _writable(root):
            raise Invalid(
                f"{archive} cannot be unpacked: {root} is not writable. Name a folder of your own with "
                "data_root or DEADUNITS_DATA"
            )
    elif tree.is_dir():
        found = _tree(str(tree))
        sizes = len(found.classes), len(found.train), len(found.test)
        if sizes != (10, 50_000, 10_000):
            raise Invalid(
                f"{tree} is not CIFAR-10: {sizes[0]} classes, {sizes[1]:,} and {sizes[2]:,} images where "
                "there must be 10, 50,000 and 10,000. As a folder of your own, name it by its path: "
                f"{str(tree)!r}"
            )
    elif not _writable(root):
        raise Invalid(
            f"no CIFAR-10 in {root}, which is not writable: name a folder of your own with data_root"
        )
    elif not _reachable(_CIFAR_HOST):
        raise Invalid(
            f"no CIFAR-10 in {root} and no network to fetch it. Put the official {archive.name} or "
            f"{_CIFAR_BATCHES}/ there, or the same images as {_CIFAR_TREE}/{{train,test}}/<class>/*, or name "
            "the folder that holds them with data_root or DEADUNITS_DATA; dataset = 'digits' needs no files"
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
    """Whether a `host:port` answers; a thread, because a name server that hangs knows no timeout."""
    answered = threading.Event()

    def ask() -> None:
        try:
            socket.create_connection(host.rsplit(":", 1), timeout=seconds).close()
            answered.set()
        except OSError:
            pass

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)


def _mnist(name: str, root: Path) -> tuple[Batch, Batch]:
    """A data set through torchvision, which downloads, checks and unpacks what is not there yet."""
    from torchvision import datasets

    def read(train: bool) -> Batch:
        split = getattr(datasets, _MNISTS[name][0])(root, train=train, download=True)
        return Batch(split.data.unsqueeze(1), split.targets)  # (N, 28, 28) -> (N, 1, 28, 28)

    return read(True), read(False)


def _cifar10(root: Path) -> tuple[Batch, Batch]:
    """The official batches through torchvision, sorted by class and name of the file; or the tree."""
    import torch
    from torchvision import datasets

    if not _official(root) and (root / _CIFAR_TREE).is_dir():
        train, test, _ = _folder(str(root / _CIFAR_TREE), root, 0)
        return train, test

    def read(train: bool) -> Batch:
        try:
            split = datasets.CIFAR10(root, train=train, download=True)
            parts = [
                Path(split.root, split.base_folder, name)
                for name, _ in (split.train_list if train else split.test_list)
            ]
            names = [  # torchvision has compared the sums of these files with the official ones just now
                name
                for part in parts
                for name in pickle.loads(part.read_bytes(), encoding="latin1")["filenames"]
            ]
        except (RuntimeError, OSError) as error:  # a wrong sum, or files missing that cannot be fetched
            raise Invalid(
                f"broken or incomplete: {root / _CIFAR_BATCHES} or {_CIFAR_ARCHIVE} beside it. Delete them, "
                f"or put whole ones there ({error})"
            ) from error
        order = sorted(range(len(names)), key=lambda i: (split.targets[i], names[i]))
        x = torch.from_numpy(split.data[order]).permute(0, 3, 1, 2).contiguous()  # -> (N, 3, 32, 32)
        return Batch(x, torch.tensor(split.targets)[order])

    return read(True), read(False)


def _pixels(train: Batch, test: Batch) -> str:
    """Which CIFAR-10 these images are: "official", or from a "folder" of others."""
    sums = {
        name: hashlib.sha256(split.x.permute(0, 2, 3, 1).contiguous().numpy()).hexdigest()
        for name, split in {"train": train, "test": test}.items()
    }
    return "official" if sums == _CIFAR_PIXELS else "folder"


class _Tree(NamedTuple):
    """The files of a folder of images, (path, label) each, in ImageFolder's order."""

    classes: list[str]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]


def is_path(name: str) -> bool:
    """Whether the name of a data set is the path of a folder of images, there or not."""
    return os.sep in name or (os.altsep or os.sep) in name or name.startswith((".", "~"))


def pixels(name: str, image_size: int) -> int:
    """How many numbers the images of a folder are, in three colours; with 0, all are as large as the first.

    Raises:
        Invalid: no such folder, or the first image cannot be read.
    """
    tree = _tree(name)
    _, height, width = _shape(tree._replace(train=tree.train[:1], test=[]), image_size)
    return 3 * height * width * len(tree.train + tree.test)


def state(name: str) -> str:
    """A hash of the names, sizes and times of a folder's images; "": no folder, or none that can be read."""
    with contextlib.suppress(Invalid):
        return _state(_tree(name)) if is_path(name) else ""
    return ""


def _tree(name: str) -> _Tree:
    """List a folder of images without opening any; `Invalid` if it is not one, or an incomplete one."""
    folder = os.path.abspath(os.path.expanduser(name))
    splits = {split: os.path.join(folder, split) for split in ("train", "test")}
    for needed in (folder, *splits.values()):
        if not os.path.isdir(needed):
            raise Invalid(f"no folder {needed}: a data set must have train/<class>/* and test/<class>/*")
    try:
        found = {split: _images_by_class(place) for split, place in splits.items()}
    except OSError as error:
        raise Invalid(f"cannot read {error.filename}: {error.strerror}") from error
    for split, place in splits.items():
        if not found[split]:
            raise Invalid(f"no classes in {place}: each must be a folder of images there")
    for one, two in (("train", "test"), ("test", "train")):
        if alone := found[one].keys() - found[two]:
            raise Invalid(f"classes of {splits[one]} that {two}/ does not have: {', '.join(sorted(alone))}")
    for split, place in splits.items():
        if empty := [name for name, files in found[split].items() if not files]:
            endings = ", ".join(_EXTENSIONS)
            raise Invalid(f"no images (*{endings}) in {place} for: {', '.join(sorted(empty))}")
    classes = sorted(found["train"])
    train, test = (
        [(file, label) for label, name in enumerate(classes) for file in found[split][name]]
        for split in splits
    )
    return _Tree(classes, train, test)


def _images_by_class(folder: str) -> dict[str, list[str]]:
    def fail(error: OSError) -> None:  # os.walk would pass over what it cannot read
        raise error

    return {
        entry.name: [
            os.path.join(place, file)
            for place, _, files in sorted(os.walk(entry.path, onerror=fail, followlinks=True))
            for file in sorted(files)
            if file.lower().endswith(_EXTENSIONS)
        ]
        for entry in os.scandir(folder)
        if entry.is_dir()
    }


def _cache_file(tree: _Tree, root: Path, image_size: int) -> Path:
    """Where the decoded images are (to be): another name for every other state of the files."""
    if image_size < 0:
        raise Invalid(f"image_size = {image_size} must be a side in pixels, or 0: as the images are")
    return root / "decoded" / f"{_state(tree, image_size)[:32]}.pt"


def _state(tree: _Tree, image_size: int = 0) -> str:
    state = hashlib.sha256(repr(image_size).encode())
    for path, _ in tree.train + tree.test:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise Invalid(f"cannot read {path}: {error.strerror}") from error
        state.update(repr((path, stat.st_size, stat.st_mtime_ns)).encode())
    return state.hexdigest()


def _progress(files: list, doing: str) -> Iterable:
    from tqdm import tqdm

    off = None if len(files) > 500 else True  # None: where stderr is no terminal
    return tqdm(files, doing, unit=" images", disable=off)


def _shape(tree: _Tree, image_size: int) -> tuple[int, int, int]:
    """(channels, height, width) that the images get; from their headers, so that nothing is decoded in vain.

    Raises:
        Invalid: an image that cannot be read, images of different sizes with image_size = 0.
    """
    from PIL import Image

    grey, first, size = True, "", None
    for path, _ in _progress(tree.train + tree.test, "reading sizes"):
        try:
            with Image.open(path) as image:
                mode, (width, height) = image.mode, image.size
        except Exception as error:  # Pillow's decoders raise nearly anything
            raise Invalid(f"cannot read the image {path}: {error}") from error
        if mode in ("I", "F"):
            raise Invalid(f"{path} has pixels of 32 bits, of no known range: save it with 8 or 16")
        grey = grey and (mode in ("1", "L", "LA", "La") or mode.startswith("I;16"))
        first, size = first or path, size or (width, height)
        if not image_size and size != (width, height):
            raise Invalid(
                f"images of different sizes: {first} has {size[0]} x {size[1]} pixels, {path} has "
                f"{width} x {height}. Give image_size, the side that all are to have"
            )
    return (1 if grey else 3, image_size or size[1], image_size or size[0])


def _folder(name: str, root: Path, image_size: int) -> tuple[Batch, Batch, int]:
    """Images (uint8), labels and the number of classes of a folder; from the cache, else decoded into it."""
    import torch

    tree = _tree(name)
    files = tree.train + tree.test
    cache = _cache_file(tree, root, image_size)
    x = None
    if cache.is_file():
        with contextlib.suppress(Exception):  # a broken file makes torch raise nearly anything
            kept = torch.load(cache, weights_only=True)
            x = kept if (kept.dtype, kept.ndim, len(kept)) == (torch.uint8, 4, len(files)) else None
    if x is None:
        x = _decoded(files, _shape(tree, image_size), image_size)
        _save(x, cache)
    y, n = torch.tensor([label for _, label in files]), len(tree.train)
    return Batch(x[:n], y[:n]), Batch(x[n:], y[n:]), len(tree.classes)


def _decoded(files: list[tuple[str, int]], shape: tuple[int, int, int], image_size: int) -> Tensor:
    """Images as (N, C, H, W) uint8; `Invalid` names one that cannot be read."""
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.transforms import functional

    x = torch.empty((len(files), *shape), dtype=torch.uint8)
    for row, (path, _) in enumerate(_progress(files, "decoding")):
        try:
            with Image.open(path) as image:
                if image.mode.startswith("I;16"):  # Pillow's own conversion depends on its version
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                image = image.convert("L" if shape[0] == 1 else "RGB")
            if image_size:
                image = functional.center_crop(functional.resize(image, image_size), image_size)
            x[row] = functional.pil_to_tensor(image)
        except Exception as error:
            raise Invalid(f"cannot read the image {path}: {error}") from error
    return x


def _save(x: Tensor, cache: Path) -> None:
    """Write the decoded images as a whole or not at all; a warning if that cannot be."""
    import torch

    written = cache.with_name(f"{cache.stem}.{uuid.uuid4().hex}.tmp")  # others may decode the same folder
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(x, written)
        os.replace(written, cache)
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError of a full disk
        warnings.warn(f"the decoded images are not kept: cannot write {cache} ({error})", stacklevel=4)
    finally:
        with contextlib.suppress(OSError):
            written.unlink()
