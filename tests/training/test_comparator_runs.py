"""Comparators in the engine: phases one after the other, exact continuation, and the same command as for students."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_comparators import WIDTHS, batch, small_objective
from tiny_run import write_photos

from kdinpaint import Inpainter, create_model
from kdinpaint.cli.evaluate import EvaluateConfig, run_evaluation
from kdinpaint.errors import ConfigError, WeightsError
from kdinpaint.models import load_model
from kdinpaint.models.comparators import Comparator
from kdinpaint.training import (
    RECIPES,
    ComparatorConfig,
    DataConfig,
    EdgeConnectObjective,
    EvaluationConfig,
    GatedConvObjective,
    OptimConfig,
    PartialConvObjective,
    PluralisticObjective,
    Run,
    RuntimeConfig,
    StudentConfig,
    TrainConfig,
    phases,
    train,
    train_comparator,
)
from kdinpaint.training.checkpoint import load_checkpoint

RUNTIME = RuntimeConfig(device="cpu", checkpoint_every=2, log_every=1)


class Halt(Exception):
    """Stands for the power going off."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def small_parts(monkeypatch):
    """Narrow discriminators and no VGG."""

    monkeypatch.setattr(phases, "comparator_objective", small_objective)


def go(name, photos, folder, *, ema_decay=0.0, size=32):
    run = Run(
        folder,
        config={"name": name},
        data=DataConfig(size=size),
        runtime=RUNTIME,
        seed=0,
        mixed_precision="no",
        photos=sorted(photos.iterdir())[1:],
        held_out=sorted(photos.iterdir())[:1],
    )
    torch.manual_seed(0)
    recipe = RECIPES[name].with_budget(steps=12, batch=2, ema_decay=ema_decay)
    return train_comparator(run, name, create_model(name, **WIDTHS[name]), recipe)


def files(folder):
    found = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("name", WIDTHS)
def test_continues_exactly_where_it_stopped(name, photos, tmp_path, small_parts, monkeypatch):
    decay = 0.9 if name in ("pc", "pic") else 0.0  # averages of counters and of power iterations are in it, too
    go(name, photos, tmp_path / "whole", ema_decay=decay)
    kind = {"pc": PartialConvObjective, "gc": GatedConvObjective, "ec": EdgeConnectObjective}
    cls = kind.get(name, PluralisticObjective)
    real, calls, limit = cls.forward, 0, 5

    def forward(self, data, progress):
        nonlocal calls
        calls += 1
        if calls > limit:
            raise Halt
        return real(self, data, progress)

    monkeypatch.setattr(cls, "forward", forward)
    stops = 0
    for _ in range(8):
        calls = 0
        torch.rand(7)  # another state of the global generator than before
        try:
            go(name, photos, tmp_path / "pieces", ema_decay=decay)
            break
        except Halt:
            stops += 1
    assert stops >= 2
    whole = files(tmp_path / "whole")
    assert files(tmp_path / "pieces") == whole
    assert len(whole) == len(RECIPES[name].phases)
    assert f"{name}/model.safetensors" in whole
    states = [load_checkpoint(tmp_path / side / name / "checkpoint.pt") for side in ("whole", "pieces")]
    if name != "pc":
        adams = [state["extra"]["adam"]["state"] for state in states]
        assert adams[0].keys() == adams[1].keys()
        assert all(torch.equal(adams[0][k][v], adams[1][k][v]) for k in adams[0] for v in adams[0][k])
    critics = [k for k in states[0]["objective"] if k.startswith("discriminators")]
    assert all(torch.equal(states[0]["objective"][k], states[1]["objective"][k]) for k in critics)
    assert bool(critics) == (name != "pc")


def test_phases_hand_on_networks_and_discriminators(photos, tmp_path, small_parts):
    net = go("ec", photos, tmp_path)
    assert [p.name for p in sorted((tmp_path / "phases").iterdir())] == [
        "ec_1_edge",
        "ec_2_completion",
        "ec_3_predicted_edges",
    ]
    stages = [load_model(p) for p in sorted((tmp_path / "phases").iterdir())]
    edges = [stage.edges.decoder[3].weight for stage in stages]
    assert torch.equal(edges[0], edges[1])
    assert torch.equal(edges[1], edges[2])
    assert not torch.equal(edges[2], net.edges.decoder[3].weight)
    assert all(p.requires_grad for p in net.parameters())
    assert not net.training
    checkpoints = [load_checkpoint(p / "checkpoint.pt") for p in sorted((tmp_path / "phases").iterdir())]
    key = "discriminators.edges.convs.0.parametrizations.weight.original"
    assert torch.equal(checkpoints[0]["objective"][key], checkpoints[1]["objective"][key])


def test_crops_that_do_not_fit_are_refused(photos, tmp_path, small_parts):
    with pytest.raises(ConfigError, match="size is 36; gc is trained on crops whose side is a multiple of 8"):
        go("gc", photos, tmp_path, size=36)
    with pytest.raises(ConfigError, match=r"size is 8; pic .* multiple of 8, at least 16"):
        go("pic", photos, tmp_path / "pic", size=8)


def config(photos: Path, out: Path, model: str, **comparator) -> TrainConfig:
    return TrainConfig(
        photos=photos,
        out=out,
        model=model,
        data=DataConfig(size=32),
        comparator=ComparatorConfig(**{"steps": 2, "batch": 2, **comparator}),
        evaluation=EvaluationConfig(per_bin=1),
        runtime=RUNTIME,
    )


def test_the_same_command_trains_measures_and_inpaints(photos, tmp_path):
    out = tmp_path / "run"
    results = train(config(photos, out, "gc"))
    assert list(results["models"]) == ["gc"]
    assert results["models"]["gc"]["parameters"] == 4_052_478
    kept = json.loads((out / "config.json").read_text())
    assert kept["comparator"]["steps"] == 2
    assert kept["recipe"]["phases"] == [{"name": "main", "steps": 2, "share": 1.0, "lr": 1e-4, "schedule": "constant"}]
    assert not {"teacher", "student"} & kept.keys()
    assert isinstance(load_model(out / "gc"), Comparator)
    assert (out / "contact_sheet.png").is_file()
    before = (out / "metrics.json").read_text()
    student = StudentConfig(optim=OptimConfig(steps=9))  # not for a comparator: no difference
    train(replace(config(photos, out, "gc"), student=student))
    assert (
        json.loads(before)["models"]["gc"]["overall"]
        == json.loads((out / "metrics.json").read_text())["models"]["gc"]["overall"]
    )
    image, mask = batch(40)["image"][0], batch(40)["mask"][0, 0]
    filled = Inpainter(out)(image, mask)
    assert torch.equal(filled[:, mask == 0], image[:, mask == 0])
    measured, _ = run_evaluation(
        EvaluateConfig(run=out, photos=photos, size=32, per_bin=1, device="cpu", out=tmp_path / "measured")
    )
    assert list(measured["models"]) == ["gc"]


def test_students_know_nothing_of_comparators_in_their_run_folder(photos, tmp_path):
    from kdinpaint.training.train import description

    kept = description(config(photos, tmp_path, "kdinpaint_tiny"))
    assert "comparator" not in kept
    assert {"teacher", "student"} <= kept.keys()


def test_vgg_that_cannot_be_had_stops_the_run(photos, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(WeightsError, match="no route to host"):
        train(config(photos, tmp_path / "run", "pc"))
    assert not (tmp_path / "run" / "metrics.json").exists()
