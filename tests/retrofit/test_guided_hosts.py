"""retrofit and Distiller together: plan to levels, fillers in the features, encoders of other libraries."""

import copy
import pickle

import pytest
import timm
import torch
from harness import assert_equal
from small_students import Student, batch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kdinpaint import AutoEncoder, Distiller, MetaLearner, RetrofitPlan, inspect, retrofit, strip, unretrofit
from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting import FilledStage, ModuleTeacher, Taps, filler_state_dict
from kdinpaint.retrofitting.student import levels_of

X, TRUTH, MASK = batch()
PLAN = RetrofitPlan(["level1", "level2"], hidden_channels=4)


def awake(net):
    """The same network with fillers that do something."""
    for stage in net.modules():
        if isinstance(stage, FilledStage):
            nn.init.normal_(stage.kdinpaint_filler.exit.weight, std=0.5)
    return net


def guided(net, plan, levels):
    return Distiller(net, AutoEncoder.for_levels(levels, head_channels=4), plan, cross=0.1)


def test_plan_report_inspection_and_levels_mean_the_same():
    net = Student()
    found = inspect(net, example=(X,))
    report = retrofit(net, PLAN, example=(X,))
    teacher = AutoEncoder.for_levels(report.levels, head_channels=4)
    results = []
    for plan in (PLAN, report, report.levels, found):
        torch.manual_seed(0)
        guide = Distiller(net, teacher, plan)
        results.append(guide(X, image=TRUTH, mask=MASK)[1])
        guide.remove()
    for other in results[1:]:
        assert_equal(other, results[0])


def test_features_are_those_with_fillers_and_teach_them():
    net = Student()
    report = retrofit(net, PLAN, example=(X,))
    guide = guided(awake(net), PLAN, report.levels)
    _, features = guide.taps(X)
    hole = X[:, -1:] > 0.5
    expected = net.level1.base(X) + net.level1.kdinpaint_filler(X, hole)
    assert_equal(features[0], expected)
    assert not torch.equal(features[0], net.level1.base(X))
    _, losses = guide(X, image=TRUTH, mask=MASK)
    losses["cross"].backward()
    assert net.level1.kdinpaint_filler.exit.weight.grad.any()


def test_strip_takes_the_taps_and_unretrofit_all():
    net = Student()
    before = copy.deepcopy(net)
    report = retrofit(net, PLAN, example=(X,))
    fillers = {name: value.clone() for name, value in filler_state_dict(net).items()}
    guide = guided(net, PLAN, report.levels)
    assert_equal(dict(filler_state_dict(net)), fillers)
    expected = guide(X, image=TRUTH, mask=MASK)[0]
    strip(net)
    assert not any(m._forward_hooks for m in net.modules() if m is not net)
    assert_equal(net(X), expected)
    with pytest.raises(ConfigError, match="not the one that was tapped"):
        guide(X, image=TRUTH, mask=MASK)
    guide = guided(net, PLAN, report.levels)
    unretrofit(net)
    with pytest.raises(ConfigError, match="not the one that was tapped"):
        guide(X, image=TRUTH, mask=MASK)
    assert_equal(dict(net.state_dict()), dict(before.state_dict()))
    with pytest.raises(ConfigError, match="has not been retrofitted with this plan"):
        Distiller(net, None, PLAN)


class Crossed(nn.Module):
    """Its stages run in another order than they are registered in, at one stride."""

    def __init__(self):
        super().__init__()
        self.b, self.a = nn.Conv2d(6, 8, 3, 1, 1), nn.Conv2d(4, 6, 4, 2, 1)
        self.c = nn.Conv2d(8, 10, 4, 2, 1)
        self.again = self.c

    def forward(self, x):
        return F.interpolate(self.c(self.b(self.a(x)))[:, :3], size=tuple(x.shape[-2:]))


def test_levels_of_a_plan_are_those_that_it_names_as_they_run():
    plan = RetrofitPlan([("a", "b"), "again"], hidden_channels=4)
    net = Crossed()
    report = retrofit(net, RetrofitPlan(["b", "a", "again"], hidden_channels=4), example=(X,))
    assert [level.name for level in report.levels] == ["a", "b", "c"]
    for module in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert levels_of(module, RetrofitPlan(["a", "b", "c"])) == list(report.levels)
        assert levels_of(module, RetrofitPlan(["again", "a"])) == [report.levels[0], report.levels[2]]
    assert [level.name for level in levels_of(nn.Sequential(net), RetrofitPlan("[ab]"))] == ["0.a", "0.b"]
    features = Distiller(nn.Sequential(net), None, RetrofitPlan(["b", "a"])).taps(X)[1]
    assert [f.shape[1] for f in features] == [6, 8]
    for levels in (["nonsense"], ["a", "nonsense"], [("a", "b"), "c"]):
        with pytest.raises(ConfigError, match=r"not been retrofitted with this plan.*'a', 'b', 'c'"):
            Distiller(net, None, RetrofitPlan(levels))
    pair = Crossed()
    report = retrofit(pair, plan, example=(X,))
    assert levels_of(pair, plan) == list(report.levels)


def test_the_mask_is_handed_on_where_the_plan_says_so():
    class Named(Student):
        def forward(self, x, mask=None):
            return super().forward(torch.cat([x, mask], 1))

    net = Named()
    plan = RetrofitPlan(["level1", "level2"], mask="kwarg:mask", hidden_channels=4)
    report = retrofit(net, plan, example=(X[:, :3], MASK))
    guide = guided(awake(net), plan, report.levels)
    assert_equal(guide(X[:, :3], image=TRUTH, mask=MASK)[0], net(X[:, :3], MASK))


@pytest.mark.parametrize("task", [0.0, 1.0], ids=["features alone", "with the output"])
def test_checkpointed_stages_with_fillers(task):
    class Checkpointed(Student):
        again = False

        def forward(self, x):
            run = (lambda f, y: checkpoint(f, y, use_reentrant=False)) if self.again else (lambda f, y: f(y))
            shallow = run(self.level1, x)
            deep = F.interpolate(run(self.level2, shallow), size=tuple(shallow.shape[-2:]))
            return F.interpolate(self.out(torch.cat([shallow, deep], 1)), size=tuple(x.shape[-2:]))

    net = Checkpointed()
    report = retrofit(net, PLAN, example=(X,))
    guide = guided(awake(net), PLAN, report.levels)
    guide(X, image=TRUTH, mask=MASK)
    guide.eval()
    gradients = []
    for net.again in (False, True):
        out, losses = guide(X, image=TRUTH, mask=MASK)
        total = sum(losses.values()) + (F.l1_loss(out, TRUTH) if task else 0)
        encoder = [p for stage in (net.level1, net.level2) for p in stage.parameters()]
        gradients.append(torch.autograd.grad(total, encoder))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_compiled_with_fillers():
    torch.compiler.reset()
    net = Student()
    report = retrofit(net, PLAN, example=(X,))
    guide = guided(awake(net), PLAN, report.levels).eval()
    expected = guide(X, image=TRUTH, mask=MASK)
    compiled = torch.compile(guide, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(X, image=TRUTH, mask=MASK), expected, rtol=1e-4, atol=1e-5)


class Pyramid(nn.Module):
    def __init__(self, encoder, channels):
        super().__init__()
        self.encoder, self.head = encoder, nn.Conv2d(channels, 3, 1)

    def forward(self, x):
        return F.interpolate(self.head(self.encoder(x)[-1]), size=tuple(x.shape[-2:]))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", img_size=64, in_chans=4, depth=2, num_classes=0)
        self.head = nn.Conv2d(192, 3, 1)

    def forward(self, x):
        cells = self.vit.forward_features(x)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        return F.interpolate(self.head(cells), size=tuple(x.shape[-2:]))


class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.swin = timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            in_chans=4,
            num_classes=0,
            depths=(1, 1, 1),
            embed_dim=24,
            num_heads=(1, 2, 4),
        )
        self.head = nn.Conv2d(96, 3, 1)

    def forward(self, x):
        return F.interpolate(self.head(self.swin.forward_features(x).permute(0, 3, 1, 2)), size=tuple(x.shape[-2:]))


def pyramid(name, channels):
    return Pyramid(timm.create_model(name, features_only=True, in_chans=4, out_indices=(0, 1, 2)), channels)


HOSTS = {
    "resnet": (lambda: pyramid("resnet10t", 128), ["encoder.layer1", "encoder.layer2"], "nchw"),
    "convnext": (lambda: pyramid("convnext_atto", 160), ["encoder.stages_*"], "nchw"),
    "vit": (Tokens, ["vit.blocks.0", "vit.blocks.1"], "tokens"),
    "swin": (Windows, ["swin.layers.*"], "nhwc"),
}


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_features_of_retrofitted_stages_have_their_channels_first(name):
    build, names, _ = HOSTS[name]
    x, _, _ = batch(64)
    net = build().eval()
    report = retrofit(net, RetrofitPlan(names, hidden_channels=4), example=(x,))
    taps = Taps(net, [level.name for level in report.levels])
    _, features = taps(x)
    assert [tuple(f.shape[1:]) for f in features] == [(level.channels, *level.size) for level in report.levels]
    assert_equal(taps.run((x,), {}, size=(64, 64))[1], features)
    taps.remove()
    teacher = ModuleTeacher(net, taps.names, example=x[:1])
    assert_equal(teacher(x), features)


@pytest.mark.parametrize("name", HOSTS)
def test_steps_lower_the_loss_of_encoders_of_timm(name):
    build, names, layout = HOSTS[name]
    x, truth, mask = batch(64)
    net = build()
    plan = RetrofitPlan(names, hidden_channels=4)
    report = retrofit(net, plan, example=(x,))
    assert {level.layout for level in report.levels} == {layout}
    guide = guided(net, plan, report.levels)
    optimizer = torch.optim.Adam([*net.parameters(), *guide.trainable()], lr=1e-3)
    meta = MetaLearner(guide.predictors(), every=1)
    totals = []
    for _ in range(3):
        out, losses = guide(x, image=truth, mask=mask)
        task = F.l1_loss(out, truth)
        direction = guide.direction(task)
        total = task + sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        assert guide.meta_step(meta, direction, x, image=truth, mask=mask) is not None
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < totals[0]
