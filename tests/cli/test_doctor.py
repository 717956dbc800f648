"""`kdinpaint doctor`: what it says, and whether training can start."""

import dataclasses
import shlex
from pathlib import Path

import pytest
import stand_ins
import torch

from kdinpaint.cli import train
from kdinpaint.cli.doctor import duration
from kdinpaint.cli.estimate import Estimate, estimate_run
from kdinpaint.cli.main import main
from kdinpaint.training import PRESETS
from kdinpaint.training.sources import open_sources


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    stand_ins.celeba(root / "celeba")
    stand_ins.paris(root / "paris", train=2, test=1)
    stand_ins.places2(root / "places", each=1, val=2)
    stand_ins.irregular_test_masks(root / "masks")
    stand_ins.irregular_training_masks(root / "raw")
    return root


def doctor(capsys, *arguments):
    """Exit code and output."""
    code = 0
    try:
        main(["doctor", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out


def advised(out, monkeypatch):
    """The configuration that the printed command trains."""
    seen = []
    monkeypatch.setattr(train, "train", seen.append)
    monkeypatch.setattr(train, "print_results", lambda results: None)
    main(shlex.split(out.splitlines()[-1])[1:])
    return seen[0]


@pytest.mark.parametrize(
    ("name", "preset", "text"),
    [
        ("celeba", "paper-celeba", "train: 5 photos, 162,770 published"),
        ("paris", "paper-paris", "test: 1 photos, 100 published"),
        ("places", "paper-places2", "test: 2 photos, 36,500 published"),
    ],
)
def test_the_papers_sets(place, capsys, name, preset, text):
    code, out = doctor(capsys, place / name, "--masks", place / "masks", "--no-time")
    assert code == 0
    assert text in out
    assert "white means hole, found in the files" in out
    masks = f"--evaluation.masks {place / 'masks'}"  # test masks do not train
    dataset = "places2" if name == "places" else name
    assert out.endswith(f"kdinpaint train --preset {preset} --photos {place / name} --out runs/{dataset} {masks}\n")


def test_raw_training_masks_are_not_for_evaluation(place, capsys):
    code, out = doctor(capsys, place / "paris", "--masks", place / "raw", "--no-time", "--budget=1%")
    assert code == 0
    assert "4 NVIDIA training masks, 55,116 published" in out
    assert "white means known, found in the files; varied at random" in out
    assert "--evaluation.masks" not in out
    assert "--preset paper-paris --budget 1% --photos" in out


def test_what_stops_training_is_exit_code_1(place, tmp_path, capsys):
    code, out = doctor(capsys, tmp_path / "nowhere", "--no-time")
    assert (code, "STOP" in out, "does not exist" in out) == (1, True, True)
    stand_ins.save(tmp_path / "one", "0.png", stand_ins.picture(0, (300, 300)))
    code, out = doctor(capsys, tmp_path / "one", "--no-time")
    assert code == 1
    assert "holds a single photo" in out
    stand_ins.save(tmp_path / "one", "1.png", stand_ins.picture(1, (300, 300)))
    code, out = doctor(capsys, tmp_path / "one", "--no-time")
    assert code == 0
    assert f"kdinpaint train --photos {tmp_path / 'one'} --out runs/mine" in out
    code, out = doctor(capsys, tmp_path / "one", "--no-time", "--masks", place / "paris" / "paris_eval_gt")
    assert code == 1
    assert "is not binary" in out
    stand_ins.celeba(tmp_path / "faces")
    (tmp_path / "faces" / "list_eval_partition.txt").unlink()
    code, out = doctor(capsys, tmp_path / "faces", "--no-time")
    assert code == 1
    assert "expected CelebA's partition" in out


def write_photos(folder, count=4, size=(300, 300)):
    for number in range(count):
        stand_ins.save(folder, f"{number}.png", stand_ins.picture(number, size))
    return folder


def test_the_command_is_the_run_that_was_looked_at(place, tmp_path, capsys, monkeypatch):
    photos = write_photos(tmp_path / "my photos")
    code, out = doctor(capsys, photos, "--preset=paper-celeba", "--budget=1%", "--no-time")
    config = advised(out, monkeypatch)
    assert (code, config.photos, config.data.dataset) == (0, photos, None)
    assert (config.data.size, config.student.optim.steps) == (256, 4000)
    assert len(open_sources(config.photos, config.data, config.evaluation, in_memory=False).held_out) == 1
    masks = place / "masks"
    code, out = doctor(capsys, photos, "--data.size=64", f"--masks={masks}", "--polarity=hole", "--no-time")
    config = advised(out, monkeypatch)
    assert (code, config.data.size, config.student.optim.steps) == (0, 64, 20_000)
    assert (config.data.masks, config.evaluation.masks, config.evaluation.polarity) == (None, masks, "hole")
    code, out = doctor(capsys, place / "places", "--preset=paper-celeba", "--no-time")
    assert advised(out, monkeypatch).data.dataset == "places2"


def test_shards_need_files_to_evaluate_on(tmp_path, capsys, monkeypatch):
    photos = write_photos(tmp_path / "photos")
    (tmp_path / "shards").mkdir()
    stand_ins.pack(tmp_path / "shards" / "0.tar", sorted(photos.iterdir()), root=photos)
    code, out = doctor(capsys, tmp_path / "shards", "--no-time")
    assert (code, "Training can start" in out) == (1, False)
    assert "Pass their folder as --evaluation.photos" in out
    code, out = doctor(capsys, tmp_path / "shards", "--no-time", f"--evaluation.photos={photos}")
    config = advised(out, monkeypatch)
    assert (code, config.data.dataset) == (0, "shards")
    assert "held out: 4 photos" in out
    assert len(open_sources(config.photos, config.data, config.evaluation, in_memory=False).held_out) == 4


def test_own_photos_are_held_to_the_crops_of_their_run(tmp_path, capsys):
    photos = write_photos(tmp_path, size=(200, 220))
    assert doctor(capsys, photos, "--no-time")[0] == 0, "crops of 128"
    code, out = doctor(capsys, photos, "--data.size=256", "--no-time")
    assert code == 1
    assert "have a side below 256 pixels" in out
    assert "Use a smaller --data.size" in out
    assert doctor(capsys, photos, "--budget=1%", "--no-time")[0] == 2, "a share of what?"


def test_what_is_estimated_is_what_is_printed(tmp_path, capsys, monkeypatch):
    seen = []

    def estimate(config, *, device):
        assert "measuring steps of teacher and student" in capsys.readouterr().out, "said before, it takes a while"
        seen.append(config)
        return Estimate(1.0, 2.0, 50_000.0, 1 << 30, torch.device("cpu"), True)

    monkeypatch.setattr("kdinpaint.cli.doctor.estimate_run", estimate)
    code, out = doctor(capsys, write_photos(tmp_path))
    assert code == 0
    assert advised(out, monkeypatch) == seen[0]
    assert "kdinpaint_small: 10,000 steps of the teacher" in out
    assert "--budget" not in out, "there is no preset to take a share of"


def test_both_mask_archives_under_one_root(place, tmp_path, capsys, monkeypatch):
    stand_ins.irregular_training_masks(tmp_path)
    stand_ins.irregular_test_masks(tmp_path)
    code, out = doctor(capsys, place / "paris", "--masks", tmp_path, "--no-time")
    config = advised(out, monkeypatch)
    assert (code, config.data.masks, config.evaluation.masks) == (0, tmp_path, tmp_path)
    assert "\nwarn  masks: 4 NVIDIA training masks, 55,116 published" in out
    assert "\nwarn  test masks: 12 NVIDIA test masks, 12,000 published" in out


def test_one_bad_mask_does_not_hide_the_others(place, tmp_path, capsys):
    stand_ins.irregular_test_masks(tmp_path)
    (tmp_path / "mask" / "testing_mask_dataset" / "00004.png").write_bytes(b"")
    code, out = doctor(capsys, place / "paris", "--masks", tmp_path, "--no-time")
    assert code == 1
    assert "STOP  test masks: 1 of 12 are damaged or not black and white" in out
    assert "hole ratios of 11 files" in out


def test_mistakes_in_options_are_exit_code_2(place, capsys):
    assert doctor(capsys, place / "celeba", "--preset=mine")[0] == 2
    assert doctor(capsys, place / "celeba", "--budget=fast")[0] == 2


def test_time_and_memory_are_told(place, capsys, monkeypatch):
    small = dataclasses.replace(PRESETS["paper-celeba"], model="kdinpaint_tiny")
    monkeypatch.setattr("kdinpaint.training.presets.PRESETS", {"paper-celeba": small})
    code, out = doctor(capsys, place / "celeba", "--device=cpu")
    assert code == 0
    for text in ("time: about", "scaled from one image", "time: --budget", "memory: about", "data: "):
        assert text in out


def test_the_estimate_scales_to_the_batch(monkeypatch):
    """One image scaled to a batch of four, against the batch measured."""
    preset = PRESETS["paper-celeba"].config(photos=Path(), out=Path())
    preset = dataclasses.replace(
        preset,
        model="kdinpaint_small",
        data=dataclasses.replace(preset.data, size=96),
        student=dataclasses.replace(preset.student, optim=dataclasses.replace(preset.student.optim, batch=4)),
    )
    found = []
    for images in (1, 4):
        monkeypatch.setattr("kdinpaint.cli.estimate._IMAGES", images)
        found.append(estimate_run(preset, device="cpu"))
    scaled, direct = found
    assert (scaled.scaled, direct.scaled) == (True, False)
    assert scaled.device == torch.device("cpu")
    assert scaled.memory == pytest.approx(direct.memory, rel=0.1)
    assert 0.2 < scaled.student / direct.student < 5, "a busy machine"
    steps = (preset.teacher.optim.steps, preset.student.optim.steps)
    assert scaled.total == pytest.approx(scaled.teacher * steps[0] + scaled.student * steps[1])


def test_durations():
    assert [duration(s) for s in (40, 720, 18_000, 800_000)] == ["40 s", "12.0 min", "5.0 h", "9.3 days"]
