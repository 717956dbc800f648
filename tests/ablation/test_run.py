"""Ablations run, go on, survive the failure of a cell, and come out the same whichever way."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_run import write_photos
from torch.testing import assert_close

from kdinpaint._core.errors import ConfigError, DataError, KDInpaintError, WeightsError
from kdinpaint.ablation import AblationPlan, Cell, CellSettings, Grid, change, report, run_ablation
from kdinpaint.ablation.cell import CellTask
from kdinpaint.ablation.features import draw_features
from kdinpaint.ablation.timm_teacher import make_timm
from kdinpaint.cli.main import main
from kdinpaint.models import load_model

CROSS = "student.distill.cross"
GRID = Grid("tiny", (Cell("off", {CROSS: 0, "student.distill.self_distill": 0}), Cell("on")), "off")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(write_photos(tmp_path_factory.mktemp("photos")).glob("*.png"))


def plan(photos: list[Path], work: Path, grid: Grid = GRID, **changed: object) -> AblationPlan:
    base = CellSettings()
    values = {"data.size": 32, "student.optim.steps": 6, "teacher.optim.steps": 3, "model.channels": [4, 6]}
    for name, value in {**values, "student.optim.batch": 2, "teacher.optim.batch": 2}.items():
        base = change(base, name, value)
    made = AblationPlan(
        grid=grid, base=base, photos=photos[:4], held_out=photos[4:], work=work, seeds=(0, 1), per_bin=2, mask_pool=8,
        device="cpu", eval_every=3, eval_pairs=4, checkpoint_every=2,
    )  # fmt: skip
    return replace(made, **changed)


def numbers(content: dict) -> str:
    """Everything that must not depend on how the run went."""
    kept = {
        cell: {
            seed: {
                "records": run["records"],
                "mechanism": run["mechanism"],
                "curve": [{k: v for k, v in point.items() if k != "seconds"} for point in run["curve"]],
            }
            for seed, run in runs.items()
        }
        for cell, runs in content["results"].items()
    }
    return json.dumps(kept, sort_keys=True)


@pytest.fixture(scope="module")
def finished(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    work = tmp_path_factory.mktemp("work")
    return run_ablation(plan(photos, work)), work


def test_a_result_holds_what_it_promises(finished: tuple[dict, Path]) -> None:
    content, _ = finished
    run = content["results"]["on"]["1"]
    assert [point["step"] for point in run["curve"]] == [3, 6]
    assert len(run["records"]["psnr"]) == len(content["ratio"]) == len(content["image"]) == 12
    assert [part["count"] for part in run["bins"]] == [2] * 6
    assert [len(run["mechanism"][key]) for key in ("hole_gap", "readout_gap", "mask_probe_auc")] == [2, 2, 2]
    assert [list(level) for level in run["mechanism"]["readout_gap"]] == [["all", "deeper"], ["all"]]
    assert len(run["mechanism"]["adaptive"]) == 4
    assert run["mechanism"]["importance"]["cross"][0]["channels"] == 4
    assert "importance" not in content["results"]["off"]["1"]["mechanism"]
    assert {"torch", "processor"} <= set(content["environment"])
    assert len(content["manifest"]) == len(content["photos_sha256"]) == 64
    assert content["failures"] == {}
    assert content["grid"]["cells"][0]["parameters"] == run["parameters"]
    json.dumps(content, allow_nan=False)


def test_seeds_and_cells_share_teachers_and_differ_otherwise(finished: tuple[dict, Path]) -> None:
    content, work = finished
    assert len(list((work / "teachers").iterdir())) == 2, "one a seed"
    psnr = {(c, s): run["records"]["psnr"][0] for c, runs in content["results"].items() for s, run in runs.items()}
    assert len(set(psnr.values())) == 4


def test_what_is_done_is_not_done_again(
    finished: tuple[dict, Path], photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, work = finished
    monkeypatch.setattr(CellTask, "run", lambda *_: pytest.fail("nothing is left to do"))
    assert numbers(run_ablation(plan(photos, work))) == numbers(content)


def test_the_feature_picture(finished: tuple[dict, Path], photos: list[Path], tmp_path: Path) -> None:
    content, work = finished
    gaps = draw_features(content, work, photos[4:], tmp_path / "ghost.png", seed=1)
    assert {name: len(levels) for name, levels in gaps.items()} == {"off": 2, "on": 2}
    with Image.open(tmp_path / "ghost.png") as image:
        assert image.width > 500
    with pytest.raises(ConfigError, match="no result for seed 1; did you mean on"):
        draw_features(content, work, photos[4:], tmp_path / "x.png", cells=["onn"], seed=1)
    with pytest.raises(DataError, match="another manifest"):
        draw_features({**content, "manifest": "0"}, work, photos[4:], tmp_path / "x.png")


def test_other_settings_are_refused_in_the_same_folder(finished: tuple[dict, Path], photos: list[Path]) -> None:
    _, work = finished
    other = plan(photos, work)
    with pytest.raises(ConfigError, match=r"cross was 0\.01, now 0\.3"):
        run_ablation(replace(other, base=change(other.base, CROSS, 0.3)))


def test_interrupted_it_goes_on_to_the_same_numbers(
    finished: tuple[dict, Path], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdinpaint.ablation import cell

    real, calls = cell._Curve.__call__, 0

    def stop(self: object, stage: object) -> None:
        nonlocal calls
        real(self, stage)
        calls += 1
        if calls == 9:  # in the second cell, past a checkpoint and past a point of the curve
            raise KeyboardInterrupt

    monkeypatch.setattr(cell._Curve, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(plan(photos, tmp_path))
    assert len(list(tmp_path.glob("cells/*/*/result.json"))) == 1
    monkeypatch.undo()
    assert numbers(run_ablation(plan(photos, tmp_path))) == numbers(finished[0])


@pytest.mark.slow
def test_side_by_side_gives_the_same_networks(finished: tuple[dict, Path], photos: list[Path], tmp_path: Path) -> None:
    """To rounding, which differs between processes; their answers are compared, as Adam makes steps of zero gradients
    out of it (the attention's key bias has no effect)."""
    content = run_ablation(plan(photos, tmp_path, jobs=2, seeds=(0,)))
    assert content["failures"] == {}
    image, hole = torch.rand(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) < 0.3).float()

    def answer(work: Path, cell: str, seed: int) -> torch.Tensor:
        with torch.inference_mode():
            return load_model(work / "cells" / cell / str(seed) / "student")(image, hole)

    for cell in content["results"]:
        alone = answer(finished[1], cell, 0)
        assert_close(answer(tmp_path, cell, 0), alone, rtol=0, atol=1e-3)
        assert (answer(finished[1], cell, 1) - alone).abs().max() > 1e-2


def test_a_cell_that_fails_costs_no_other(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = CellTask.run

    def fail(self: CellTask, progress: object) -> None:
        if self.cell == "on":
            raise RuntimeError("no memory")
        real(self, None)

    monkeypatch.setattr(CellTask, "run", fail)
    content = run_ablation(plan(photos, tmp_path, seeds=(0,)))
    assert set(content["results"]["off"]) == {"0"}
    assert content["results"]["on"] == {}
    assert "no memory" in content["failures"]["on, seed 0"]
    assert "on, seed 0 failed" in capsys.readouterr().err
    monkeypatch.undo()
    assert run_ablation(plan(photos, tmp_path, seeds=(0,)))["failures"] == {}, "the same call tries again"


def test_every_cell_failing_is_an_error(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CellTask, progress: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(CellTask, "run", fail)
    with pytest.raises(KDInpaintError, match="every cell failed; the first: RuntimeError: no memory"):
        run_ablation(plan(photos, tmp_path, seeds=(0,)))


def test_teachers_of_every_kind(photos: list[Path], tmp_path: Path) -> None:
    cells = (Cell("trained"), Cell("random", {"teacher.kind": "random"}), Cell("wide", {"teacher.code_channels": 48}))
    content = run_ablation(plan(photos, tmp_path, Grid("teachers", cells, "trained"), seeds=(0,), eval_every=0))
    assert len(list((tmp_path / "teachers").iterdir())) == 3
    assert content["failures"] == {}
    assert all(runs["0"]["curve"] == [] for runs in content["results"].values())


TIMM = Grid(
    "timm",
    (
        Cell("off", {CROSS: 0.0, "student.distill.self_distill": 0.0}),
        Cell("taught", {CROSS: 0.1, "student.distill.self_distill": 0.0, "teacher.kind": "timm"}),
    ),
    "off",
)


def scratch(photos: list[Path], work: Path, **settings: object) -> AblationPlan:
    made = plan(photos, work, TIMM, seeds=(0,), eval_every=0)
    base = change(change(made.base, "student.init", "scratch"), "teacher.pretrained", False)
    for name, value in settings.items():
        base = change(base, name.replace("__", "."), value)
    return replace(made, base=base)


def test_an_encoder_of_timm_teaches(photos: list[Path], tmp_path: Path) -> None:
    content = run_ablation(scratch(photos, tmp_path))
    assert content["failures"] == {}
    off, taught = (content["results"][cell]["0"] for cell in ("off", "taught"))
    assert off["parameters"] == taught["parameters"], "the readouts are left behind"
    assert off["records"] != taught["records"]
    assert "hole_gap" not in taught["mechanism"]
    assert len(taught["mechanism"]["readout_gap"]) == len(taught["mechanism"]["importance"]["cross"]) == 2
    assert [level["channels"] for level in taught["mechanism"]["importance"]["cross"]] == [64, 64]
    assert "(taught had another teacher)" in report(content)
    with pytest.raises(ConfigError, match="taught were taught by an encoder of timm"):
        draw_features(content, tmp_path, photos[4:], tmp_path / "x.png", cells=["taught"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student__init": "teacher"}, "expected student.init=scratch"),
        ({"teacher__timm": "resnet17"}, "timm has no model 'resnet17'"),
        ({"teacher__timm": "swin_tiny_patch4_window7_224"}, "student's levels have 2, 4; choose an encoder"),
    ],
)
def test_encoders_that_cannot_teach(
    settings: dict[str, object], message: str, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdinpaint.ablation.run.run_tasks", lambda *_, **__: pytest.fail("nothing may be trained"))
    with pytest.raises(ConfigError, match=message):
        run_ablation(scratch(photos, tmp_path, **settings))


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(WeightsError, match=r"cannot get the weights of resnet18 \(OSError: no route.*pretrained=false"):
        make_timm(CellSettings(), 2, 0, pretrained=True)


def test_plans_that_cannot_work(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="distinct seeds"):
        run_ablation(plan(photos, tmp_path, seeds=(0, 0)))


def test_the_command(photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos[0].parent
    out = tmp_path / "x.json"
    arguments = [
        "ablate", "parts", f"--photos={folder}", f"--held-out={folder}", f"--out={out}", "--size=32", "--seeds", "4",
        "--cells", "plain", "+cross", "--steps=2", "--teacher-steps=2", "--batch=2", "--per-bin=1", "--device=cpu",
        "--mask-pool=8", "--eval-every=0", "--set", "model.channels=[4,6]", "student.distill.importance=uniform",
    ]  # fmt: skip
    main(arguments)
    assert "Difference from **plain**" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["seeds"] == [4]
    assert str(folder) not in out.read_text(), "places on this machine mean nothing elsewhere"
    assert content["command"].startswith("kdinpaint ablate parts --photos DIR --held-out DIR")
    assert content["grid"]["cells"][1]["settings"]["student"]["distill"]["importance"] == "uniform"
    with pytest.raises(SystemExit):
        main(["ablate", "parts", f"--photos={folder}", f"--out={out}"])
    assert "go together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "student.distill.croos=1"])
    assert "did you mean cross" in capsys.readouterr().err
