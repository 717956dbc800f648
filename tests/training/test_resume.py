"""Interrupted in any way, a run ends with the same bits as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import tiny_config, write_photos

from kdinpaint._core.errors import CheckpointError, ConfigError, KDInpaintError, OutputError
from kdinpaint.training import train
from kdinpaint.training.checkpoint import load_checkpoint

SCRIPT = Path(tiny_run.__file__)


def _start(photos: Path, out: Path, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(photos), str(out), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(photos: Path, out: Path) -> None:
    process = _start(photos, out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def _result(out: Path) -> dict[str, object]:
    metrics = json.loads((out / "metrics.json").read_text())
    models = {name: {k: v for k, v in m.items() if k != "milliseconds"} for name, m in metrics["models"].items()}
    return {
        "weights": [(out / s / "model.safetensors").read_bytes() for s in ("teacher", "student")],
        "metrics": models,
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("whole") / "run"
    _finish(photos, out)
    return _result(out)


@pytest.mark.slow
def test_sigkill_between_checkpoints(photos: Path, whole: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = _start(photos, out)
    deadline = time.monotonic() + 240
    while not (out / "student" / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (out / "metrics.json").exists()
    assert 0 < load_checkpoint(out / "student" / "checkpoint.pt")["step"] <= 12
    _finish(photos, out)
    assert _result(out) == whole


@pytest.mark.slow
def test_sigkill_inside_a_checkpoint(photos: Path, whole: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = _start(photos, out, "half-written")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output
    assert load_checkpoint(out / "student" / "checkpoint.pt")["step"] == 6
    assert len(list((out / "student").iterdir())) == 3, "the half-written file lies beside two good ones"
    _finish(photos, out)
    assert _result(out) == whole
    assert not [p for p in (out / "student").iterdir() if p.name.startswith(".")], "left-overs are cleared"


@pytest.mark.slow
def test_ctrl_c_saves_and_continues(photos: Path, whole: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = _start(photos, out)
    deadline = time.monotonic() + 240
    while not (out / "teacher" / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    assert "KeyboardInterrupt" in output
    _finish(photos, out)
    assert _result(out) == whole


@pytest.fixture
def finished(photos: Path, tmp_path: Path) -> Path:
    """A run in this process, once per test that damages it."""
    torch.manual_seed(0)
    train(tiny_config(photos, tmp_path / "run"))
    return tmp_path / "run"


def test_rerun_changes_nothing(photos: Path, finished: Path) -> None:
    before = _result(finished)
    train(tiny_config(photos, finished))
    assert _result(finished) == before


def test_another_configuration_is_refused(photos: Path, finished: Path) -> None:
    before = _result(finished)
    with pytest.raises(ConfigError, match=r"belongs to another run: student.init was 'teacher', now 'scratch'"):
        train(tiny_config(photos, finished, init="scratch"))
    assert _result(finished) == before


def test_other_photos_are_refused(photos: Path, finished: Path, tmp_path: Path) -> None:
    others = write_photos(tmp_path / "others", count=7)
    with pytest.raises(ConfigError, match="photos_sha256 was"):
        train(tiny_config(others, finished))


def test_foreign_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(ConfigError, match=r"is not empty \(thesis.tex\) and not a run folder"):
        train(tiny_config(photos, tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("damage", ["truncated", "foreign", "malicious"])
def test_bad_checkpoint_is_refused_and_explained(photos: Path, finished: Path, damage: str, tmp_path: Path) -> None:
    checkpoint = finished / "student" / "checkpoint.pt"
    teacher = (finished / "teacher" / "checkpoint.pt").read_bytes()
    trap = tmp_path / "trap"
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif damage == "foreign":
        torch.save({"state_dict": {}}, checkpoint)
    else:
        torch.save(_Malicious(trap), checkpoint)
    with pytest.raises(CheckpointError, match=r"Delete .*checkpoint.pt to start this stage over"):
        train(tiny_config(photos, finished))
    assert not trap.exists(), "nothing in a checkpoint may run"
    assert (finished / "teacher" / "checkpoint.pt").read_bytes() == teacher


class _Malicious:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trap),)


def test_full_disk_keeps_the_last_checkpoint(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real, calls = tmp_path / "run", torch.save, []

    def save(state: object, target: object) -> None:
        calls.append(target)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        real(state, target)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OutputError, match=r"No space left on device\. Earlier files are untouched"):
        train(tiny_config(photos, out))
    assert load_checkpoint(out / "student" / "checkpoint.pt")["step"] == 6
    assert not [p for p in (out / "student").iterdir() if p.name.startswith(".")]


def test_unwritable_output(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        train(tiny_config(photos, tmp_path / "file" / "run"))


def test_weights_that_are_not_finite_are_never_saved(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(photos, tmp_path / "run", checkpoint_every=1)
    optim = replace(config.student.optim, lr=1e30, clip_norm=None)
    broken = replace(config, student=replace(config.student, optim=optim))
    with pytest.raises(KDInpaintError, match="not finite at step"):
        train(broken)
    state = tmp_path / "run" / "student" / "checkpoint.pt"
    if state.exists():
        assert all(bool(torch.isfinite(v).all()) for v in load_checkpoint(state)["objective"].values())
