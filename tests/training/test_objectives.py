"""What is minimised, and who may be trained by it."""

import math
from dataclasses import replace

import pytest
import torch

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint._core.errors import ConfigError
from kdinpaint.ops import resize_mask
from kdinpaint.training import DistillConfig, LossConfig, StudentObjective, TeacherObjective, inpainting_loss

CHANNELS = (4, 6)


def batch(size: int = 16, hole: bool = True) -> dict[str, torch.Tensor]:
    mask = torch.zeros(2, 1, size, size)
    if hole:
        mask[..., 4:12, 4:12] = 1
    return {"image": torch.rand(2, 3, size, size), "mask": mask}


def objective(**distill: object) -> StudentObjective:
    torch.manual_seed(0)
    config = replace(DistillConfig(self_ramp=0.0, meta_every=1, meta_lr=1e-2), **distill)
    return StudentObjective(
        InpaintingNet(3, CHANNELS, head_channels=4, dilations=(1,)),
        AutoEncoder(3, CHANNELS, head_channels=4, attention="fuse" if config.attention_transfer else None),
        loss=LossConfig(),
        distill=config,
    )


def test_inpainting_loss_averages_each_part_over_its_own_area() -> None:
    image = torch.zeros(1, 1, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1
    prediction = torch.where(mask != 0, 0.5, 0.25)
    assert inpainting_loss(prediction, image, mask, LossConfig(known=1, hole=6)).item() == pytest.approx(6 * 0.5 + 0.25)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_inpainting_loss_is_finite_without_hole_and_without_known_pixels(value: float) -> None:
    prediction = torch.rand(1, 3, 4, 4, requires_grad=True)
    loss = inpainting_loss(prediction, torch.rand(1, 3, 4, 4), torch.full((1, 1, 4, 4), value), LossConfig())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


def test_teacher_objective_is_l1_and_ignores_the_mask() -> None:
    stage = TeacherObjective(AutoEncoder(3, CHANNELS, head_channels=4))
    data = batch()
    loss = stage(data, 0.0).total
    assert torch.equal(loss, (stage.net(data["image"]) - data["image"]).abs().mean())


def test_student_loss_is_the_weighted_sum_of_its_parts() -> None:
    losses = objective(cross=0.3, self_distill=0.2)(batch(), 0.5)
    expected = losses.parts["task"] + 0.3 * losses.parts["cross"] + 0.2 * losses.parts["self"]
    torch.testing.assert_close(losses.total.detach(), expected)


def test_schedule_of_distillation() -> None:
    stage = objective(cross=0.3, self_distill=0.2, self_ramp=0.2, off_last=0.1)
    factors = [stage._factors(progress) for progress in (0.0, 0.1, 0.2, 0.85, 0.95)]
    assert [f["cross"] for f in factors] == [0.3, 0.3, 0.3, 0.3, 0.0]
    assert [f["self"] for f in factors] == pytest.approx([0.0, 0.1, 0.2, 0.2, 0.0])
    assert "self" not in stage(batch(), 0.0).parts
    assert set(stage(batch(), 0.95).parts) == {"task"}


def test_without_distillation_there_is_nothing_to_train_but_the_network() -> None:
    stage = objective(cross=0.0, self_distill=0.0)
    assert stage.meta is None
    assert {id(p) for p in stage.parameters()} == {id(p) for p in stage.net.parameters()}


def test_predictors_are_trained_by_the_meta_learner_alone() -> None:
    stage = objective()
    owned = {id(p) for p in stage.meta.predictors}
    assert owned
    assert not owned & {id(p) for p in stage.trainable()}
    losses = stage(batch(), 0.5)
    losses.total.backward()
    assert all(p.grad is None for p in stage.meta.predictors)
    before = [p.clone() for p in stage.meta.predictors]
    stage.zero_grad()
    log = stage.backward(stage(batch(), 0.5), 0, lambda loss: loss.backward())
    assert any(not torch.equal(a, b) for a, b in zip(before, stage.meta.predictors, strict=True))
    assert log["importance/effective_share"] == pytest.approx(1)  # before its first update
    assert log["distill_to_task_gradient"] > 0


def test_meta_step_leaves_student_and_gradients_as_an_ordinary_step_does() -> None:
    data = batch()
    ordinary, meta = objective(meta_every=2), objective(meta_every=2)
    ordinary.backward(ordinary(data, 0.5), 1, lambda loss: loss.backward())
    log = meta.backward(meta(data, 0.5), 2, lambda loss: loss.backward())
    assert log
    for (name, a), b in zip(ordinary.net.named_parameters(), meta.net.parameters(), strict=True):
        assert torch.equal(a, b), name
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_joint_importance_is_trained_with_the_loss() -> None:
    stage = objective(importance="joint")
    assert stage.meta is None
    stage(batch(), 0.5).total.backward()
    assert all(p.grad is not None for p in stage.cross.predictors.parameters())


def test_uniform_importance_has_no_predictors() -> None:
    stage = objective(importance="uniform")
    assert stage.meta is None
    assert not [name for name, _ in stage.named_parameters() if "predictor" in name]


def test_teacher_is_no_part_of_the_objective() -> None:
    stage = objective()
    teacher = {k: v.clone() for k, v in stage.teacher.module.state_dict().items()}
    stage.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=0.1, weight_decay=0.5)
    stage(batch(), 0.5).total.backward()
    optimizer.step()
    assert all(torch.equal(v, teacher[k]) for k, v in stage.teacher.module.state_dict().items())
    assert not [name for name in stage.state_dict() if "teacher" in name]


def test_extra_losses_join_the_task_and_the_log() -> None:
    torch.manual_seed(0)
    stage = StudentObjective(
        InpaintingNet(3, CHANNELS),
        None,
        loss=LossConfig(),
        distill=DistillConfig(),
        extra={"brightness": lambda prediction, image, mask: prediction.mean()},
    )
    data = batch()
    losses = stage(data, 0.0)
    expected = inpainting_loss(stage.net(**data), **data, config=LossConfig()) + losses.parts["brightness"]
    torch.testing.assert_close(losses.total, expected)


def test_empty_holes_give_finite_losses_and_gradients() -> None:
    stage = objective()
    losses = stage(batch(hole=False), 0.5)
    stage.backward(losses, 0, lambda loss: loss.backward())
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(p.grad).all() for p in stage.net.parameters() if p.grad is not None)


def test_random_importance_is_fixed_uneven_and_the_same_for_every_image() -> None:
    stage = objective(importance="random", self_distill=0.0)
    assert stage.meta is None
    assert stage.cross is not None
    predictors = {id(p) for p in stage.cross.predictors.parameters()}
    assert not predictors & {id(p) for p in stage.trainable()}
    data = batch()
    weights = stage.cross.importance(stage.teacher(data["image"]), data["mask"])
    assert all(torch.equal(w[0], w[1]) for w in weights)
    assert all(float(w.std()) > 0.01 for w in weights)
    losses = stage(data, 0.5)
    stage.backward(losses, 0, lambda loss: loss.backward())
    assert all(p.grad is None for p in stage.cross.predictors.parameters())


def test_factors_of_levels_weigh_cross_distillation_alone() -> None:
    data = batch()

    def parts(weights: object) -> dict[str, float]:
        losses = objective(level_weights=weights, scale="none")(data, 0.5)
        return {name: value.item() for name, value in losses.parts.items()}

    both, shallow, deep = (parts(weights) for weights in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)))
    assert both == parts("equal")
    assert 0 < deep["cross"] < both["cross"]
    assert shallow["cross"] + deep["cross"] == pytest.approx(both["cross"])
    assert shallow["self"] == deep["self"] == both["self"]
    stage = objective(level_weights=(0.0, 1.0), self_distill=0.0)
    assert stage.meta is not None
    before = [p.detach().clone() for p in stage.meta.predictors]
    stage.backward(stage(data, 0.5), 0, lambda loss: loss.backward())
    moved = [not torch.equal(a, b) for a, b in zip(before, stage.meta.predictors, strict=True)]
    assert moved == [False, False, True, True], "a level without weight teaches its predictor nothing"


@pytest.mark.parametrize(
    "weights", [(1.0,), (1.0, 1.0, 1.0), (0.0, 0.0), (1.0, -1.0), (), (1.0, math.nan), (1.0, math.inf)]
)
def test_factors_of_levels_that_do_not_fit(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected 2 numbers, one for each level"):
        objective(level_weights=weights)


def test_virtual_steps_have_the_momentum_and_decay_of_the_configuration() -> None:
    stage = objective(meta_method="l2t", meta_inner_momentum=0.5, meta_inner_weight_decay=0.25)
    assert stage.meta is not None
    assert (stage.meta.inner.momentum, stage.meta.inner.weight_decay) == (0.5, 0.25)


OPTIONS: dict[str, dict[str, object]] = {
    "attention": {"attention_transfer": 0.5},
    "attention alone": {"attention_transfer": 0.5, "cross": 0.0, "self_distill": 0.0},
    "aligner": {"aligner": "teacher"},
    "aligner, uniform": {"aligner": "teacher", "importance": "uniform"},
    "student's aligner": {"aligner": "student"},
    "levels": {"level_weights": "learned"},
    "given levels": {"level_weights": (0.5, 1.0)},
    "forms": {"distance": "cosine", "region": "all", "rim": 1.0, "low_pass": 2},
    "likelihood": {"distance": "heteroscedastic", "balance": "norm"},
    "projected": {"balance": "project", "attention_transfer": 0.5},
}


@pytest.mark.parametrize("method", ["align", "lookahead", "l2t"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_trains_student_and_what_is_meta_learned(options: dict[str, object], method: str) -> None:
    stage = objective(meta_method=method, **options)
    data = batch()
    optimizer = torch.optim.Adam(stage.trainable(), lr=1e-3)
    owned = [*stage.meta.predictors, *stage.meta.aligners]
    assert not {id(p) for p in owned} & {id(p) for p in stage.trainable()}
    for step in range(2):
        before = [p.detach().clone() for p in stage.net.parameters()]
        meta = [p.detach().clone() for p in owned]
        losses = stage(data, 0.5)
        log = stage.backward(losses, step, lambda loss: loss.backward())
        assert torch.isfinite(losses.total)
        assert all(torch.equal(a, b) for a, b in zip(before, stage.net.parameters(), strict=True))
        assert 0 < log["importance/effective_share"] <= 1 + 1e-6
        assert any(not torch.equal(a, b) for a, b in zip(meta, owned, strict=True))
        assert all(p.grad is None for p in owned)
        optimizer.step()
        optimizer.zero_grad()


def test_all_methods_leave_the_gradients_of_an_ordinary_step() -> None:
    data = batch()
    ordinary = objective(meta_every=2)
    ordinary.backward(ordinary(data, 0.5), 1, lambda loss: loss.backward())
    for method in ("lookahead", "l2t"):
        stage = objective(meta_every=2, meta_method=method)
        assert stage.backward(stage(data, 0.5), 2, lambda loss: loss.backward())
        for (name, a), b in zip(ordinary.net.named_parameters(), stage.net.parameters(), strict=True):
            assert torch.equal(a, b), name
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_attention_transfer_is_a_part_of_the_loss() -> None:
    stage = objective(attention_transfer=0.5, cross=0.3, self_distill=0.0)
    losses = stage(batch(), 0.5)
    assert losses.parts["attention"] > 0
    expected = losses.parts["task"] + 0.3 * losses.parts["cross"] + 0.5 * losses.parts["attention"]
    torch.testing.assert_close(losses.total.detach(), expected)
    losses.total.backward()
    assert stage.net.decoder.attention.query.weight.grad.any()
    assert "attention" not in objective(attention_transfer=0.5, off_last=0.5)(batch(), 0.9).parts


def test_attention_transfer_needs_attention_in_both() -> None:
    for student, teacher, name in ((None, "fuse", "student"), ("fuse", None, "teacher"), ("local", "fuse", "student")):
        with pytest.raises(ConfigError, match=f"the {name} has none"):
            StudentObjective(
                InpaintingNet(3, CHANNELS, attention=student),
                AutoEncoder(3, CHANNELS, attention=teacher),
                loss=LossConfig(),
                distill=DistillConfig(attention_transfer=1.0),
            )


def test_all_cells_first_then_the_hole() -> None:
    stage, data = objective(everywhere_first=0.3, scale="none"), batch()
    early, late = (stage(data, progress).parts["cross"] for progress in (0.1, 0.5))
    torch.testing.assert_close(early, objective(region="all", scale="none")(data, 0.5).parts["cross"])
    torch.testing.assert_close(late, objective(scale="none")(data, 0.5).parts["cross"])


@pytest.mark.parametrize("method", ["align", "l2t"])
def test_losses_look_at_the_cells_that_the_network_pads_to(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # 17 pixels are padded to 20: stretched over 10 x 10 cells, the mask of 17 would end elsewhere.
    data, seen = batch(17), []
    stage = objective(attention_transfer=0.5, meta_method=method, pool="hole")
    padded = torch.nn.functional.pad(data["mask"], (0, 3, 0, 3))
    for module in ("attention", "channelwise", "importance"):
        monkeypatch.setattr(
            f"kdinpaint.distill.{module}.resize_mask",
            lambda mask, size, **options: seen.append((mask, size)) or resize_mask(mask, size, **options),
        )
    losses = stage(data, 0.5)
    found = [size for _, size in seen]
    stage.backward(losses, 0, lambda loss: loss.backward())
    assert set(found) == {(10, 10), (5, 5)}
    assert len(seen) > len(found), "the meta step compares, too"
    assert all(torch.equal(mask, padded) for mask, _ in seen)


class Wide(torch.nn.Module):
    """A teacher of other widths."""

    feature_channels = (5, 3)

    def encode(self, image: torch.Tensor) -> list[torch.Tensor]:
        half, quarter = (torch.nn.functional.avg_pool2d(image, n) for n in (2, 4))
        return [torch.cat([half, half[:, :2].square()], 1), quarter]


@pytest.mark.parametrize("method", ["align", "l2t"])
def test_a_teacher_of_other_widths_is_read_from_the_student(method: str) -> None:
    torch.manual_seed(0)
    config = DistillConfig(
        self_distill=0.0, cross=0.5, scale="none", meta_every=1, meta_method=method, meta_inner_lr=1e-4
    )
    stage = StudentObjective(
        InpaintingNet(3, CHANNELS, head_channels=4, dilations=(1,)), Wide(), loss=LossConfig(), distill=config
    )
    assert [(r.in_channels, r.out_channels) for r in stage.readouts] == [(4, 5), (6, 3)]
    data = batch()
    losses = stage(data, 0.5)
    teacher = Wide().encode(data["image"])
    features = stage.net.encode(data["image"], data["mask"])
    read = [readout(feature) for readout, feature in zip(stage.readouts, features, strict=True)]
    torch.testing.assert_close(losses.parts["cross"], stage.eval().cross(read, teacher, data["mask"]).detach())
    log = stage.train().backward(losses, 0, lambda loss: loss.backward())
    assert 0 < log["importance/effective_share"] <= 1 + 1e-6
    owned = {id(p) for p in stage.trainable()}
    assert all(p.grad.any() and id(p) in owned for p in stage.readouts.parameters())
    assert not any("readouts" in name for name in stage.net.state_dict()), "left behind"


def test_a_teacher_whose_levels_cannot_be_read() -> None:
    for channels, options in (((4, 4), {"teacher_forcing": 0.5}), ((4, 6, 8), {})):
        with pytest.raises(ConfigError, match=r"student's 4, \d.*expected as many levels"):
            StudentObjective(
                InpaintingNet(3, channels, head_channels=4), Wide(), loss=LossConfig(), distill=DistillConfig(**options)
            )


def test_norm_balance_sets_the_ratio_in_the_log() -> None:
    stage = objective(balance="norm", balance_ratio=0.25)
    log = stage.backward(stage(batch(), 0.5), 0, lambda loss: loss.backward())
    assert log["distill_to_task_gradient"] == pytest.approx(0.25, rel=1e-3)


def test_teacher_forcing_teaches_the_decoder_to_read_the_teacher() -> None:
    data = batch()
    stage = objective(teacher_forcing=1.0, cross=0.0, self_distill=0.0)
    assert stage.teacher is not None
    truth = stage.teacher(data["image"])
    seen = []
    stage.net.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    losses = stage(data, 0.0)
    own = stage.net.encode(data["image"], data["mask"])
    for read, mine, theirs in zip(seen.pop(), own, truth, strict=True):
        hole = torch.nn.functional.adaptive_max_pool2d(data["mask"], read.shape[-2:]).bool().expand_as(read)
        assert read[hole].equal(theirs[hole])
        torch.testing.assert_close(read[~hole], mine[~hole])
    losses.total.backward()
    assert stage.net.decoder.context[0].conv1.weight.grad.any()
    for late in (0.5, 0.9):
        stage(data, late)
        for read, mine in zip(seen.pop(), own, strict=True):
            torch.testing.assert_close(read, mine)


def test_forcing_falls_and_works_beside_attention_transfer() -> None:
    data = batch()
    off, start, middle = (
        objective(teacher_forcing=share, attention_transfer=0.1)(data, progress).parts["task"].item()
        for share, progress in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.4999))
    )
    assert start != off
    assert middle == off
