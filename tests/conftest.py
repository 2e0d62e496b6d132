from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import hypothesis
import pytest
import torch

# No test fails because the machine is slow.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Of a process in the background of a shell script it is ignored, and by all that this one starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory) -> Path:
    """A folder with the real MNIST: that of DEADUNITS_DATA, or a copy of the one beside the checkout."""
    for place in (os.environ.get("DEADUNITS_DATA"), "../shared/data"):
        if place and Path(place, "MNIST/raw").is_dir():
            root = tmp_path_factory.mktemp("data")
            shutil.copytree(Path(place, "MNIST"), root / "MNIST")
            return root
    pytest.skip("no MNIST here: DEADUNITS_DATA names no folder that holds MNIST/raw")


@pytest.fixture(autouse=True)
def _global_random_state_is_left_alone():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="session")
def chapter_runs(tmp_path_factory) -> Path:
    """One folder of runs for all chapters that tests execute, which share what they can."""
    return tmp_path_factory.mktemp("results")
