"""Data sets by name or from a folder of images: MNIST, CIFAR-10, and the digits that the library carries.

torch is imported inside the functions: what is wrong with a name, a size or a file is said in a
fraction of a second, before torch is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import socket
import threading
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


class _Official(NamedTuple):
    """A data set that torchvision downloads, checks and unpacks; places are below the root."""

    kind: str  # torchvision's class
    host: str  # that is asked for it first
    folder: str  # of the unpacked files
    files: tuple[str, ...]
    archive: str  # of each


def _idx(kind: str, host: str) -> _Official:
    """A data set in MNIST's format."""
    files = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = tuple(f"{name}-ubyte" for name in files)
    return _Official(kind, host, f"{kind}/raw", files, f"{kind}/raw/{{}}.gz")


_PARTS = ("batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_CIFAR = "cifar-10-batches-py", _PARTS, "cifar-10-python.tar.gz"
_OFFICIAL = {
    "mnist": _idx("MNIST", "ossci-datasets.s3.amazonaws.com:443"),
    "fashion-mnist": _idx("FashionMNIST", "fashion-mnist.s3-website.eu-central-1.amazonaws.com:80"),
    "cifar10": _Official("CIFAR10", "www.cs.toronto.edu:443", *_CIFAR),
}
_CIFAR_TREE = "cifar10"  # a folder of the same images, where the official files are not
# SHA-256 of CIFAR-10's pixels (uint8, height x width x RGB), the images sorted by class and name of the file.
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
    classes, title, place = 10, name, data_root(root)
    if is_path(name):
        train, test, classes = _folder(name, place, image_size)
    elif name == "cifar10":
        train, test = _cifar10(place)
        title = f"cifar10 ({_pixels(train, test)})"
        if pixels and pixels not in title:
            raise Invalid(
                f"the images in {place} are {title}, the run is on cifar10 ({pixels}). "
                "Name the folder of those with data_root or DEADUNITS_DATA"
            )
    else:
        splits = _official(name, place)  # (N, 28, 28) -> (N, 1, 28, 28)
        train, test = (Batch(split.data.unsqueeze(1), split.targets) for split in splits)
    return from_bytes(title, train, test, classes, probe_size)


def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `load` and `check` that a run's settings, or a chapter's parameters, give."""
    return {"name": settings["dataset"]} | {name: settings[name] for name in ("probe_size", "image_size")}


def data_root(root: str | os.PathLike = "") -> Path:
    """The folder of the data sets: the argument, else `$DEADUNITS_DATA`, else `~/.cache/deadunits`."""
    return Path(root or os.environ.get("DEADUNITS_DATA") or "~/.cache/deadunits").expanduser()


def check(name: str, root: str | os.PathLike = "", probe_size: int = 1000, image_size: int = 0) -> None:
    """Raise `Invalid` for what would make `load` fail, without loading anything.

    Of images not decoded yet the headers are read. Files that are broken are found by `load` only.
    """
    check_size(name, probe_size)
    place = data_root(root)
    if is_path(name):
        tree = _tree(name)
        if not _cache_file(tree, place, image_size).is_file():
            _shape(tree, image_size)
    elif image_size:
        raise Invalid(f"image_size = {image_size} is for a folder of images; for {name} it must be 0")
    elif name == "cifar10" and _is_tree(place):
        tree = _tree(str(place / _CIFAR_TREE))
        sizes = len(tree.classes), len(tree.train), len(tree.test)
        if sizes != (10, 50_000, 10_000):
            raise Invalid(
                f"{place / _CIFAR_TREE} is not CIFAR-10: classes, training and test images must be 10, "
                f"50,000 and 10,000, not {sizes}. Name a folder of your own by its path"
            )
    elif name in _OFFICIAL:
        _check_official(name, place)


def decodes(name: str, root: str | os.PathLike = "") -> bool:
    """Whether `load` decodes or unpacks files once, which no two processes should do at a time."""
    return is_path(name) or (name in _OFFICIAL and bool(_packed(name, data_root(root))))


def check_size(name: str, probe_size: int) -> None:
    """Raise `Invalid` for an unknown data set, or one too small for sets of this size."""
    check_probe_size(name, train_size(name), probe_size)


def train_size(name: str) -> int:
    """How many images one may train on or hold out; those of a folder are counted, not opened.

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


def _packed(name: str, root: Path) -> list[str]:
    """The files of an official data set that are not unpacked."""
    source = _OFFICIAL[name]
    return [file for file in source.files if not (root / source.folder / file).is_file()]


def _is_tree(root: Path) -> bool:
    """Whether CIFAR-10 is a folder of images there, and none of its own files is, packed or not."""
    source = _OFFICIAL["cifar10"]
    official = (root / source.folder).is_dir() or (root / source.archive).is_file()
    return not official and (root / _CIFAR_TREE).is_dir()


def _check_official(name: str, root: Path) -> None:
    source, packed = _OFFICIAL[name], _packed(name, root)
    missing = [file for file in packed if not (root / source.archive.format(file)).is_file()]
    if packed and not _writable(root):
        raise Invalid(
            f"no {source.kind} in {root / source.folder}, and {root} is not writable. "
            "Name a folder of your own with data_root or DEADUNITS_DATA"
        )
    if missing and not _reachable(source.host):
        archives = ", ".join(dict.fromkeys(source.archive.format(file) for file in missing))
        raise Invalid(
            f"no {source.kind} in {root / source.folder} and no network to fetch it. Put the official "
            f"{archives} in {root}, or name the folder that holds them with data_root or DEADUNITS_DATA; "
            "dataset = 'digits' needs no files"
        )


def _writable(folder: Path) -> bool:
    """Whether a file can be made under `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _reachable(host: str, seconds: float = 2.0) -> bool:
    """Whether a `host:port` answers; a thread, because a name server that hangs knows no timeout."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(host.rsplit(":", 1), timeout=seconds).close()
            answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)


def _official(name: str, root: Path) -> list[Any]:
    """Both splits through torchvision, which downloads, checks and unpacks what is not there yet."""
    from torchvision import datasets

    source = _OFFICIAL[name]
    try:
        return [getattr(datasets, source.kind)(root, train=train, download=True) for train in (True, False)]
    except Exception as error:  # wrong sums, files that cannot be fetched, cut off or no archives
        raise Invalid(
            f"broken or incomplete: {root / source.folder} or {source.archive.format('*')}. Delete them, or "
            f"put whole ones there ({type(error).__name__}: {error})"
        ) from error


def _cifar10(root: Path) -> tuple[Batch, Batch]:
    """The official batches, sorted by class and name of the file; or the folder of images."""
    import torch

    if _is_tree(root):
        train, test, _ = _folder(str(root / _CIFAR_TREE), root, 0)
        return train, test

    def read(split: Any) -> Batch:
        parts = split.train_list if split.train else split.test_list
        files = [Path(split.root, split.base_folder, part) for part, _ in parts]  # their sums are compared
        names = [pickle.loads(file.read_bytes(), encoding="latin1")["filenames"] for file in files]
        names = [name for part in names for name in part]
        order = sorted(range(len(names)), key=lambda i: (split.targets[i], names[i]))
        x = torch.from_numpy(split.data[order]).permute(0, 3, 1, 2).contiguous()  # -> (N, 3, 32, 32)
        return Batch(x, torch.tensor(split.targets)[order])

    train, test = map(read, _official("cifar10", root))
    return train, test


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
    splits = []
    for place in (os.path.join(folder, "train"), os.path.join(folder, "test")):
        if not os.path.isdir(place):
            raise Invalid(f"no folder {place}: a data set must have train/<class>/* and test/<class>/*")
        splits.append({entry.name: _images(entry.path) for entry in os.scandir(place) if entry.is_dir()})
    train, test = splits
    whole = {name for name in train if train[name] and test.get(name)}
    if not whole or (train.keys() | test.keys()) != whole:
        lacking = ", ".join(sorted((train.keys() | test.keys()) - whole)) or "there are no classes"
        raise Invalid(
            f"train/ and test/ of {folder} must have the same classes, folders with images "
            f"(*{', *'.join(_EXTENSIONS)}): {lacking}"
        )
    labelled = ([(file, i) for i, name in enumerate(sorted(whole)) for file in it[name]] for it in splits)
    return _Tree(sorted(whole), *labelled)


def _images(folder: str) -> list[str]:
    return [
        os.path.join(place, file)
        for place, _, files in sorted(os.walk(folder, followlinks=True))
        for file in sorted(files)
        if file.lower().endswith(_EXTENSIONS)
    ]


def _cache_file(tree: _Tree, root: Path, image_size: int) -> Path:
    """Where the decoded images are (to be): another name for every other state of the files."""
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

    return tqdm(files, doing, unit=" images", disable=None if len(files) > 500 else True)


def _shape(tree: _Tree, image_size: int) -> tuple[int, int, int]:
    """(channels, height, width) that the images get; from their headers, so that nothing is decoded in vain.

    Raises:
        Invalid: an image that cannot be read, images of different sizes with image_size = 0.
    """
    from PIL import Image

    modes, sizes = dict[str, str](), dict[tuple[int, int], str]()  # the first image of each
    for path, _ in _progress(tree.train + tree.test, "reading sizes"):
        try:
            with Image.open(path) as image:
                modes.setdefault(image.mode, path)
                sizes.setdefault(image.size, path)
        except Exception as error:  # Pillow's decoders raise nearly anything
            raise Invalid(f"cannot read the image {path}: {error}") from error
    if wide := modes.get("I", modes.get("F")):
        raise Invalid(f"{wide} has pixels of 32 bits, of no known range: save it with 8 or 16")
    if len(sizes) > 1 and not image_size:
        first, second, *_ = (f"{path} has {w} x {h} pixels" for (w, h), path in sizes.items())
        raise Invalid(f"images of different sizes: {first}, {second}. Give image_size, the side of all")
    grey = all(mode in ("1", "L", "LA", "La") or mode.startswith("I;16") for mode in modes)
    width, height = next(iter(sizes))
    return (1 if grey else 3, image_size or height, image_size or width)


def _folder(name: str, root: Path, image_size: int) -> tuple[Batch, Batch, int]:
    """Images (uint8), labels and the number of classes of a folder; from the cache, else decoded into it."""
    import torch

    tree = _tree(name)
    files, n = tree.train + tree.test, len(tree.train)
    cache, x = _cache_file(tree, root, image_size), torch.empty(0)
    if cache.is_file():
        with contextlib.suppress(Exception):  # a broken file makes torch raise nearly anything
            x = torch.load(cache, weights_only=True)
    if not isinstance(x, torch.Tensor) or (x.dtype, x.ndim, len(x)) != (torch.uint8, 4, len(files)):
        x = _decoded(files, _shape(tree, image_size), image_size)
        _save(x, cache)
    y = torch.tensor([label for _, label in files])
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

    draft = cache.with_name(f".{cache.stem}.{os.getpid()}")  # others may decode the same folder
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(x, draft)
        os.replace(draft, cache)
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError of a full disk
        warnings.warn(f"the decoded images are not kept: cannot write {cache} ({error})", stacklevel=4)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
