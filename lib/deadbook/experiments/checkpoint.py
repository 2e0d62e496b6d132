"""The network that pages carry, so that a reader's browser can compute with it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import Checkpoint

IMAGES = 200  # of each set, at most: what a page can carry


def checkpoint(settings: Checkpoint, data_root: str = "") -> Iterator[Row]:
    """Train, and keep the network and some of the images.

    Tables: `snapshots` (a row a weight, bias or statistic), `images` (a row a pixel, as the network gets it)
    and `labels` (a row an image), of the first images trained on (`train_probe`) and the first test images,
    and `final` (test loss in nats, test accuracy from 0 to 1).
    """
    images = common.load(settings, data_root)
    net = common.build(settings, images, widths=settings.widths)
    *_, step = common.train(net, images, settings)
    net.eval()
    yield from common.snapshot(net, step)
    for name in ("train_probe", "test"):
        x, y = (part[:IMAGES] for part in getattr(images, name))
        yield "labels", {"set": name, "image": torch.arange(len(y)), "label": y}
        for number, image in enumerate(x):
            value = image.flatten()
            about = {"set": name, "image": number, "pixel": torch.arange(len(value))}
            yield "images", about | {"value": value}
    losses = common.judged(net, images.test, "test")
    yield "final", {"test_loss": losses["test"], "accuracy": losses["test_accuracy"]}
