"""Several processes, or several parts of a batch, make the run that one process makes with the whole batch."""

import json

import parallel_run
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import write_photos
from two_processes import needs_gloo

from kdinpaint.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    statuses, output = parallel_run.launch(photos, out)
    assert statuses == [0], output
    return out


def _assert_same_run(out, whole):
    """To the rounding of sums in another order."""
    for stage in ("teacher", "student"):
        ours, theirs = (load_file(run / stage / "model.safetensors") for run in (out, whole))
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    ours, theirs = (load_checkpoint(run / "student" / "checkpoint.pt")["objective"] for run in (out, whole))
    # Predictors of the importance and running statistics, which only the whole batch can make.
    learned = [name for name in theirs if "predictors" in name or "scales" in name]
    assert learned
    for name in learned:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    ours, theirs = (json.loads((run / "metrics.json").read_text())["models"]["student"] for run in (out, whole))
    assert len(ours["records"]) == len(theirs["records"])
    for mine, other in zip(ours["records"], theirs["records"], strict=True):
        assert mine == pytest.approx(other, rel=1e-3)


def test_parts_of_a_batch(photos, whole, tmp_path):
    out = tmp_path / "run"
    statuses, output = parallel_run.launch(photos, out, accumulate=2)
    assert statuses == [0], output
    _assert_same_run(out, whole)


@needs_gloo
def test_two_processes_of_which_one_is_told_to_stop_and_one_process_goes_on(photos, whole, tmp_path):
    out = tmp_path / "run"
    statuses, output = parallel_run.launch(photos, out, processes=2, stop_at=7)
    assert statuses == [75, 75], output
    state = load_checkpoint(out / "student" / "checkpoint.pt")
    assert state["step"] == 8
    assert not (out / "metrics.json").exists()
    statuses, output = parallel_run.launch(photos, out)
    assert statuses == [0], output
    _assert_same_run(out, whole)


@needs_gloo
def test_two_processes_to_the_end(photos, whole, tmp_path):
    out = tmp_path / "run"
    statuses, output = parallel_run.launch(photos, out, processes=2)
    assert statuses == [0, 0], output
    _assert_same_run(out, whole)
    assert len(list((out / "tensorboard" / "student").iterdir())) == 1, "the main process alone writes"
