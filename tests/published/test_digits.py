"""Today's code still computes what a small committed run of each experiment has, on the embedded digits.

The larger runs, on MNIST and CIFAR-10, are compared by `make verify`. After a change that is meant to change
numbers, remove a folder of `tests/published/digits` and execute this file: it computes what is missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from deadbook import runs

FOLDER = Path("tests/published/digits")
#: Of a column's largest number. Without vector instructions (ATEN_CPU_CAPABILITY=default,
#: ONEDNN_MAX_CPU_ISA=SSE41) none of them moved by more than 1.4e-4.
TOLERANCE = 0.01
TIMES = {"seconds", "passes", "over_dense"}

WHERE = {"dataset": "digits", "image_size": 0, "network": "small_cnn", "activation": "relu", "seed": 0}
HOW = {"epochs": 1, "lr": 0.1, "batch_size": 64, "probe_size": 30}
MEASURED = WHERE | HOW | {"measure_every": 9}
ALL, HIDDEN = ["conv1", "conv2", "fc1", "fc2"], ["conv1", "fc1"]
RUNS = {
    "background": MEASURED | {"sizes": [0.01, 0.1, 1.0], "trials": 2},
    "saliency": MEASURED | {"layers": ["conv1"], "fractions": [0.05, 0.8], "draws": 2},
    "weight_pruning": MEASURED | {"layers": ALL, "schedule": [[1, 0.5]], "by": "network"},
    "units": MEASURED | {"layers": HIDDEN, "widths": [8, 16, 64], "fractions": [0.5], "draws": 2},
    "unit_pruning": MEASURED | {"layers": HIDDEN, "schedule": [[1, 0.5]], "scorer": "mrs", "by": "layer"},
    "attacks": MEASURED
    | {"layers": HIDDEN, "layer": "conv1", "unit": 0, "start": 3, "interval": 3, "repeats": 2}
    | {"multiplier": 10, "control": False, "watch": [["conv1", 0]], "batch_norm": True},
    "explorer": WHERE | HOW | {"layers": HIDDEN, "fractions": [0.5], "of": "units"},
    "checkpoint": WHERE | HOW | {"widths": [8, 16, 64]},
    "rescoring": WHERE | HOW | {"layers": ["conv1"], "ends": [1]},
    "grouping": MEASURED | {"layers": ["conv1"], "fractions": [0.8]},
    "averaging": MEASURED | {"layers": ["conv1"], "images": [30, 60]},
    "rescaling": WHERE | HOW | {"layer": "conv1", "start": 3, "interval": 3, "repeats": 2, "multiplier": 10},
    "revival": MEASURED | {"layers": ["fc1"], "epoch": 1, "below": 0.9},
    "costs": WHERE | {"layers": ["fc2"], "probe_size": 30, "rounds": 1},
    "unit_costs": WHERE | {"layers": HIDDEN, "probe_size": 30, "fraction": 0.5, "batches": [2], "rounds": 1},
}


def difference(committed, computed) -> float:
    """`runs.difference` of all columns but times; words must be the same."""
    assert list(committed) == list(computed)
    words = committed.select_dtypes(exclude=["number", "bool"])
    assert words.equals(computed[list(words)])
    return runs.difference(*(table.drop(columns=TIMES & set(table)) for table in (committed, computed)))


@pytest.mark.parametrize("experiment", RUNS)
def test_todays_code_computes_the_committed_run(experiment, tmp_path):
    settings = RUNS[experiment]
    committed = runs.Run(FOLDER / runs.key(experiment, settings))
    computed = runs.execute(experiment, settings, tmp_path)
    names = sorted(path.stem for path in committed.folder.glob("*.parquet"))
    assert names == sorted(path.stem for path in computed.folder.glob("*.parquet"))
    for name in names:
        assert difference(committed.table(name), computed.table(name)) <= TOLERANCE, name


def test_every_experiment_has_one():
    loops = {path.stem for path in Path("lib/deadbook/experiments").glob("*.py")} - {"__init__", "common"}
    assert set(RUNS) == loops
    assert {path.name for path in FOLDER.iterdir()} == {runs.key(*run) for run in RUNS.items()}


def test_a_changed_number_is_found():
    table = runs.Run(FOLDER / runs.key("units", RUNS["units"])).table("scores")
    moved = table.assign(mrp=table["mrp"] + 0.1 * table["mrp"].abs().max())
    assert difference(table, moved) == pytest.approx(0.1, rel=1e-3)


if __name__ == "__main__":
    for kind, wanted in RUNS.items():
        if not (FOLDER / runs.key(kind, wanted)).is_dir():
            print(runs.execute(kind, wanted, FOLDER).folder)
