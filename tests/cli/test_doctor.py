"""`kdinpaint doctor`: what it says, and whether training can start."""

import dataclasses

import pytest
import stand_ins
import torch

from kdinpaint.cli.doctor import duration
from kdinpaint.cli.estimate import estimate_run
from kdinpaint.cli.main import main
from kdinpaint.training import PRESETS


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
    masks = f"--data.masks {place / 'masks'} --evaluation.masks {place / 'masks'}"
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
    preset = PRESETS["paper-celeba"]
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
    assert scaled.memory == pytest.approx(direct.memory, rel=0.25)
    assert 0.2 < scaled.student / direct.student < 5, "a busy machine"
    steps = (preset.teacher.optim.steps, preset.student.optim.steps)
    assert scaled.total == pytest.approx(scaled.teacher * steps[0] + scaled.student * steps[1])


def test_durations():
    assert [duration(s) for s in (40, 720, 18_000, 800_000)] == ["40 s", "12.0 min", "5.0 h", "9.3 days"]
