"""Distiller: the losses of the distill room, fed from taps, around a student that stays as it is."""

import copy
import gc
import pickle

import pytest
import torch
from harness import assert_equal, randomise
from small_students import LEVELS, Student, batch
from torch import nn
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, FrozenTeacher, MetaLearner
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.retrofitting import Level

X, TRUTH, MASK = batch()


def teacher_net(channels=(6, 8)):
    return randomise(AutoEncoder(3, channels, head_channels=4))


def build(student=None, teacher=None, levels=LEVELS, **options):
    return Distiller(student or Student(), teacher or teacher_net(), levels, **options)


def call(guide, **options):
    return guide(X, image=TRUTH, mask=MASK, **options)


@pytest.mark.parametrize("scale", ["none", "teacher_std"])
@pytest.mark.parametrize("importance", ["meta", "uniform", "joint"])
def test_losses_are_those_called_by_hand(scale, importance):
    student, teacher = Student(), teacher_net()
    guide = build(student, teacher, scale=scale, importance=importance, cross=0.3, self_distill=0.2)
    cross, own = copy.deepcopy(guide.cross).eval(), copy.deepcopy(guide.self_distill).eval()
    for _ in range(2):
        out, losses = call(guide)
        shallow = student.level1(X)
        features = [shallow, student.level2(shallow)]
        assert_equal(out, student(X))
        cross.observe(teacher.encode(TRUTH))
        own.observe(features[1:])
        expected = {"cross": 0.3 * cross(features, teacher.encode(TRUTH), MASK), "self": 0.2 * own(features, MASK)}
        assert_equal(losses, expected)
        assert all(loss.dim() == 0 and float(loss.detach()) > 0 for loss in losses.values())


def test_gradients_reach_the_student_and_never_the_teacher():
    guide = build()
    _, losses = call(guide)
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in guide.student.level1.parameters())
    assert all(p.grad is None for p in guide.teacher.module.parameters())
    assert all(p.grad is None for p in guide.predictors())
    assert all(p.grad is not None for p in guide.trainable())
    own = {id(p) for p in guide.trainable()} | {id(p) for p in guide.student.parameters()}
    assert {id(p) for p in guide.parameters() if p.requires_grad} == own


def test_steps_lower_the_losses():
    guide = build()
    optimizer = torch.optim.Adam([*guide.student.parameters(), *guide.trainable()], lr=3e-3)
    totals = []
    for _ in range(30):
        out, losses = call(guide)
        total = F.l1_loss(out, TRUTH) + sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0]


def test_fresh_importance_is_uniform():
    guide = build()
    plain = build(guide.student, guide.teacher, importance="uniform")
    plain.load_state_dict({k: v for k, v in guide.state_dict().items() if "predictors" not in k})
    assert_equal(call(guide)[1], call(plain)[1])
    assert plain.predictors() == []


@pytest.mark.parametrize("size", [33, 34, 35, 39])
def test_sizes_that_do_not_divide(size):
    x, truth, mask = batch(size)
    _, losses = build()(x, image=truth, mask=mask)
    assert all(bool(loss.isfinite()) for loss in losses.values())


def test_teacher_of_another_resolution_and_any_module():
    class Fine(nn.Module):
        def forward(self, image):
            return [image.repeat(1, 2, 1, 1), F.avg_pool2d(image, 16).repeat(1, 3, 1, 1)]

    guide = build(teacher=Fine(), teacher_channels=[6, 9])
    cross = copy.deepcopy(guide.cross).eval()
    _, losses = call(guide)
    shallow = guide.student.level1(X)
    aligned = [shallow, guide.aligners[1](guide.student.level2(shallow))]
    fine, coarse = Fine()(TRUTH)
    targets = [
        F.interpolate(fine, (16, 16), mode="bilinear", antialias=True),
        F.interpolate(coarse, (8, 8), mode="bilinear", antialias=True),
    ]
    cross.observe(targets)
    torch.testing.assert_close(losses["cross"], 0.01 * cross(aligned, targets, MASK))


def test_features_of_the_teacher_may_be_given():
    guide = build()
    given = guide.teacher(TRUTH)
    expected = copy.deepcopy(guide)(X, image=TRUTH, mask=MASK)
    assert_equal(guide(X, mask=MASK, teacher_features=given), expected)


def test_parts_can_be_left_out():
    assert set(call(build(self_distill=0.0))[1]) == {"cross"}
    assert set(call(build(cross=0.0))[1]) == {"self"}
    alone = Distiller(Student(), None, LEVELS)
    assert set(alone(X, mask=MASK)[1]) == {"self"}
    assert set(call(build(teacher=teacher_net((6,)), levels=LEVELS[:1]))[1]) == {"cross"}


def test_self_distillation_grows():
    guide = build(self_ramp=4)
    whole = copy.deepcopy(guide)
    whole.self_ramp = 0
    shares = []
    for _ in range(6):
        shares.append(float(call(guide)[1]["self"].detach() / call(whole)[1]["self"].detach()))
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    other = build(self_ramp=4)
    other.load_state_dict(guide.state_dict())
    assert int(other.steps_done) == 6
    guide.eval()
    call(guide)
    assert int(guide.steps_done) == 6
    guide.steps_done.fill_(2)
    assert meta_update(guide) is not None


def test_a_resumed_guide_has_learned_what_the_first_had():
    guide, other = build(), build()
    assert guide.taps.learned.tolist() == [-1] * len(guide.channels)
    call(guide)
    assert guide.taps.learned.tolist() == [0] * len(guide.channels)
    other.load_state_dict(guide.state_dict())
    assert_equal(other.taps.learned, guide.taps.learned)


def test_state_stays_apart_from_the_students():
    student = Student(norm=True)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    guide = build(student, teacher=teacher_net((6, 10)))
    assert_equal(dict(student.state_dict()), before)
    state = guide.state_dict()
    assert state
    assert not any("student" in name or "teacher" in name for name in state)
    other = build(Student(norm=True), teacher=teacher_net((6, 10)))
    theirs = {name: value.clone() for name, value in other.student.state_dict().items()}
    other.load_state_dict(state)
    assert_equal(dict(other.state_dict()), dict(state))
    assert_equal(dict(other.student.state_dict()), theirs)
    outer, another = nn.Sequential(guide), nn.Sequential(other)
    another.load_state_dict(outer.state_dict())
    assert_equal(dict(other.student.state_dict()), theirs)
    with pytest.raises(RuntimeError, match=r"Missing key.*aligners.1.weight"):
        other.load_state_dict({k: v for k, v in state.items() if "aligners.1.weight" not in k})
    guide.remove()
    assert not any(m._forward_hooks for m in student.modules())


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_travels(travel):
    guide = build(Student(norm=True))
    expected = call(copy.deepcopy(guide))
    other = travel(guide)
    with torch.no_grad():
        for p in guide.student.parameters():
            p.zero_()
    assert_equal(call(other), expected)


def test_modes_devices_and_precision():
    guide = build(Student(norm=True))
    guide.eval()
    assert not guide.student.training
    scales = copy.deepcopy(guide.cross.scales.state_dict())
    call(guide)
    assert_equal(dict(guide.cross.scales.state_dict()), dict(scales))
    guide.double()
    out, losses = guide(X.double(), image=TRUTH.double(), mask=MASK.double())
    assert out.dtype == losses["cross"].dtype == torch.float64
    guide.float().train()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = call(guide)
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())


def test_compiled_and_channels_last():
    torch.compiler.reset()
    guide = build()
    expected = call(copy.deepcopy(guide))
    compiled = torch.compile(guide, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, image=TRUTH, mask=MASK), expected)
    sum(compiled(X, image=TRUTH, mask=MASK)[1].values()).backward()
    assert guide.student.level1[0].weight.grad.any()
    last = build().to(memory_format=torch.channels_last)
    last(X.contiguous(memory_format=torch.channels_last), image=TRUTH, mask=MASK)


def test_data_parallel_over_processes(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        guide = build(Student(norm=True), teacher=teacher_net((6, 10)))
        plain = copy.deepcopy(guide)
        parallel = nn.parallel.DistributedDataParallel(guide)
        for _ in range(3):
            results = []
            for module in (plain, parallel):
                out, losses = module(X, image=TRUTH, mask=MASK)
                (out.square().mean() + sum(losses.values())).backward()
                results.append((out, losses))
            torch.testing.assert_close(results[0], results[1])
        for mine, theirs in zip(plain.parameters(), guide.parameters(), strict=True):
            assert (mine.grad is None) == (theirs.grad is None)
            if mine.grad is not None:
                torch.testing.assert_close(mine.grad, theirs.grad)
        with pytest.raises(ConfigError, match=r"DistributedDataParallel\(Distiller"):
            build(nn.parallel.DistributedDataParallel(Student()))
        assert meta_update(guide) is not None
    finally:
        torch.distributed.destroy_process_group()


def meta_update(guide, every=1):
    meta = MetaLearner(guide.predictors(), every=every, lr=0.05)
    out, losses = call(guide)
    task = F.l1_loss(out, TRUTH)
    direction = guide.direction(task)
    guide.zero_grad()
    (task + sum(losses.values())).backward()
    return guide.meta_step(meta, direction, X, image=TRUTH, mask=MASK)


def test_meta_step_trains_the_predictors_alone():
    student = Student(norm=True, dropout=0.3)
    guide = build(student, teacher=teacher_net((6, 10)))
    random = torch.get_rng_state()
    out, losses = call(guide)
    task = F.l1_loss(out, TRUTH)
    direction = guide.direction(task)
    (task + sum(losses.values())).backward()
    drawn = torch.get_rng_state()
    assert not torch.equal(random, drawn)
    kept = {name: value.clone() for name, value in [*student.state_dict().items(), *named(guide.trainable())]}
    gradients = [p.grad.clone() for p in student.parameters()]
    meta = MetaLearner(guide.predictors(), every=1, lr=0.05)
    health = guide.meta_step(meta, direction, X, image=TRUTH, mask=MASK)
    assert health["effective_share"] == pytest.approx(1.0)
    assert_equal({**student.state_dict(), **dict(named(guide.trainable()))}, kept)
    assert_equal([p.grad for p in student.parameters()], gradients)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(bool(p.any()) and not p.requires_grad for p in guide.predictors())


def named(parameters):
    return [(f"own.{n}", p.detach()) for n, p in enumerate(parameters)]


def test_meta_step_follows_the_gradients():
    guide = build().double()
    x, truth, mask = X.double(), TRUTH.double(), MASK.double()
    shallow = guide.student.level1(x)
    features = [shallow, guide.student.level2(shallow)]
    distances = guide.cross.distances(features, guide.teacher(truth), mask)
    out = guide.student(x)
    direction = guide.direction(F.l1_loss(out, truth))
    inner = []
    for channel in range(6):
        gradient = torch.autograd.grad(
            distances[0][:, channel].sum(), guide._students(), retain_graph=True, allow_unused=True
        )
        inner.append(sum((g * v).sum() for g, v in zip(gradient, direction, strict=True) if g is not None))
    meta = MetaLearner(guide.predictors(), every=1, lr=0.05, weight_decay=0.0)
    guide.eval()
    assert guide.meta_step(meta, direction, x, image=truth, mask=mask) is not None
    bias = guide.cross.predictors[0].state_dict()
    weights = guide.cross.predictors[0](guide.teacher(truth)[0], mask).mean(0)
    assert bias
    order = torch.stack(inner) - torch.stack(inner).mean()
    assert float((order * (weights - weights.mean())).sum()) > 0


def test_data_parallel_goes_inside():
    assert_equal(call(build(nn.DataParallel(student := Student())))[0], student(X))
    with pytest.raises(ConfigError, match=r"nn\.DataParallel around a Distiller"):
        call(build()._replicate_for_data_parallel())


class Named(nn.Module):
    """Takes a mask of its own."""

    def __init__(self):
        super().__init__()
        self.net = Student()

    def forward(self, image, mask=None):
        return self.net(torch.cat([image, torch.zeros_like(image[:, :1]) if mask is None else mask], 1))


def test_a_student_with_arguments_of_the_same_names():
    net = Named()
    levels = [Level("net.level1", 4, 6, 2, (16, 16)), Level("net.level2", 6, 8, 4, (8, 8))]
    guide = Distiller(net, teacher_net(), levels)
    x = X[:, :3]
    expected = net(x, MASK)
    assert_equal(guide(x, MASK, image=TRUTH, mask=MASK)[0], expected)
    assert_equal(guide(x, image=TRUTH, mask=MASK, student_kwargs={"mask": MASK})[0], expected)
    assert_equal(guide(x, image=TRUTH, mask=MASK, student_kwargs={"mask": None})[0], net(x))
    with pytest.raises(ConfigError, match=r"an argument 'mask', too.*student_kwargs"):
        guide(x, image=TRUTH, mask=MASK)
    with pytest.raises(ConfigError, match="an argument 'image', too"):
        guide(image=TRUTH, mask=MASK)


def test_nothing_is_kept():
    guide = build()
    gc.collect()
    counts = []
    for step in range(30):
        _, losses = call(guide)
        sum(losses.values()).backward()
        guide.zero_grad()
        del losses
        if step in (5, 29):
            gc.collect()
            counts.append(sum(1 for o in gc.get_objects() if type(o) is torch.Tensor))
    assert counts[1] <= counts[0]


def wrong_channels():
    return [LEVELS[0], Level("level2", 6, 7, 4, (8, 8))]


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (ConfigError, "nothing to distil with cross=0, self_distill=0", lambda: build(cross=0, self_distill=0)),
        (ConfigError, "nothing to distil.*no teacher", lambda: Distiller(Student(), None, LEVELS[:1])),
        (ConfigError, "nothing to distil with cross=-1", lambda: build(cross=-1)),
        (ConfigError, "importance is 'learned'", lambda: build(importance="learned")),
        (ConfigError, "the levels are", lambda: build(levels=["level1"])),
        (ConfigError, "the levels are", lambda: build(levels=[])),
        (ConfigError, "no stage 'layer9'", lambda: build(levels=[Level("layer9", 1, 6, 2, (4, 4)), LEVELS[1]])),
        (ConfigError, "teacher has 3 levels", lambda: build(teacher=teacher_net((6, 8, 10)))),
        (ConfigError, "teacher needs the intact image", lambda: build()(X, mask=MASK)),
        (ShapeError, "mask is .*expected", lambda: build()(X, image=TRUTH, mask=MASK[0])),
        (ShapeError, "teacher gives 1 levels", lambda: call(build(), teacher_features=[torch.ones(2, 6, 8, 8)])),
        (
            ShapeError,
            r"stage 'level2' gives \(2, 8, 8, 8\); expected \(B, 7",
            lambda: call(build(levels=wrong_channels(), cross=0)),
        ),
    ],
)
def test_errors(error, message, act):
    with pytest.raises(error, match=message):
        act()


def test_a_failed_construction_leaves_the_student_alone():
    student = Student()
    with pytest.raises(ConfigError, match="teacher has 3 levels"):
        build(student, teacher=teacher_net((6, 8, 10)))
    assert not any(m._forward_hooks for m in student.modules())


def test_accepts_a_frozen_teacher_and_keeps_it_frozen():
    frozen = FrozenTeacher(teacher_net(), method="encode")
    guide = build(teacher=frozen)
    assert guide.teacher is frozen
    guide.train().requires_grad_(True)
    assert not any(p.requires_grad for p in frozen.module.parameters())
    assert not frozen.module.training
