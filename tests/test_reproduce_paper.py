"""The script of all rows: what the rows share, and how it ends when a scheduler stops it."""

import os
import runpy
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import kdinpaint.training
from kdinpaint.training import RECIPES

SCRIPT = Path(__file__).parents[1] / "examples" / "reproduce_paper.py"


def rows(**changed):
    given = {"preset": "paper-celeba", "budget": 0.01, "data": Path("celeba"), "out": Path("out"), "rows": None}
    given |= {"masks": Path("test"), "training_masks": None, "vgg": "imagenet", "mixed_precision": "no", "smoke": False}
    return runpy.run_path(str(SCRIPT))["rows"](Namespace(**{**given, **changed}))


def test_rows_share_budget_averaging_and_masks():
    found = rows(training_masks=Path("train"))
    assert list(found) == ["ours", "plain", *RECIPES]
    optim = found["ours"].student.optim
    assert optim.ema_decay > 0
    for name, config in found.items():
        assert (config.data.masks, config.evaluation.masks) == (Path("train"), Path("test"))
        assert config.student.optim == optim
        if name in RECIPES:
            budget = config.comparator
            assert (budget.steps, budget.batch, budget.ema_decay) == (optim.steps, optim.batch, optim.ema_decay)
    assert rows()["ours"].data.masks is None


def test_a_scheduler_stops_it_between_rows(monkeypatch, tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr(kdinpaint.training, "train", lambda config: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--smoke", "--out", str(tmp_path)])
    try:
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 75
