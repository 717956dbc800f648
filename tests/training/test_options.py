"""The options of the configuration through `train`: what is built, and that an interrupted run goes on the same."""

import json
from dataclasses import replace

import pytest
import torch
import tyro
from tiny_run import tiny_config, write_photos

from kdinpaint._core.errors import ConfigError
from kdinpaint.models import load_model
from kdinpaint.training import DistillConfig, train


@pytest.mark.parametrize(("words", "value"), [("0 0.5 1", (0.0, 0.5, 1.0)), ("learned", "learned"), ("", "equal")])
def test_weights_of_levels_on_the_command_line(words, value):
    options = ["--level-weights", *words.split()] if words else []
    assert tyro.cli(DistillConfig, args=[*options, "--cross", "0.3"]) == DistillConfig(level_weights=value, cross=0.3)


def test_weights_that_do_not_fit_the_student_are_refused_before_anything_is_trained(tmp_path):
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(ConfigError, match=r"level_weights are 0\.0 1\.0; expected 3 numbers"):
        train(tiny_config(photos, tmp_path / "run", distill=DistillConfig(level_weights=(0.0, 1.0))))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_iccv_forms_train_and_resume_to_the_same_bits(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos")
    distill = DistillConfig(
        attention_transfer=0.1,
        aligner="teacher",
        level_weights="learned",
        distance="heteroscedastic",
        rim=2.0,
        everywhere_first=0.25,
        balance="project",
        meta_method="l2t",
        meta_inner_lr=1e-5,
        meta_every=4,
    )
    whole = tiny_config(photos, tmp_path / "whole", distill=distill, filler="serial")
    results = train(whole)
    assert results["models"]["student"]["overall"]["metrics"]["psnr"]["mean"] > 0
    student, teacher = (load_model(tmp_path / "whole" / stage) for stage in ("student", "teacher"))
    assert {fill.mode for fill in student.encoder.fillers} == {"serial"}
    assert teacher.decoder.attention is not None
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["student"]["distill"]["rim"] == 2.0

    from kdinpaint.training import engine

    step = engine.Stage._one_step

    def interrupted(self, batch):
        if self.name == "student" and self.step == 7:
            raise RuntimeError("power cut")
        return step(self, batch)

    parts = replace(whole, out=tmp_path / "parts")
    monkeypatch.setattr(engine.Stage, "_one_step", interrupted)
    with pytest.raises(RuntimeError, match="power cut"):
        train(parts)
    monkeypatch.undo()
    train(parts)
    for name, value in load_model(tmp_path / "parts" / "student").state_dict().items():
        assert torch.equal(value, student.state_dict()[name]), name
