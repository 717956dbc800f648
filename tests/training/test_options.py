"""The options of the configuration through `train`: what is built, and that an interrupted run goes on the same."""

import json
import warnings
from dataclasses import replace

import pytest
import stand_ins
import torch
import tyro
from tiny_run import tiny_config, write_photos

from kdinpaint._core.errors import ConfigError, DataError, KDInpaintWarning
from kdinpaint.models import load_model
from kdinpaint.training import DistillConfig, EvaluationConfig, OptimConfig, RuntimeConfig, train
from kdinpaint.training.sources import open_sources


@pytest.mark.parametrize(("words", "value"), [("0 0.5 1", (0.0, 0.5, 1.0)), ("learned", "learned"), ("", "equal")])
def test_weights_of_levels_on_the_command_line(words, value):
    options = ["--level-weights", *words.split()] if words else []
    assert tyro.cli(DistillConfig, args=[*options, "--cross", "0.3"]) == DistillConfig(level_weights=value, cross=0.3)


def test_weights_that_do_not_fit_the_student_are_refused_before_anything_is_trained(tmp_path):
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(ConfigError, match=r"level_weights are 0\.0 1\.0; expected 3 numbers"):
        train(tiny_config(photos, tmp_path / "run", distill=DistillConfig(level_weights=(0.0, 1.0))))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "wrong", "message"),
    [
        ("optim", {"batch": 6, "accumulate": 4}, "batch is 6 with 1 processes and accumulate=4"),
        ("distill", {"meta_every": 0}, "every"),
        ("distill", {"low_pass": 0}, "low_pass"),
    ],
)
def test_what_is_wrong_with_the_student_is_said_before_the_folder_is_claimed(tmp_path, part, wrong, message):
    config = tiny_config(write_photos(tmp_path / "photos"), tmp_path / "run")
    student = replace(config.student, **{part: replace(getattr(config.student, part), **wrong)})
    with pytest.raises(ConfigError, match=message):
        train(replace(config, student=student))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"accumulate": 0}, {"warmup": -1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*; expected at least"):
        OptimConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"log_every": 0}, {"checkpoint_every": 0}, {"workers": -1}])
def test_runtime_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*; expected at least"):
        RuntimeConfig(**wrong)


def test_other_masks_to_evaluate_with_are_another_run(tmp_path):
    config = tiny_config(write_photos(tmp_path / "photos"), tmp_path / "run")
    train(config)
    stand_ins.irregular_test_masks(tmp_path / "masks")
    with pytest.raises(ConfigError, match="belongs to another run: test_masks_sha256 was None"):
        train(replace(config, evaluation=replace(config.evaluation, masks=tmp_path / "masks")))


def test_held_out_photos_in_the_same_folder_do_not_train(tmp_path):
    photos = write_photos(tmp_path / "photos")
    write_photos(photos / "val", count=2)
    config = tiny_config(photos, tmp_path / "run")
    with pytest.warns(KDInpaintWarning, match="2 photos of .* are held out for evaluation; training leaves them out"):
        sources = open_sources(photos, config.data, EvaluationConfig(photos=photos / "val"), in_memory=False)
    assert [file.parent for file in sources.photos] == 6 * [photos]
    with pytest.raises(DataError, match="no photo that is not held out"):
        open_sources(photos, config.data, EvaluationConfig(photos=photos), in_memory=False)


def test_photos_that_cannot_be_used_do_not_move_the_folder_of_the_others(tmp_path):
    held_out = tmp_path / "held out"
    write_photos(held_out / "a", count=2)
    write_photos(held_out / "b", count=1, size=20)  # too small
    photos = write_photos(tmp_path / "photos")
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    config = tiny_config(photos, tmp_path / "run")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        results = train(replace(config, evaluation=replace(config.evaluation, photos=held_out)))
    assert any("gone.png" in str(warning.message) for warning in said)
    assert results["models"]["student"]["overall"]["count"] == 6


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
