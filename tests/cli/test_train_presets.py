"""`kdinpaint train --preset`."""

import json

import pytest

from kdinpaint.cli import train
from kdinpaint.cli.main import main
from kdinpaint.training import PRESETS


def test_show_prints_the_preset_as_data(capsys):
    main(["train", "--preset", "paper-places2", "--budget", "0.1%", "--show"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["student"]["optim"]["steps"] == 2500
    assert shown["teacher"]["optim"]["steps"] == 625
    assert shown["data"]["dataset"] == "places2"
    assert "paper" in shown["notes"]
    assert set(shown) == set(PRESETS["paper-places2"].__dataclass_fields__)


def test_options_change_a_preset(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(train, "train", seen.append)
    monkeypatch.setattr(train, "print_results", lambda results: None)
    main(["train", "--photos=d", "--preset=paper-celeba", "--out=r", "--budget=1%", "--data.size=128", "--seed=3"])
    (config,) = seen
    assert (str(config.photos), str(config.out), config.seed, config.data.size) == ("d", "r", 3, 128)
    assert config.student == PRESETS["paper-celeba"].scaled(0.01).student
    assert config.data.dataset == "celeba"
    main(["train", "--photos=d", "--out=r"])
    assert seen[1].data.dataset is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget=1%"], "need --preset, one of paper-celeba"),
        (["--preset=mine"], "preset is 'mine'; expected one of"),
        (["--preset=paper-paris", "--budget=1h"], "expected a share of the paper's iterations"),
        (["--preset=paper-paris"], "--photos"),
    ],
)
def test_mistakes(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert message in said.err + said.out
