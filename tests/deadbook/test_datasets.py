from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deadbook import datasets
from deadunits import Invalid, data


def test_digits_have_mnists_shape_and_are_standardised():
    images = datasets.load("digits", probe_size=200)
    assert images.shape == (1, 28, 28)
    assert len(images.train.y) == 1437 - 400
    assert len(images.test.y) == 360
    every = torch.cat([images.train.x, images.probe.x, images.other.x])
    assert every.mean().item() == pytest.approx(0, abs=1e-5)
    assert every.std().item() == pytest.approx(1, abs=1e-3)
    assert images.train.x.dtype == torch.float32
    assert images.train.y.dtype == torch.int64
    assert set(images.test.y.tolist()) == set(range(10))


def test_the_sets_are_disjoint_and_fixed():
    images, again = (datasets.load("digits", probe_size=100) for _ in range(2))
    rows = {
        name: {image.numpy().tobytes() for image in getattr(images, name).x}
        for name in ("train", "probe", "other", "train_probe", "test")
    }
    assert all(len(rows[name]) == 100 for name in ("probe", "other", "train_probe"))
    assert not rows["probe"] & (rows["other"] | rows["train"] | rows["test"])
    assert not rows["other"] & (rows["train"] | rows["test"])
    assert rows["train_probe"] <= rows["train"]
    assert torch.equal(images.probe.x, again.probe.x)


def test_unknown_set_and_too_large_a_probe():
    known = "digits, mnist, fashion-mnist, cifar10, or the path of a folder with train/ and test/"
    with pytest.raises(Invalid, match=f"unknown data set 'svhn'; there are: {known}"):
        datasets.load("svhn")
    for size in (0, 480):
        with pytest.raises(Invalid, match=f"probe_size = {size} does not fit digits.* 1 to 479"):
            datasets.load("digits", probe_size=size)


def test_root_by_argument_or_variable(monkeypatch):
    monkeypatch.setenv("DEADUNITS_DATA", "/somewhere")
    assert datasets.data_root() == Path("/somewhere")
    assert datasets.data_root("~/x") == Path.home() / "x"
    monkeypatch.delenv("DEADUNITS_DATA")
    assert datasets.data_root() == Path.home() / ".cache/deadunits"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("cifar10", "cifar-10-")],
)
def test_no_files_and_no_network(tmp_path, monkeypatch, name, folder):
    asked = []
    monkeypatch.setattr(datasets, "_reachable", asked.append)
    source = datasets._OFFICIAL[name]
    for work in (datasets.check, datasets.load):
        with pytest.raises(
            Invalid, match=rf"no {source.kind} in {tmp_path}/{folder}.* no network to fetch it"
        ):
            work(name, tmp_path, probe_size=3)
    assert asked == [source.host] * 2
    assert datasets.decodes(name, tmp_path)  # a download is for one process alone
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_writable", lambda folder: False)
        with pytest.raises(Invalid, match=r"is not writable\. Name a folder"):
            datasets.check(name, tmp_path, probe_size=3)
    for file in source.files:
        (tmp_path / source.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source.folder / file).touch()
    datasets.check(name, tmp_path, probe_size=3)
    assert len(asked) == 2
    assert not datasets.decodes(name, tmp_path)


def test_hosts_files_and_endings_are_torchvisions():
    from torchvision import datasets as official
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for source in datasets._OFFICIAL.values():
        kind = getattr(official, source.kind)
        url = kind.url if source.kind == "CIFAR10" else kind.mirrors[0]
        scheme, _, host, *_ = url.split("/")
        assert source.host == f"{host}:{ {'https:': 443, 'http:': 80}[scheme] }"
    cifar = official.CIFAR10
    source = datasets._OFFICIAL["cifar10"]
    assert (cifar.base_folder, cifar.filename) == (source.folder, source.archive)
    assert sorted(source.files) == sorted(
        ["batches.meta", *(name for name, _ in cifar.train_list + cifar.test_list)]
    )
    assert {f"{name}.gz" for name in datasets._OFFICIAL["mnist"].files} == {
        name for name, _ in official.MNIST.resources
    }
    assert datasets._EXTENSIONS == IMG_EXTENSIONS


@pytest.mark.parametrize(
    "name", ["MNIST/raw/train-labels-idx1-ubyte", "MNIST/raw/train-labels-idx1-ubyte.gz"]
)
def test_broken_files_of_mnist_are_named(tmp_path, monkeypatch, name):
    from torchvision import datasets as official

    monkeypatch.setattr(official.MNIST, "mirrors", ["file:///nowhere/"])
    for file in datasets._OFFICIAL["mnist"].files:
        (tmp_path / "MNIST/raw" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "MNIST/raw" / file).write_bytes(b"short")
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(b"short")
    with pytest.raises(Invalid, match=r"broken or incomplete: .*MNIST/raw or MNIST/raw/\*\.gz. Delete them"):
        datasets.load("mnist", tmp_path)


def test_a_host_that_does_not_answer():
    assert not datasets._reachable("nowhere.invalid:443", seconds=1)


def test_mnist_from_its_archives(mnist_root):
    images = datasets.load("mnist", mnist_root)
    assert images.shape == (1, 28, 28)
    assert (len(images.train.y), len(images.test.y)) == (58_000, 10_000)
    assert images.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert len(images.probe.y) == len(images.other.y) == len(images.train_probe.y) == 1000


def draw(path: Path, mode: str = "L", size: tuple[int, int] = (6, 5), seed: int = 0) -> np.ndarray:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "I;16": ()}[mode]
    depth = np.uint16 if mode == "I;16" else np.uint8
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, np.iinfo(depth).max, (size[1], size[0], *channels), depth)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def tree(tmp_path) -> Path:
    """12 training and 4 test images of two classes; 6 x 5 grey pixels, all different."""
    for number in range(16):
        split, name = "train" if number < 12 else "test", "ab"[number % 2]
        draw(tmp_path / "tree" / split / name / f"{number:02}.png", seed=number)
    (tmp_path / "tree/train/a/notes.txt").write_text("no image")
    return tmp_path / "tree"


def load(tree: Path, **settings) -> data.Images:
    return datasets.load(str(tree), tree.parent / "root", probe_size=3, **settings)


def kept(tree: Path) -> list[Path]:
    return list((tree.parent / "root" / "decoded").glob("*"))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files that Pillow opens."""
    names, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, *_: names.append(Path(path).name) or original(path))
    return names


def test_a_grey_tree_is_its_pixels_standardised(tree):
    from torchvision.datasets import ImageFolder

    images = load(tree)
    assert (images.shape, images.classes, images.name) == ((1, 5, 6), 2, str(tree))
    assert datasets.train_size(str(tree)) == 12
    splits = {}
    for split in ("train", "test"):
        folder = ImageFolder(tree / split)
        pixels = [np.asarray(image.convert("L"), np.float32) / 255 for image, _ in folder]
        splits[split] = torch.tensor(np.array(pixels)).unsqueeze(1), torch.tensor(folder.targets)
    mean, std = splits["train"][0].mean(), splits["train"][0].std()
    torch.testing.assert_close(images.test.x, (splits["test"][0] - mean) / std)
    assert torch.equal(images.test.y, splits["test"][1])

    def rows(x, y):  # the pixels as they were, 0 to 255, and the label
        return {
            (*pixels, label) for pixels, label in zip(x.flatten(1).int().tolist(), y.tolist(), strict=True)
        }

    names = ("train", "probe", "other", "train_probe")
    sets = {name: getattr(images, name) for name in names}
    sets = {name: rows(((x * std + mean) * 255).round(), y) for name, (x, y) in sets.items()}
    assert [len(sets[name]) for name in names] == [6, 3, 3, 3]
    assert sets["train_probe"] < sets["train"]
    x, y = splits["train"]
    assert sets["train"] | sets["probe"] | sets["other"] == rows(
        (x * 255).round(), y
    )  # 12: they are disjoint
    assert torch.equal(images.probe.x, load(tree).probe.x)


def test_one_image_in_colour_makes_the_tree_rgb(tree):
    pixels = draw(tree / "test/a/00.png", "RGBA")[..., :3]
    images = load(tree)
    assert images.shape == (3, 5, 6)
    colour, grey = images.test.x[0], images.test.x[1]
    assert torch.equal(grey[0], grey[2])
    assert np.corrcoef(colour.permute(1, 2, 0).flatten(), pixels.flatten())[0, 1] > 0.999


def test_16_bits_are_grey_and_their_upper_byte(tree):
    wide = draw(tree / "test/a/00.png", "I;16")
    Image.fromarray((wide >> 8).astype(np.uint8)).save(tree / "test/a/01.png")
    images = load(tree)
    assert images.shape == (1, 5, 6)
    assert torch.equal(images.test.x[0], images.test.x[1])


def test_images_are_decoded_once_and_anew_when_a_file_changes(tree, opened):
    datasets.check(str(tree), tree.parent / "root", 3)
    assert len(opened) == 16  # the headers
    first = load(tree)
    assert len(opened) == 16 * 3
    assert len(kept(tree)) == 1
    opened.clear()
    datasets.check(str(tree), tree.parent / "root", 3)
    assert torch.equal(load(tree).train.x, first.train.x)
    assert not opened

    draw(tree / "test/a/12.png", seed=99)
    os.utime(tree / "test/a/12.png", ns=(1, 1))  # however coarse the clock
    assert not torch.equal(load(tree).test.x, first.test.x)
    assert len(opened) == 16 * 2
    load(tree, image_size=4)
    assert len(kept(tree)) == 3


@pytest.mark.parametrize("broken", [b"no such thing", "cut off", torch.zeros(3, dtype=torch.uint8), {}])
def test_a_broken_cache_is_decoded_again(tree, opened, broken):
    first = load(tree)
    (file,) = kept(tree)
    if isinstance(broken, (bytes, str)):
        file.write_bytes(file.read_bytes()[:-300] if broken == "cut off" else broken)
    else:
        torch.save(broken, file)
    opened.clear()
    assert torch.equal(load(tree).train.x, first.train.x)
    assert len(opened) == 32
    load(tree)
    assert len(opened) == 32
    assert kept(tree) == [file]


def test_without_room_for_the_cache_it_goes_on_with_a_warning(tree, monkeypatch):
    def full(x, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.warns(UserWarning, match="are not kept: cannot write .*no space left"):
            images = load(tree)
    assert kept(tree) == []
    (tree.parent / "root" / "decoded").rmdir()
    (tree.parent / "root" / "decoded").write_text("a file in its place")
    with pytest.warns(UserWarning, match="are not kept: cannot write"):
        assert torch.equal(load(tree).train.x, images.train.x)


def test_image_size(tree):
    wide = draw(tree / "test/a/00.png", size=(12, 5))
    sizes = r"train/a/00.png has 6 x 5 pixels, .*test/a/00.png has 12 x 5 pixels. Give image_size"
    with pytest.raises(Invalid, match=sizes):
        datasets.check(str(tree), tree.parent / "root", 3)
    assert not kept(tree)
    images = load(tree, image_size=5)
    assert images.shape == (1, 5, 5)
    assert np.corrcoef(images.test.x[0].flatten(), wide[:, 4:9].flatten())[0, 1] > 0.999  # the centre
    assert load(tree, image_size=3).shape == (1, 3, 3)
    for work in (datasets.check, datasets.load):
        with pytest.raises(
            Invalid, match="image_size = 28 is for a folder of images; for digits it must be 0"
        ):
            work("digits", probe_size=3, image_size=28)


def remove(folder: Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda tree: remove(tree), "no folder .*/tree/train: a data set must have train/"),
        (lambda tree: remove(tree / "test"), "no folder .*/tree/test: "),
        (lambda tree: [remove(tree / place) for place in ("test/a", "test/b")], "the same classes.*: a, b"),
        (lambda tree: [path.unlink() for path in tree.glob("train/b/*")], "the same classes.*: b"),
        (lambda tree: remove(tree / "test/b"), "the same classes.*: b"),
        (lambda tree: remove(tree / "train/a"), "the same classes.*: a"),
        (lambda tree: (tree / "train/a/x.JPG").write_text("?"), "cannot read the image .*/train/a/x.JPG: "),
        (lambda tree: (tree / "test/a/x.png").symlink_to("nowhere"), "cannot read .*/test/a/x.png: No such"),
        (lambda tree: [path.unlink() for path in tree.glob("train/*/0[0-5]*")], "fit .*its 6 tr.*so 1 to 2"),
        (
            lambda tree: [path.unlink() for path in tree.glob("train/*/*[1-9]*")],
            "its 2 .*they are too few",
        ),
        (
            lambda tree: Image.fromarray(np.zeros((5, 6), np.float32)).save(tree / "test/a/x.tif"),
            "x.tif has pixels of 32 bits",
        ),
    ],
)
def test_what_is_wrong_with_a_tree_is_named(tree, harm, message):
    if "too few" in message:
        draw(tree / "train/b/00.png")
    harm(tree)
    for work in (datasets.check, datasets.load):
        with pytest.raises(Invalid, match=message):
            work(str(tree), tree.parent / "root", probe_size=3)
    assert not kept(tree)


def test_an_image_that_breaks_off_is_named_and_nothing_is_kept(tree):
    draw(tree / "train/b/broken.png", size=(6, 5))
    whole = (tree / "train/b/broken.png").read_bytes()
    (tree / "train/b/broken.png").write_bytes(whole[: len(whole) // 2 + 8])
    with pytest.raises(Invalid, match=r"cannot read the image .*/train/b/broken.png: "):
        load(tree)
    assert not kept(tree)


def test_a_tree_of_one_value_has_no_deviation(tree):
    for file in tree.rglob("*.png"):
        Image.new("L", (6, 5), 7).save(file)
    with pytest.raises(Invalid, match=r"every pixel of the training images of .* has the same value"):
        load(tree)


def cifar_tree(root: Path, train: int, test: int) -> Path:
    """Ten classes of 4 x 4 pixels in colour, all different."""
    for number in range(train + test):
        split = "train" if number < train else "test"
        file = root / "cifar10" / split / f"class{number % 10}" / f"{number:03}.png"
        draw(file, "RGB", (4, 4), seed=number)
    return root / "cifar10"


def cifar_batches(root: Path, monkeypatch, train: int = 20, test: int = 10) -> dict[str, list[np.ndarray]]:
    """Batches in the official format with a few images; torchvision is told their sums."""
    from torchvision import datasets as official

    folder, generator, pixels = root / "cifar-10-batches-py", np.random.default_rng(0), {}
    folder.mkdir(parents=True)

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(split: str, name: str, count: int) -> list[str]:
        x = generator.integers(0, 256, (count, 3 * 32 * 32), np.uint8)
        pixels.setdefault(split, []).append(x)
        files = [f"{count - number:03}.png" for number in range(count)]  # another order than theirs
        return write(
            name, {"data": x, "labels": [number % 10 for number in range(count)], "filenames": files}
        )

    kind = official.CIFAR10
    names = [f"data_batch_{number}" for number in range(1, 6)]
    monkeypatch.setattr(kind, "train_list", [batch("train", name, train // 5) for name in names])
    monkeypatch.setattr(kind, "test_list", [batch("test", "test_batch", test)])
    name, md5 = write("batches.meta", {"label_names": [f"class{number}" for number in range(10)]})
    monkeypatch.setattr(kind, "meta", {"filename": name, "key": "label_names", "md5": md5})
    monkeypatch.setitem(datasets.TRAIN_SIZES, "cifar10", train)
    return pixels


def made_official(monkeypatch, root: Path) -> None:
    """Takes the images there for the official ones."""
    train, test = datasets._cifar10(root)
    sums = {
        name: hashlib.sha256(split.x.permute(0, 2, 3, 1).contiguous().numpy()).hexdigest()
        for name, split in {"train": train, "test": test}.items()
    }
    monkeypatch.setattr(datasets, "_CIFAR_PIXELS", sums)


def test_cifar10_from_the_official_batches_and_as_a_tree_of_the_same_files(tmp_path, monkeypatch):
    """By class and name of the file; told by their pixels, as official ones or others."""
    monkeypatch.setattr(datasets, "_reachable", lambda host: pytest.fail("asked the network"))
    pixels = cifar_batches(tmp_path, monkeypatch, train=50)
    assert not datasets.decodes("cifar10", tmp_path)
    images = datasets.load("cifar10", tmp_path, probe_size=3)
    assert (images.name, images.shape, images.classes) == ("cifar10 (folder)", (3, 32, 32), 10)
    assert (len(images.train.y), len(images.test.y)) == (44, 10)
    assert images.test.y.tolist() == list(range(10))
    every = torch.tensor(np.concatenate(pixels["train"])).float() / 255
    test = torch.tensor(pixels["test"][0]).float().view(10, 3, 32, 32) / 255  # red, green, blue plane
    torch.testing.assert_close(images.test.x, (test - every.mean()) / every.std())

    tree = tmp_path / "tree"
    for split, parts in pixels.items():
        for part, x in enumerate(parts):
            for number, image in enumerate(x):
                file = tree / "cifar10" / split / f"class{number % 10}" / f"{len(x) - number:03}-{part}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.reshape(3, 32, 32).transpose(1, 2, 0)).save(file)
    for one, other in zip(datasets._cifar10(tmp_path), datasets._cifar10(tree), strict=True):
        assert torch.equal(one.y, other.y)
        assert torch.equal(one.x, other.x)
    with pytest.raises(Invalid, match=r"are cifar10 \(folder\), the run is on cifar10 \(official\)"):
        datasets.load("cifar10", tmp_path, probe_size=3, pixels="official")
    made_official(monkeypatch, tmp_path)
    assert datasets.load("cifar10", tmp_path, probe_size=3, pixels="official").name == "cifar10 (official)"
    with pytest.raises(Invalid, match=r"are cifar10 \(official\), the run is on cifar10 \(folder\)"):
        datasets.load("cifar10", tmp_path, probe_size=3, pixels="folder")


@pytest.mark.parametrize("lacking", ["data_batch_3", "its end", "the archive"])
def test_incomplete_batches_that_cannot_be_fetched_are_named(tmp_path, monkeypatch, lacking):
    from torchvision import datasets as official

    cifar_batches(tmp_path, monkeypatch)
    if lacking == "the archive":  # it breaks off, and goes before a tree all the same
        shutil.rmtree(tmp_path / "cifar-10-batches-py")
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half")
        cifar_tree(tmp_path, 20, 10)
    elif lacking == "its end":
        os.truncate(tmp_path / "cifar-10-batches-py/data_batch_3", 9)
    else:
        (tmp_path / "cifar-10-batches-py" / lacking).unlink()

    def fail(self):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets, "_reachable", lambda host: True)
    monkeypatch.setattr(official.CIFAR10, "download", fail)
    with pytest.raises(Invalid, match=r"broken or incomplete: .*cifar-10-python.tar.gz.*no network"):
        datasets.load("cifar10", tmp_path, probe_size=3)


def test_cifar10_from_a_tree(tmp_path, opened):
    """Its pixels, and the name says that they were re-coded."""
    tree = cifar_tree(tmp_path, 20, 10)
    assert datasets.decodes("cifar10", tmp_path)
    train, test = datasets._cifar10(tmp_path)
    assert datasets._pixels(train, test) == "folder"
    assert (train[0].shape, test[0].shape) == ((20, 3, 4, 4), (10, 3, 4, 4))
    first = sorted((tree / "test" / "class3").iterdir())[0]
    assert np.array_equal(test[0][3].permute(1, 2, 0).numpy(), np.asarray(Image.open(first)))
    assert test[1].tolist() == list(range(10))
    opened.clear()
    assert torch.equal(datasets._cifar10(tmp_path)[0][0], train[0])
    assert not opened  # decoded once


def test_a_tree_that_is_not_cifar10_is_refused_by_its_size(tmp_path):
    tree = cifar_tree(tmp_path, 20, 10)
    message = rf"{tree} is not CIFAR-10: .* must be 10, 50,000 and 10,000, not \(10, 20, 10\)"
    for work in (datasets.check, datasets.load):
        with pytest.raises(Invalid, match=message):
            work("cifar10", tmp_path, probe_size=3)
    assert not (tmp_path / "decoded").exists()
    datasets.check(str(tree), tmp_path, probe_size=3)  # but as a folder of one's own


def test_names_and_sizes_are_refused_before_torch_is_loaded(tree):
    code = (
        "import sys\nfrom deadbook import datasets\nfrom deadunits import Invalid\n"
        f"assert datasets.train_size({str(tree)!r}) == 12\n"
        f"for name, size in (('svhn', 1), ('./none', 1), ('~no/x', 1), ({str(tree)!r}, 5), ('mnist', 0)):\n"
        "    try: datasets.check(name, '', size)\n"
        "    except Invalid: continue\n"
        "    raise AssertionError(name)\n"
        f"datasets.check({str(tree)!r}, '', 3)\n"
        "assert 'torch' not in sys.modules\n"
    )
    path = str(Path(datasets.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
