"""Sweeps whose runs and chapters take no time and no torch; also as a launcher of its own: `main()`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from deadbook import runs
from deadbook.__main__ import main as command_line
from deadbook.build import book
from deadbook.sweeps import queues


def run(experiment, settings, folder, data_root=""):
    """In place of `runs.execute`: fails with seed 99, and kills its process as often as a file says."""
    if settings["seed"] == 99:
        raise ValueError("seed 99 is unlucky")
    deaths = Path(os.environ.get("SWEEP_CALLS_DEATHS", "/nowhere"))
    if deaths.is_file() and (left := int(deaths.read_text())):
        deaths.write_text(str(left - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    import pandas as pd

    place = folder / runs.key(experiment, settings)
    draft = folder / f".{place.name}.{runs.here()}"
    draft.mkdir(parents=True)
    try:
        time.sleep(float(os.environ.get("SWEEP_CALLS_SECONDS", "0")))
        pd.DataFrame({"step": [1, 2], "kind": "a", "loss": [0.5, settings["seed"]]}).to_parquet(
            draft / "sizes.parquet"
        )
        info = dict.fromkeys(runs._FACTS, "") | {"experiment": experiment, "settings": settings, "seconds": 1}
        (draft / "run.json").write_text(json.dumps(info))
        draft.rename(place)
        with (folder / "computed").open("a") as lines:
            lines.write(f"{place.name}\n")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def chapter(name, profile, parameters, folder):
    """In place of `book.execute`."""
    (folder / f"{name}.ipynb").write_text("{}")


def execute(job, plan):
    """In place of `queues.execute`, in a worker."""
    runs.execute, book.execute = run, chapter
    return queues.execute(job, plan)


def main():
    """The command line, in a process of its own."""
    queues.execute = execute
    sys.exit(command_line(sys.argv[1:]))
