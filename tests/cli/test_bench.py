"""`kdinpaint bench`, and what is drawn and written from its files."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdinpaint.cli import bench
from kdinpaint.cli.main import main
from kdinpaint.ops.cpp import build

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ["bench", "adaptive-conv", "--shapes", "1,4,8,8", "--rounds=2", "--device=cpu"]
STEP = ["bench", "training-step", "--model=kdinpaint_tiny", "--size=32", "--batch=1", "--rounds=2", "--device=cpu"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    main([*SMALL, "--dtypes=float32", f"--out={folder / 'adaptive_conv_cpu.json'}"])
    main([*STEP, "--ratios", "0.1", "0.5", f"--out={folder / 'training_step_cpu.json'}"])
    return folder


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_adaptive_conv_file(results: Path) -> None:
    content = load(results / "adaptive_conv_cpu.json")
    command = "kdinpaint bench adaptive-conv --shapes 1,4,8,8 --dtypes float32 --rounds 2 --device cpu"
    assert content["command"] == command
    assert {"python", "torch", "torchvision", "onnxruntime", "openvino", "processor", "threads"} <= set(
        content["environment"]
    )
    (case,) = content["cases"]
    assert (case["device"], case["dtype"], case["shape"], case["spread"]) == ("cpu", "float32", [1, 4, 8, 8], 2.0)
    ours = case["contenders"][0]
    assert ours["name"] == "kdinpaint"
    assert ours["runs"] == ("cpp" if build.missing() is None else "torch")
    assert len(ours["speedup"]["training"]["torchvision"]) == 3


def test_adaptive_conv_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, "--dtypes", "bfloat16", "--regions", "0.25", "--spreads", "0", "--threads=1"])
    printed, said = capsys.readouterr()
    assert said == "", "no progress where nobody watches"
    assert "cpu, bfloat16, 1x4x8x8 -> 4, offsets 0 px" in printed
    for text in ("kdinpaint, hole 25%", "torchvision", "conv2d", "fwd + bwd", "x torchvision", "MiB", "torch 2"):
        assert text in printed
    assert re.search(r"torchvision .*refuses autocast on the CPU", printed)


def test_training_step_file(results: Path) -> None:
    content = load(results / "training_step_cpu.json")
    assert content["command"].startswith("kdinpaint bench training-step --model kdinpaint_tiny")
    assert [row["hole_ratio"] for row in content["filler"]] == pytest.approx([0.1, 0.5], abs=0.02)
    for row in content["filler"]:
        share, low, high = row["filler_share"]
        assert low <= share <= high < 1
        assert len(row["level_ratios"]) == 3
    result = content["distillation"]
    assert result["meta_every"] == 10
    plain, usual, due = (result[key]["median"] for key in ("plain", "distilled", "distilled_with_meta"))
    assert min(plain, usual, due, result["teacher_forward"]["median"]) > 0
    assert len(result["cost"]) == 3
    assert list(content["largest_costs"]) == ["plain", "distilled", "filler blocks", "inference"]
    for costs in content["largest_costs"].values():
        shares = [cost["share"] for cost in costs]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1


def test_training_step_measures_the_real_objective() -> None:
    from kdinpaint.cli.training_step import TrainingStep

    step = TrainingStep("kdinpaint_tiny", size=32, batch=1, spread=3.0, precision="no", device="cpu")
    batch, stage = step._batch(0.3), step._stage(distilled=True)
    before = {name: p.clone() for name, p in stage.objective.net.named_parameters()}
    offset = stage.objective.net.encoder.fillers[0].conv1.offset_conv
    spreads = []
    offset.register_forward_hook(lambda module, arguments, output: spreads.append(output.std().item()))
    stage.step = 0
    log = stage._one_step(batch)
    assert {"loss", "task", "cross", "self", "distill_to_task_gradient"} <= set(log), "cross, self and a meta step"
    assert spreads[0] == pytest.approx(3.0, rel=0.5)
    assert all(torch.equal(p, before[name]) for name, p in stage.objective.net.named_parameters())
    stage.step = 1
    assert "distill_to_task_gradient" not in stage._one_step(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SMALL, "--shapes", "2,64"], "expected B,C,H,W"),
        ([*SMALL, "--backends", "mkl"], "backend is 'mkl'"),
        ([*SMALL, "--regions", "2"], "expected a share of the cells"),
        ([*SMALL, "--rounds=1"], "expected at least 2"),
        ([*SMALL, "--threads=0"], "expected at least 1"),
        ([*SMALL, "--device=abacus"], "expected cpu or cuda"),
        ([*SMALL, "--out=/dev/null/x.json"], "cannot make the folder"),
        ([*STEP, "--model=kdinpaint_tiny_plain"], "expected a student with filler blocks"),
        ([*STEP, "--model=unet"], "expected a student with filler blocks"),
        ([*STEP, "--ratios", "0"], "expected more than 0"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_a_wrong_contender_ends_in_an_error_after_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdinpaint.benchmark import adaptive_conv

    monkeypatch.setitem(adaptive_conv.TOLERANCE, "float32", 1e-12)
    out = tmp_path / "wrong.json"
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "--dtypes=float32", f"--out={out}"])
    assert stop.value.code == 2
    assert "not timed, because wrong: kdinpaint (differs from the float64 reference by" in capsys.readouterr().err
    assert "refused" in load(out)["cases"][0]["contenders"][0]


def test_ctrl_c_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "earlier.json"
    out.write_text("earlier")

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure_case", interrupted)
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "--threads=2", f"--out={out}"])
    assert stop.value.code == 130
    assert "No file was written" in capsys.readouterr().err
    assert out.read_text() == "earlier"
    assert torch.get_num_threads() == threads
    assert [path.name for path in tmp_path.iterdir()] == ["earlier.json"]


@pytest.mark.parametrize("name", ["adaptive-conv", "training-step"])
def test_help_is_made_from_the_configuration(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", name, "--help"])
    assert stop.value.code == 0
    assert "default:" in capsys.readouterr().out


def test_figures_come_from_the_files_alone(results: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "figures.py"), f"--out={tmp_path}", f"--results={results}"]
    subprocess.run(command, check=True, capture_output=True)
    measured = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(measured) == {"speed_ratio.png", "speed_hole.png", "speed_step.png"}
    subprocess.run([*command[:3], f"--results={tmp_path / 'none'}"], check=True, capture_output=True)
    empty = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert all(empty[name] != picture for name, picture in measured.items())


def test_tables_are_made_from_the_files(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    table = tables.adaptive_conv(load(results / "adaptive_conv_cpu.json"))
    assert "| 1 x 4 x 8 x 8, float32, offsets 2 px |" in table
    assert "x torchvision" in table
    assert "25%" in table
    step = tables.training_step(load(results / "training_step_cpu.json"))
    assert "a meta step every 10" in step
    assert step.count("| plain, `") == 3
