import pytest
import torch


@pytest.fixture(autouse=True)
def _initial_weights_may_be_drawn():
    """Networks that a test builds draw from the global random state, which is put back."""
    with torch.random.fork_rng():
        yield
