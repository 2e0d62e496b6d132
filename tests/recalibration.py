"""What batch norm makes of pruning: the table in `recalibration.csv` and its summary in `book/tables`.

    python tests/recalibration.py    # some minutes

A residual network of eight layers is trained on the embedded digits with five seeds. A third or half of its
units go by MRS, with each of the constants; the accuracy on the test images is that of the network as it
comes from `prune`, with batch norm estimated again on the training images (`recalibrate`), and of both after
one more epoch of training.
"""

from __future__ import annotations

import copy
import csv
import sys
from pathlib import Path

import pandas as pd
import torch

from deadunits import data, structured, training

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
from residual_net import eight_layers

FILE = Path("book/tables/recalibration.csv")
COLUMNS = ("seed", "fraction", "constant", "recalibrated", "accuracy", "fine_tuned")
SETTINGS = {"lr": 0.05, "batch_size": 32}


def train(net: torch.nn.Module, images: data.Images, epochs: int, seed: int) -> torch.nn.Module:
    optimizer = torch.optim.SGD(net.parameters(), lr=SETTINGS["lr"], momentum=0.9)
    for _ in training.sgd(net, images.train, epochs=epochs, seed=seed, optimizer=optimizer, **SETTINGS):
        pass
    return net.eval()


def accuracy(net: torch.nn.Module, batch: data.Batch) -> float:
    with torch.no_grad():
        return round((net(batch.x).argmax(1) == batch.y).double().mean().item(), 4)


def rows(images: data.Images, seed: int):
    net = train(eight_layers(images.shape, images.classes, seed), images, 10, seed)
    yield seed, 0, "", "", accuracy(net, images.test), ""
    for fraction in (0.3, 0.5):
        for constant in structured.CONSTANTS:
            small = structured.prune(net, images.train_probe, fraction, "mrs", constant=constant).net
            for recalibrated in (False, True):
                if recalibrated:
                    structured.recalibrate(small, images.train)
                before = accuracy(small, images.test)
                tuned = train(copy.deepcopy(small), images, 1, 100 + seed)
                yield seed, fraction, constant, recalibrated, before, accuracy(tuned, images.test)


def summarise() -> None:
    """A row for each fraction and constant: means over the seeds, with the worst seed."""
    table = pd.read_csv(FILE)
    dense, pruned = table[table["fraction"] == 0], table[table["fraction"] > 0]

    def told(values: pd.Series) -> str:
        return f"{values.mean():.2f} ({values.min():.2f})"

    by = pruned.groupby(["fraction", "constant", "recalibrated"])
    accuracy, tuned = (by[name].apply(told).unstack() for name in ("accuracy", "fine_tuned"))
    rows = pd.concat([accuracy, tuned], axis=1)
    rows.columns = ["as pruned", "recalibrated", "as pruned, one epoch more", "recalibrated, one epoch more"]
    rows.loc[(0, "not pruned"), :] = [told(dense["accuracy"]), "", "", ""]
    rows.sort_index().to_csv(FILE.with_name("recalibration-summary.csv"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "summary" not in sys.argv:
        images = data.digits(probe_size=200)
        with FILE.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for seed in range(5):
                writer.writerows(rows(images, seed))
    summarise()
