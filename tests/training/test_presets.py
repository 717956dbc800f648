import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import stand_ins

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.data import PairManifest, StoredPhotos
from kdinpaint.models import list_models
from kdinpaint.training import PRESETS, DataConfig, EvaluationConfig, OptimConfig, train
from kdinpaint.training.presets import find_preset, parse_budget
from kdinpaint.training.sources import DATASETS, open_dataset, open_masks, open_sources


@pytest.mark.parametrize(
    ("name", "dataset", "steps"),
    [("paper-celeba", "celeba", 400_000), ("paper-paris", "paris", 400_000), ("paper-places2", "places2", 2_500_000)],
)
def test_presets_hold_what_the_paper_says(name, dataset, steps):
    preset = PRESETS[name]
    assert (preset.name, preset.data.dataset, preset.data.size) == (name, dataset, 256)
    assert preset.data.hole_ratio == (0.01, 0.6)
    assert (preset.student.optim.steps, preset.student.optim.batch, preset.student.optim.lr) == (steps, 6, 1e-4)
    assert (preset.teacher.optim.batch, preset.teacher.optim.lr) == (6, 1e-4)
    assert preset.student.distill.meta_lr == 1e-4
    assert preset.model in list_models()
    json.dumps(preset.to_dict())


def test_budget_scales_iterations_and_evaluation_alike():
    whole = PRESETS["paper-celeba"]
    assert whole.scaled(1) is whole
    tenth = whole.scaled(0.1)
    assert (tenth.student.optim.steps, tenth.teacher.optim.steps) == (40_000, 10_000)
    assert tenth.evaluation.per_bin == whole.evaluation.per_bin // 10
    assert (tenth.student.optim.lr, tenth.student.distill.meta_lr) == (1e-4, 1e-4)
    tiny = whole.scaled(1e-4)
    assert (tiny.student.optim.steps, tiny.teacher.optim.steps, tiny.evaluation.per_bin) == (40, 10, 20)
    assert (tiny.student.optim.lr, tiny.student.distill.meta_lr) == (2e-4, 1e-3)
    assert tiny.data == whole.data
    assert dataclasses.replace(tiny.student.optim, steps=1, lr=1) == dataclasses.replace(
        whole.student.optim, steps=1, lr=1
    )
    assert whole.scaled(2).evaluation.per_bin == whole.evaluation.per_bin
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="budget is"):
            whole.scaled(wrong)


def test_budgets_as_people_write_them():
    assert [parse_budget(text) for text in ("0.25", "1", "1%", " 0.5 %")] == [0.25, 1.0, 0.01, 0.005]
    for wrong in ("", "fast", "0", "-1%", "nan", "1h"):
        with pytest.raises(ConfigError, match="expected a share"):
            parse_budget(wrong)
    assert find_preset("paper-paris", 0.5).student.optim.steps == 200_000
    with pytest.raises(ConfigError, match="preset is 'paper'"):
        find_preset("paper")


def test_config_is_the_preset_with_places():
    config = PRESETS["paper-paris"].config(photos=Path("a"), out=Path("b"))
    assert (config.photos, config.out) == (Path("a"), Path("b"))
    preset = PRESETS["paper-paris"].scaled(0.5)
    config = preset.config(photos=Path("a"), out=Path("b"))
    for name in ("model", "data", "teacher", "student", "comparator", "evaluation", "runtime"):
        assert getattr(config, name) == getattr(preset, name)
    assert (config.comparator.steps, config.comparator.batch) == (200_000, 6)


def small(preset, root, out, **data):
    """A preset on a stand-in, two steps of the smallest network at 32 pixels."""
    preset = PRESETS[preset]
    optim = OptimConfig(steps=2, batch=2)
    config = preset.config(photos=root, out=out)
    return dataclasses.replace(
        config,
        model="kdinpaint_tiny",
        data=dataclasses.replace(config.data, size=32, **data),
        teacher=dataclasses.replace(config.teacher, optim=optim),
        student=dataclasses.replace(config.student, optim=optim),
        evaluation=EvaluationConfig(per_bin=1),
        runtime=dataclasses.replace(config.runtime, workers=0, device="cpu"),
    )


def test_from_celeba_and_mask_files_to_metrics(tmp_path):
    stand_ins.celeba(tmp_path / "celeba")
    stand_ins.irregular_test_masks(tmp_path / "masks")
    stand_ins.irregular_training_masks(tmp_path / "raw")
    config = small("paper-celeba", tmp_path / "celeba", tmp_path / "run", masks=tmp_path / "raw")
    config = dataclasses.replace(config, evaluation=EvaluationConfig(per_bin=1, masks=tmp_path / "masks"))
    results = train(config)
    assert [part["count"] for part in results["models"]["student"]["bins"]] == [1] * 6
    manifest = PairManifest.load(tmp_path / "run" / "manifest.json")
    assert {entry.window for entry in manifest.entries} == {(20, 0, 178)}
    assert {entry.image for entry in manifest.entries} == {"000008.jpg", "000009.jpg", "000010.jpg"}
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["data"]["dataset"] == "celeba"
    assert len(content["masks_sha256"]) == 64
    (tmp_path / "raw").rename(tmp_path / "elsewhere")
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, masks=tmp_path / "elsewhere"))
    assert train(moved)["models"]["student"]["records"] == results["models"]["student"]["records"]
    next((tmp_path / "elsewhere").rglob("*.png")).unlink()
    with pytest.raises(ConfigError, match="masks_sha256 was"):
        train(moved)


def test_celeba_is_enlarged_for_evaluation(tmp_path):
    stand_ins.celeba(tmp_path)
    sources = open_sources(tmp_path, DataConfig(dataset="celeba", size=256), EvaluationConfig(), in_memory=True)
    assert isinstance(sources.photos, StoredPhotos)
    assert (len(sources.photos), len(sources.held_out), sources.min_side) == (5, 3, 178)
    assert sources.photos[0].shape == (3, 256, 256)
    assert "in memory" in sources.photos.store.place(0)
    with pytest.raises(DataError, match="None of the 3 photographs"):
        PairManifest.build(sources.held_out, size=256, masks=open_generated(), per_bin=1, seed=0)
    manifest = PairManifest.build(
        sources.held_out, size=256, masks=open_generated(), per_bin=1, seed=0, min_side=sources.min_side
    )
    assert manifest.pairs(tmp_path / "img_align_celeba")[0]["image"].shape == (3, 256, 256)


def open_generated():
    from kdinpaint.data import MaskGenerator

    return MaskGenerator()


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "shards"])
def test_every_data_set_opens_by_its_name(tmp_path, name):
    if name == "celeba":
        stand_ins.celeba(tmp_path)
    elif name == "paris":
        stand_ins.paris(tmp_path, train=1, test=1)
    else:
        variant = "_challenge" if "challenge" in name else ""
        stand_ins.places2(tmp_path, resolution="large" if name.endswith("large") else "256", variant=variant, each=1)
    data = DataConfig(dataset=name, size=64)
    assert min(open_dataset(tmp_path, data, "train")[0].shape[1:]) >= 64
    assert len(open_sources(tmp_path, data, EvaluationConfig(per_bin=1), in_memory=False).held_out) >= 1


def test_as_many_held_out_photos_as_pairs(tmp_path):
    stand_ins.places2(tmp_path, val=20)
    data = DataConfig(dataset="places2", size=256)
    held_out = open_sources(tmp_path, data, EvaluationConfig(per_bin=2), in_memory=False).held_out
    assert [int(path.stem[-2:]) for path in held_out] == [1, 2, 4, 6, 7, 9, 11, 12, 14, 16, 17, 19]


def test_masks_of_ones_own_may_have_either_polarity(tmp_path):
    stand_ins.irregular_training_masks(tmp_path / "raw")
    inner = tmp_path / "raw" / "irregular_mask" / "disocclusion_img_mask"
    for root in (tmp_path / "raw", inner):
        assert open_masks(root).augment
    inner.rename(tmp_path / "mine")
    masks = open_masks(tmp_path / "mine", ratio=(0.0, 0.2))  # no warning: nobody said these are NVIDIA's
    assert (masks.polarity, masks.augment) == ("known", False)
    assert masks((64, 64), np.random.default_rng(0)).mean() < 0.2


def test_both_nvidia_archives_under_one_root(tmp_path):
    """Each part takes its own archive, and the test masks are not read upside down."""
    stand_ins.irregular_training_masks(tmp_path, count=50)
    stand_ins.irregular_test_masks(tmp_path)
    masks, test = open_masks(tmp_path), open_masks(tmp_path, "test")
    assert (len(masks), masks.polarity, masks.augment) == (50, "known", True)
    assert (len(test), test.polarity, test.augment) == (12, "hole", False)
    assert [int(10 * ratio) for ratio in test.ratios] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    stand_ins.celeba(tmp_path / "faces")
    evaluation = EvaluationConfig(masks=tmp_path)
    sources = open_sources(tmp_path / "faces", DataConfig(dataset="celeba"), evaluation, in_memory=False)
    assert sources.test_masks.paths == test.paths


def test_the_training_archive_alone_can_be_evaluated_with(tmp_path):
    stand_ins.irregular_training_masks(tmp_path)
    masks = open_masks(tmp_path, "test")
    assert (masks.polarity, masks.augment) == ("known", False)
    stand_ins.irregular_test_masks(tmp_path / "b")
    assert not open_masks(tmp_path / "b").augment


def test_shards_of_any_photos(tmp_path):
    stand_ins.paris(tmp_path / "a", train=3, test=2)
    stand_ins.pack(tmp_path / "0.tar", sorted((tmp_path / "a").rglob("*.JPG")), root=tmp_path / "a")
    data = DataConfig(dataset="shards", size=64)
    with pytest.raises(DataError, match=r"Pass their folder as --evaluation\.photos"):
        open_sources(tmp_path, data, EvaluationConfig(), in_memory=False)
    evaluation = EvaluationConfig(photos=tmp_path / "a" / "paris_eval_gt")
    sources = open_sources(tmp_path, data, evaluation, in_memory=False)
    assert (len(sources.photos), len(sources.held_out)) == (3, 2)
    assert sources.photos[0].shape == (3, 135, 234), "a quarter of 537 x 936 still has two windows of 64"


def test_an_unknown_data_set(tmp_path):
    with pytest.raises(ConfigError, match="dataset is ''; expected one of 'celeba'"):
        open_dataset(tmp_path, DataConfig(), "train")
