"""Open question 5: whether averages over time or more images remove the peaks of the scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from deadbook.experiments import common
from deadbook.experiments.common import Row
from deadbook.settings import Averaging
from deadunits import pruning, scorers
from deadunits.data import Batch

SCORERS = ("taylor1", "loss_change")
FRACTION, LAST = 0.8, 10  # of the weights; scores that are averaged


def averaging(settings: Averaging, data_root: str = "") -> Iterator[Row]:
    """Train, and every so often score a layer's weights on so many images trained on, and prune temporarily.

    Table `penalties`: scorer (absolute), images it was scored on, whether the last ten scores were averaged,
    loss on `other` after minus before in nats.
    """
    images = common.load(settings, data_root)
    net = common.build(settings, images)
    names = common.weights_of(net, settings.layers)
    recent: dict[tuple[str, int], deque] = {}
    for step in common.train(net, images, settings):
        if step.number % settings.measure_every:
            continue
        net.eval()
        before = common.mean_loss(net, images.other)
        for scorer in SCORERS:
            for number in settings.images:
                parts = zip(*(part[:number].split(1000) for part in images.train), strict=True)
                scores = scorers.SCORERS[scorer](net, [Batch(x, y) for x, y in parts], names)
                known = recent.setdefault((scorer, number), deque(maxlen=LAST))
                known.append({name: values.abs() for name, values in scores.items()})
                mean = {name: torch.stack([it[name] for it in known]).mean(0) for name in names}
                for averaged, chosen in ((False, known[-1]), (True, mean)):
                    with pruning.pruned(net, pruning.masks(chosen, FRACTION)):
                        penalty = common.mean_loss(net, images.other) - before
                    about = {
                        "scorer": f"{scorer}_abs",
                        "images": number,
                        "averaged": averaged,
                        "set": "other",
                    }
                    yield (
                        "penalties",
                        {"step": step.number, "epoch": step.epoch} | about | {"penalty": penalty},
                    )
