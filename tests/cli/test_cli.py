"""The commands as a user types them, in this process."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stand_ins
from PIL import Image

from kdinpaint import create_model
from kdinpaint._core.errors import KDInpaintError
from kdinpaint.cli import demo, train
from kdinpaint.cli.evaluate import EvaluateConfig, _manifest
from kdinpaint.cli.main import main
from kdinpaint.models import save_model

TINY = [
    "--model=kdinpaint_tiny",
    "--data.size=32",
    "--teacher.optim.steps=2",
    "--teacher.optim.batch=2",
    "--student.optim.steps=2",
    "--student.optim.batch=2",
    "--evaluation.per-bin=1",
    "--runtime.device=cpu",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(4):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((56, 48), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", f"--photos={photos}", f"--out={out}", *TINY])
    return out


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_train_writes_everything_it_promises(run: Path) -> None:
    expected = {
        "config.json",
        "manifest.json",
        "metrics.json",
        "contact_sheet.png",
        "tensorboard",
        "teacher",
        "student",
    }
    assert {p.name for p in run.iterdir()} == expected
    for stage in ("teacher", "student"):
        assert {p.name for p in (run / stage).iterdir()} == {"checkpoint.pt", "model.safetensors", "config.json"}
        assert list((run / "tensorboard" / stage).glob("events.*"))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["manifest"] == json.loads((run / "manifest.json").read_text())["hash"]
    assert {"psnr", "ssim", "hole_psnr", "hole_l1"} <= set(metrics["models"]["student"]["overall"]["metrics"])
    assert metrics["environment"]["torch"]


@pytest.mark.filterwarnings("default::kdinpaint._core.errors.KDInpaintWarning")
def test_evaluate_on_other_photos_and_mask_files(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, width in enumerate((4, 8, 12, 16)):
        mask = np.zeros((48, 48), np.uint8)
        mask[:, :width] = 255
        Image.fromarray(mask).save(masks / f"{number}.png")
    main(["evaluate", str(run), f"--photos={photos}", f"--masks={masks}", "--size=32", "--per-bin=2", "--device=cpu"])
    printed, said = capsys.readouterr()
    assert "warning: No mask has a hole ratio in (0.4, 0.5], (0.5, 0.6]" in said
    assert "PSNR of the hole alone" in printed
    folder = Path(re.search(r"Results: (.*)", printed)[1])
    assert folder.parent == run / "evaluation"
    assert {p.name for p in folder.iterdir()} == {"manifest.json", "metrics.json", "contact_sheet.png"}
    again = tmp_path / "again"
    main(["evaluate", str(run), f"--photos={photos}", f"--manifest={folder / 'manifest.json'}", f"--out={again}"])
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (folder, again))
    assert first["models"]["student"]["records"] == second["models"]["student"]["records"]


def test_evaluate_takes_the_test_masks_of_two_archives_under_one_root(tmp_path: Path) -> None:
    stand_ins.irregular_training_masks(tmp_path, count=50)
    stand_ins.irregular_test_masks(tmp_path)
    stand_ins.save(tmp_path / "photos", "0.png", stand_ins.picture(0, (256, 256)))
    config = EvaluateConfig(run=tmp_path, photos=tmp_path / "photos", masks=tmp_path, per_bin=2)
    ratios = [entry.ratio for entry in _manifest(config).entries]
    assert [int(10 * ratio) for ratio in ratios] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_evaluate_enlarges_small_photos_if_asked_to(tmp_path: Path) -> None:
    stand_ins.save(tmp_path, "0.png", stand_ins.picture(0, (178, 218)))
    config = EvaluateConfig(run=tmp_path, photos=tmp_path, per_bin=1)
    with pytest.raises(KDInpaintError, match="None of the 1 photographs"):
        _manifest(config)
    entries = _manifest(dataclasses.replace(config, min_side=178)).entries
    assert {entry.window for entry in entries} == {(20, 0, 178)}


def test_evaluate_without_inpainting_network(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "evaluate", str(run / "teacher"), f"--photos={photos}")
    assert "holds no inpainting network, only teacher" in message


def test_inpaint_one_photo_at_its_own_size(run: Path, photos: Path, tmp_path: Path) -> None:
    mask = np.zeros((48, 56), np.uint8)
    mask[10:30, 5:25] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    main(
        ["inpaint", str(photos / "0.png"), str(tmp_path / "mask.png"), "-o", str(tmp_path / "out.png"), "-w", str(run)]
    )
    before, after = (np.asarray(Image.open(p)) for p in (photos / "0.png", tmp_path / "out.png"))
    assert (before[mask == 0] == after[mask == 0]).all()
    assert (before[mask != 0] != after[mask != 0]).any()
    Image.fromarray(255 - mask).save(tmp_path / "inverse.png")
    inverse = tmp_path / "inverse_out.png"
    arguments = [str(photos / "0.png"), str(tmp_path / "inverse.png"), "-o", str(inverse), "-w", str(run)]
    main(["inpaint", *arguments, "--polarity=known"])
    assert (np.asarray(Image.open(inverse)) == after).all()


def test_inpaint_folders_paired_by_name(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    mask = np.zeros((48, 56), np.uint8)
    mask[:9] = 255
    for number in range(3):
        Image.fromarray(mask).save(masks / f"{number}.bmp")
    arguments = ["inpaint", str(photos), str(masks), "-o", str(out), "-w", str(run)]
    assert "1 names are in only one of" in fails(capsys, *arguments)
    assert not out.exists()
    Image.fromarray(mask).save(masks / "3.bmp")
    main(arguments)
    assert sorted(p.name for p in out.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--photos=nowhere", "--out=run"], "nowhere"),
        (["train", "--photos=.", "--out=run", "--model=unet"], "no image|is not a student"),
        (["inpaint", "a.png", "b.png", "-o", "c.png", "-w", "nothing"], "there are no weights at nothing"),
        (["evaluate", "nothing", "--photos=."], "there are no weights"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = fails(capsys, *arguments)
    assert text.startswith("error: ")
    assert re.search(message, text)
    assert "Traceback" not in text


def test_photos_smaller_than_the_crop(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "train", f"--photos={photos}", f"--out={tmp_path / 'run'}", "--data.size=128")
    assert "128" in message
    assert "56 x 48" in message
    assert not (tmp_path / "run").exists(), "nothing is written before the photos are known to be good"


def test_truncated_weights_are_one_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(create_model("kdinpaint_tiny"), tmp_path / "weights")
    file = tmp_path / "weights" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    Image.new("L", (56, 48), 255).save(tmp_path / "mask.png")
    output = tmp_path / "out.png"
    output.write_bytes(b"an earlier result")
    arguments = [str(photos / "0.png"), str(tmp_path / "mask.png"), "-o", str(output), "-w", str(tmp_path / "weights")]
    assert "is damaged or not a safetensors file" in fails(capsys, "inpaint", *arguments)
    assert output.read_bytes() == b"an earlier result"


@pytest.mark.parametrize("command", ["train", "evaluate", "inpaint", "inspect", "export", "demo"])
def test_help_is_made_from_the_configuration(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "default:" in capsys.readouterr().out


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--photos=a", "--out=b"])
    assert stop.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_without_the_extra_the_command_names_it() -> None:
    code = "import sys; sys.modules['tyro'] = None\nfrom kdinpaint.cli.main import main\nmain(['train'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'kdinpaint[train]'" in done.stderr


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "kdinpaint", "--help"], capture_output=True, text=True, check=True)
    assert "inpaint" in done.stdout


@pytest.mark.slow
def test_demo_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    arguments = ["demo", f"--out={out}", "--teacher-steps=4", "--student-steps=4", "--per-bin=2"]
    main(arguments)
    printed = capsys.readouterr().out
    assert "distilled - plain:" in printed
    assert {"contact_sheet.png", "features.png", "metrics.json", "config.json", "tensorboard"} <= {
        p.name for p in out.iterdir()
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["models"]) == {"plain", "distilled"}
    assert metrics["models"]["distilled"]["parameters"] > metrics["models"]["plain"]["parameters"]
    main(arguments)  # finished stages are not trained again
    assert json.loads((out / "metrics.json").read_text())["train_seconds"] == metrics["train_seconds"]


def test_demo_students_start_equal() -> None:
    students = demo._students(seed=3)
    distilled = students["distilled"].state_dict()
    assert all((v == distilled[k]).all() for k, v in students["plain"].state_dict().items())


def test_demo_needs_two_photos(photos: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "0.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(KDInpaintError, match="holds a single photo"):
        demo.run_demo(demo.DemoConfig(photos=lone, out=tmp_path / "run"))
