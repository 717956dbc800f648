"""House rules of the suite: Hypothesis profile, seeds, and what happens to GPU tests without a GPU."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# HYPOTHESIS_PROFILE chooses; "thorough" is for a night.
for name, examples in (("house", 15), ("ci", 30), ("thorough", 500)):
    settings.register_profile(
        name,
        deadline=None,
        derandomize=True,
        max_examples=examples,
        # Contracts are inherited: one property method runs on instances of many classes.
        suppress_health_check=[HealthCheck.differing_executors],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))

# PyTorch gives most warnings once a process, so that a test would fail or pass by what ran before it.
torch.set_warn_always(True)
# Tests use tiny tensors: a second thread costs more in waiting than it computes, a hundredfold on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Every device there is; the CUDA case carries the marker `gpu`."""
    return torch.device(request.param)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device and there is none"))
