"""Signals of schedulers, as they come: to the whole process group, in the middle of anything."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import tiny_config, write_photos

from kdinpaint.training import train
from kdinpaint.training.checkpoint import load_checkpoint
from kdinpaint.training.interrupt import Preempted, StopRequest, preemptible

NUMBERS = [signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture(params=NUMBERS, ids=lambda number: number.name)
def number(request):
    """A signal, which does nothing by default, so that a test without its subject fails and does not end."""
    before = signal.signal(request.param, signal.SIG_IGN)
    yield request.param
    signal.signal(request.param, before)


def test_outside_of_a_stage_it_stops_at_once_and_only_once(number):
    cleaned = []

    @preemptible()
    def work():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # such as SLURM's SIGTERM after its SIGUSR1
            cleaned.append(True)

    with pytest.raises(Preempted):
        work()
    assert cleaned
    assert signal.getsignal(number) is signal.SIG_IGN, "as it was before"


def test_inside_a_stage_it_waits_for_the_step(number):
    done = []

    @preemptible()
    def work():
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            done.append(stop.preempted)
        os.kill(os.getpid(), number)
        done.append("went on")

    with pytest.raises(Preempted):
        work()
    assert done == [True]
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("place", ["open_sources", "evaluate"])
def test_train_is_preempted_before_and_after_its_stages(number, place, tmp_path, monkeypatch):
    def signalled(*args, **kwargs):
        os.kill(os.getpid(), number)
        pytest.fail("went on")

    photos = write_photos(tmp_path / "photos")
    room = sys.modules[train.__module__]
    if place == "evaluate":
        monkeypatch.setattr(room.Run, "train_teacher", lambda *_, **__: None)
        monkeypatch.setattr(room.Run, "train_student", lambda *_, **__: None)
        monkeypatch.setattr(room.Run, place, signalled)
    else:
        monkeypatch.setattr(room, place, signalled)
    with pytest.raises(Preempted):
        train(tiny_config(photos, tmp_path / "run"))


def _options(photos: Path, out: Path) -> list[str]:
    given = {
        "photos": photos, "out": out, "model": "kdinpaint_tiny", "data.size": 32, "evaluation.per-bin": 1,
        "teacher.optim.steps": 1, "teacher.optim.batch": 2, "student.optim.steps": 100_000, "student.optim.batch": 2,
        "runtime.device": "cpu", "runtime.workers": 1, "runtime.log-every": 1, "runtime.checkpoint-every": 100_000,
    }  # fmt: skip
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


@pytest.mark.slow
def test_a_signal_to_the_process_group_spares_the_workers_and_saves(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "kdinpaint", "train", *_options(write_photos(tmp_path / "photos"), out)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not _events(out):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for number in NUMBERS:
            os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 75, said
        assert "the same command goes on" in said
        assert "Traceback" not in said
        assert load_checkpoint(out / "student" / "checkpoint.pt")["step"] > 0
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nobody is left
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _events(out: Path) -> bool:
    """Whether the student has logged a step: then its workers are there."""
    return any(path.stat().st_size > 200 for path in (out / "tensorboard" / "student").glob("events*"))
