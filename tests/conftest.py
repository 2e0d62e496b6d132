from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _global_random_state_is_left_alone():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
