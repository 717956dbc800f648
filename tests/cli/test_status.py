"""What the command line exits with when it is stopped."""

import io
import os
import sys

import pytest

from kdinpaint.cli import train
from kdinpaint.cli.main import main
from kdinpaint.training.interrupt import Preempted


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), (Preempted(), 75)])
def test_stopped(stop, status, monkeypatch, capsys, tmp_path):
    def stopped(config):
        raise stop

    monkeypatch.setattr(train, "train", stopped)
    with pytest.raises(SystemExit) as left:
        main(["train", "--photos", str(tmp_path), "--out", str(tmp_path / "run")])
    assert left.value.code == status
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["train", "--preset", "paper-celeba", "--show"], ["--help"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_nobody_reads_the_output(arguments, buffered, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has seen enough
    with io.TextIOWrapper(io.FileIO(writer, "w"), write_through=not buffered) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as left:
            main(arguments)
    assert left.value.code == 141
    assert not capsys.readouterr().err


def test_another_broken_pipe_is_an_error(monkeypatch, tmp_path):
    def broken(config):
        raise BrokenPipeError("a worker's")

    monkeypatch.setattr(train, "train", broken)
    with pytest.raises(BrokenPipeError, match="a worker's"):
        main(["train", "--photos", str(tmp_path), "--out", str(tmp_path / "run")])
