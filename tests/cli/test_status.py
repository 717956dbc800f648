"""What the command line exits with when training is stopped."""

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
