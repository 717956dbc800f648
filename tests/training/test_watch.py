"""Evaluation on the way: it is there, and training does not notice."""

from dataclasses import replace

import pytest
from harness import assert_equal
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_config, write_photos

from kdinpaint.models import load_model
from kdinpaint.training import train


@pytest.mark.slow
def test_numbers_and_samples_appear_and_weights_stay_the_same(tmp_path):
    photos = write_photos(tmp_path / "photos")
    plain = tiny_config(photos, tmp_path / "plain")
    watched = replace(plain, out=tmp_path / "watched", evaluation=replace(plain.evaluation, every=5))
    for config in (plain, watched):
        train(config)
    states = [load_model(config.out / "student").state_dict() for config in (plain, watched)]
    assert_equal(*states)
    samples = tmp_path / "watched" / "student" / "samples"
    assert sorted(p.name for p in samples.iterdir()) == ["0000005.png", "0000010.png"]
    with Image.open(samples / "0000010.png") as sheet:
        assert sheet.width > 3 * 32
    events = EventAccumulator(str(tmp_path / "watched" / "tensorboard" / "student")).Reload()
    assert [event.step for event in events.Scalars("eval/psnr")] == [5, 10]
    assert [event.step for event in events.Images("eval/samples")] == [5, 10]
    assert not (tmp_path / "watched" / "teacher" / "samples").exists()
