"""A rehearsal of a run on a network or images of the reader's own: a few steps on a few images, in seconds.

It finds what would go wrong, such as a layer that is not there or images that are too small, before anything
is computed, and estimates what the run needs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from deadbook import datasets, settings
from deadunits import Invalid
from deadunits.data import Batch, Images

PROBES = ("probe", "other", "train_probe", "test")
STEPS = 3
#: What a rehearsal sets at most, as far as a run has it.
SHORT = {"epochs": 1, "measure_every": 1, "start": 1, "interval": 1, "repeats": 1, "draws": 1, "rounds": 1}
SHORT |= {"trials": 1, "probe_size": 32, "batch_size": 32}


def needed(chosen: Mapping[str, Any]) -> bool:
    """Whether a run has a network or images of the reader's own."""
    return chosen["network"] != "small_cnn" or datasets.is_path(chosen["dataset"])


def rehearse(experiment: str, wanted: Sequence[Mapping[str, Any]], data_root: str, at_once: int) -> None:
    """Rehearse runs that differ in more than their seed, and print what the largest needs.

    Raises:
        Invalid: what a run would raise; more memory than is free.
    """
    import torch

    torch.set_num_threads(1)
    different: dict[str, dict[str, Any]] = {}
    for run in wanted:
        different.setdefault(repr(sorted((dict(run) | {"seed": 0}).items())), dict(run))
    load = functools.lru_cache(maxsize=1)(datasets.load)  # most runs have the same images
    needs = [
        _rehearse(experiment, run, load(root=data_root, **datasets.chosen(run))) for run in different.values()
    ]
    seconds, memory, disk = (max(need) for need in zip(*needs, strict=True))
    _check_fits(memory, min(at_once, len(wanted)))
    print(
        f"{len(wanted)} runs of {experiment}, about {_time(seconds)} of one core each, "
        f"{_size(memory)} of memory and {_size(disk)} on disk",
        flush=True,
    )


def _rehearse(experiment: str, chosen: dict[str, Any], whole: Images) -> tuple[float, float, float]:
    """Seconds, bytes of memory and bytes on disk that a run on these images needs, roughly."""
    from deadbook.experiments import common

    short = {name: min(chosen[name], most) for name, most in SHORT.items() if name in chosen}
    short |= {"schedule": [[1, chosen["schedule"][-1][1]]]} if chosen.get("schedule") else {}
    probe, train = short["probe_size"], STEPS * short.get("batch_size", 1)
    sets = {name: Batch(*(part[:probe] for part in getattr(whole, name))) for name in PROBES}
    images = dataclasses.replace(whole, train=Batch(*(part[:train] for part in whole.train)), **sets)
    planned = settings.experiment(experiment).model_construct(**chosen | short)
    loop = getattr(importlib.import_module(f"deadbook.experiments.{experiment}"), experiment)
    started, numbers = time.perf_counter(), 0
    with mock.patch.object(common, "load", return_value=images):
        for _, row in loop(planned):
            numbers += sum(value.numel() if hasattr(value, "numel") else 1 for value in row.values())
    seconds, net = time.perf_counter() - started, common.build(planned, images)
    steps, step = settings.training_steps(chosen), 0.0
    if steps:
        started = time.perf_counter()
        *_, last = common.train(net, images, planned)
        step = (time.perf_counter() - started) / last.number
    sizes = [getattr(whole, name).x.nbytes for name in ("train", *PROBES)]
    for module in net.eval().modules():  # what each gives for one image
        module.register_forward_hook(
            lambda _, __, output: sizes.append(2 * common.CHUNK * getattr(output, "nbytes", 0))
        )
    net(images.probe.x[:1])
    if steps is None:
        return seconds, sum(sizes), 4 * numbers
    measurements = steps / chosen.get("measure_every", steps)
    each = seconds / STEPS * chosen["probe_size"] / probe  # with a step of the training, which is short
    return measurements * each + steps * step, sum(sizes), 4 * numbers / STEPS * measurements


def check_images_fit(chosen: Mapping[str, Any], at_once: int) -> None:
    """Raise `Invalid` if the images alone are larger than the free memory; none of them is decoded."""
    if datasets.is_path(chosen["dataset"]):
        _check_fits(4 * datasets.pixels(chosen["dataset"], chosen["image_size"]), at_once)


def _check_fits(memory: float, at_once: int) -> None:
    if memory * at_once > (free := _free_memory()):
        raise Invalid(
            f"{at_once} runs at once need about {_size(memory * at_once)} of memory, {_size(free)} are free: "
            "choose fewer processes, a smaller image_size or fewer images"
        )


def _free_memory() -> float:
    """Bytes; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number > 5e8 else f"{max(1, number / 1e6):.0f} MB"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} seconds"
