"""`kdinpaint train --preset`."""

import json
import shlex
from pathlib import Path

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
    assert shown["runtime"]["workers"] == 4
    assert (shown["preset"], shown["budget"]) == ("paper-places2", "0.1%")


def test_show_takes_the_options_of_the_run(capsys):
    main(["train", "--preset=paper-celeba", "--budget=1%", "--show", "--model=pc", "--data.size=128", "--photos=d"])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["photos"], shown["model"], shown["data"]["size"]) == ("d", "pc", 128)
    assert [phase["steps"] for phase in shown["recipe"]["phases"]] == [2800, 1200]
    assert "student" not in shown
    with pytest.raises(SystemExit):
        main(["train", "--preset=paper-celeba", "--show", "--data.sise=128"])


def test_a_budget_is_for_comparators_too(monkeypatch):
    seen = []
    monkeypatch.setattr(train, "train", seen.append)
    monkeypatch.setattr(train, "print_results", lambda results: None)
    common = ["train", "--photos=d", "--out=r", "--preset=paper-celeba", "--model=pc"]
    main([*common, "--budget=1%"])
    main([*common, "--budget=1%", "--comparator.steps=9"])
    main(common)
    budgets = [(config.comparator.steps, config.comparator.batch) for config in seen]
    assert budgets == [(4000, 6), (9, 6), (None, None)], "the whole budget is the published recipe"


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


def test_the_page_has_a_command_for_every_row_of_table_1(monkeypatch):
    seen = []
    monkeypatch.setattr(train, "train", seen.append)
    monkeypatch.setattr(train, "print_results", lambda results: None)
    page = (Path(__file__).parents[2] / "docs" / "use" / "reproduce.md").read_text(encoding="utf-8")
    for line in page.splitlines():
        if line.startswith("kdinpaint train"):
            main(shlex.split(line)[1:])
    assert [config.model for config in seen] == ["pic", "pc", "gc", "ec", "kdinpaint_base"]
    assert len({str(config.out) for config in seen}) == 5
    assert {str(config.evaluation.masks) for config in seen} == {"masks"}


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
