"""Two processes of DistributedDataParallel train as one process does on the batch of both."""

import os
import subprocess
import sys

import parallel_training
import pytest
import torch
from harness import assert_equal
from two_processes import needs_gloo

pytestmark = [pytest.mark.slow, needs_gloo]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of the two processes has found."""
    folder = tmp_path_factory.mktemp("processes")
    script, store = parallel_training.__file__, str(folder / "store")
    path = os.pathsep.join(filter(None, [os.path.dirname(script), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, script, str(rank), store, str(folder / f"{rank}.pt")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(parallel_training.WORLD)
    ]
    try:
        for process in started:
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said[-4000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(parallel_training.WORLD)]


def test_gradients_are_those_of_one_process_with_both_batches(processes):
    """Distances are averaged over the hole of each sample first, so that its size does not matter."""
    alone = parallel_training.train(None)
    first, second = (found["plain"] for found in processes)
    assert_equal(first["gradients"], second["gradients"])
    assert_equal(first["parameters"], second["parameters"])
    torch.testing.assert_close(first["gradients"], alone["gradients"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(first["parameters"], alone["parameters"], rtol=1e-4, atol=1e-6)
    for step, losses in enumerate(alone["losses"]):
        for name, loss in losses.items():
            mean = (first["losses"][step][name] + second["losses"][step][name]) / parallel_training.WORLD
            torch.testing.assert_close(mean, loss, rtol=1e-4, atol=1e-6)
    assert not torch.equal(first["losses"][0]["cross"], second["losses"][0]["cross"])


def test_a_meta_step_is_that_of_one_process_with_both_batches(processes):
    first, second = (found["meta"] for found in processes)
    assert_equal(first["predictors"], second["predictors"])
    assert_equal(first["parameters"], second["parameters"])
    assert all(bool(p.any()) for p in first["predictors"])
    alone = parallel_training.train(None, meta_every=2)
    torch.testing.assert_close(first["predictors"], alone["predictors"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(first["parameters"], alone["parameters"], rtol=1e-4, atol=1e-6)
