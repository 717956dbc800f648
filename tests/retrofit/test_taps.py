"""Taps: the right features, from the present forward pass, and nothing left behind."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from harness import assert_equal
from small_students import LEVELS, Student, batch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.retrofitting import Level, Taps, remove_taps

X, _, _ = batch()


def by_hand(net, x):
    shallow = net.level1(x)
    return [shallow, net.level2(shallow)]


class Stage(nn.Module):
    """Gives whatever it was told to."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, x):
        return self.give(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.stage(self.stage(x))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.stage(x).relu_()


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.stage, x, use_reentrant=self.reentrant).sum()


def test_features_are_those_of_the_stages():
    net = Student()
    taps = Taps(net, ["level1", "level2"])
    for scale in (1, 2):
        out, features = taps(scale * X)
        assert_equal(features, by_hand(net, scale * X))
        assert_equal(out, net(scale * X))
        features[1].sum().backward()
    assert taps.names == ["level1", "level2"]


def test_nothing_is_kept_and_memory_is_flat():
    net = Student()
    taps = Taps(net, LEVELS)
    _, features = taps(X[:1])
    gone = [weakref.ref(f) for f in features]
    del features
    gc.collect()
    assert all(ref() is None for ref in gone)

    def held() -> tuple[int, int]:
        gc.collect()
        return len(gc.get_objects()), sum(1 for o in gc.get_objects() if type(o) is torch.Tensor)

    small = X[:1, :, ::4, ::4]
    with torch.no_grad():
        taps(small)
        before = held()
        for _ in range(1000):
            taps(small)
        after = held()
    assert after[1] <= before[1]
    assert after[0] - before[0] < 100
    net(X)
    assert not taps._record.found


def test_nothing_is_kept_after_an_error():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), Stage(lambda x: x.undefined))
    taps = Taps(net, ["0"])
    with pytest.raises(AttributeError):
        taps(X)
    assert not taps._record.found
    assert not taps._record.active


def test_a_stage_that_runs_twice():
    net = Twice()
    first = net.stage(X)
    assert_equal(Taps(net, ["stage"])(X)[1], [net.stage(first)])
    remove_taps(net)
    assert_equal(Taps(net, ["stage"], repeats="first")(X)[1], [first])
    remove_taps(net)
    with pytest.raises(ConfigError, match="'stage' ran twice"):
        Taps(net, ["stage"], repeats="error")(X)


def test_outputs_changed_in_place_later():
    net = InPlace()
    taps = Taps(net, ["stage"])
    for _ in range(3):
        _, (feature,) = taps(X)
        assert_equal(feature, net.stage(X))
        assert (feature < 0).any()
        feature.sum().backward()
    assert taps._taps["stage"].changes
    plain = Taps(Student(), ["level1"])
    plain(X)
    assert plain._taps["level1"].changes is False


def test_outputs_changed_in_place_in_training_alone():
    net = nn.Sequential(nn.Conv2d(4, 8, 4, 2, 1), nn.Dropout2d(0.5, inplace=True), nn.Conv2d(8, 16, 4, 2, 1))
    taps = Taps(net, ["0", "2"])
    for training in (False, True, True, False):
        net.train(training)
        _, features = taps(X)
        assert_equal(features[0], net[0](X))
        assert taps._taps["0"].changes is training
    assert taps.learned.tolist() == [1, 0]
    again = Taps(net, ["0", "2"])
    again.learned = taps.learned
    assert_equal(again.learned, taps.learned)


def test_checkpointed_stages():
    net = Checkpointed(reentrant=False)
    expected = torch.autograd.grad(net.stage(X).square().sum(), net.stage[0].weight)
    taps = Taps(net, ["stage"])
    _, (feature,) = taps(X)
    assert_equal(torch.autograd.grad(feature.square().sum(), net.stage[0].weight), expected)
    assert not taps._record.found
    with pytest.raises(ConfigError, match=r"'stage' runs without gradients.*use_reentrant=False"):
        Taps(Checkpointed(reentrant=True), ["stage"])(X.clone().requires_grad_())


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_travels_together_with_the_network(travel):
    net = Student()
    other, taps = travel((net, Taps(net, LEVELS)))
    assert taps.model is other
    with torch.no_grad():
        other.level1[0].weight.zero_()
    assert_equal(taps(X)[1], by_hand(other, X))
    alone = travel(net)
    assert_equal(alone(X), net(X))
    remove_taps(alone)
    assert not alone.level1._forward_hooks


def test_removed_taps_leave_nothing():
    net = Student()
    taps = Taps(net, LEVELS)
    again = Taps(net, ["level1"])
    taps.remove()
    assert_equal(again(X)[1], by_hand(net, X)[:1])
    with pytest.raises(ConfigError, match="not the one that was tapped"):
        taps(X)
    again.remove()
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("inside", [True, False])
def test_compiled(inside):
    torch.compiler.reset()
    net = Student()
    taps = Taps(net, LEVELS)
    if inside:
        compiled = torch.compile(lambda x: taps(x), backend="aot_eager", fullgraph=True)
    else:
        model = torch.compile(net, backend="aot_eager")
        model(X)

        def compiled(x):
            return taps.run((x,), {}, model=model)

    for scale in (1, 2, 3):
        _, features = compiled(scale * X)
        torch.testing.assert_close(features, by_hand(net, scale * X))
        net(X)
    assert not taps._record.found


@pytest.mark.parametrize("other", [False, True], ids=["itself", "another of its class"])
def test_compiled_too_early_says_so_and_what_helps(other):
    torch.compiler.reset()
    net = Student()
    model = torch.compile(net, backend="aot_eager")
    (torch.compile(Student(), backend="aot_eager") if other else model)(X)
    taps = Taps(model, LEVELS)
    with pytest.raises(ConfigError, match=r"did not run in this forward pass.*another one of its class.*reset\(\)"):
        taps(X)
    compiled = torch.compile(lambda x: taps.run((x,), {}, model=net), backend="aot_eager")
    torch.testing.assert_close(compiled(X)[1], by_hand(net, X))
    torch.compiler.reset()
    torch.testing.assert_close(taps(X)[1], by_hand(net, X))


def test_data_parallel_without_gpus_and_names_inside():
    net = Student()
    assert_equal(Taps(nn.DataParallel(net), LEVELS)(X)[1], by_hand(net, X))


def test_layouts():
    x = torch.rand(2, 4, 6, 8)
    tokens = torch.cat([torch.zeros(2, 1, 4), x.flatten(2).transpose(1, 2)], 1)
    net = nn.Sequential(Stage(lambda x: x.permute(0, 2, 3, 1)), Stage(lambda _: tokens), Stage(lambda t: t))
    levels = [Level("0", 4, 4, 2, (6, 8), "nhwc"), Level("1", 4, 4, 2, (6, 8), "tokens")]
    taps = Taps(net, levels)
    for size in (None, (12, 16), (11, 15)):
        assert_equal(taps.run((x,), {}, size=size)[1], [x, x])
    assert_equal(Taps(net, ["1"])(x)[1], [tokens])
    with pytest.raises(ShapeError, match="gives 49 tokens, which are no grid"):
        Taps(net, [Level("1", 4, 4, 2, (9, 9), "tokens")])(x)
    with pytest.raises(ShapeError, match="is not in its layout 'nhwc'"):
        Taps(net, [Level("1", 4, 4, 2, (6, 8), "nhwc")])(x)


def test_selectors():
    x = torch.rand(1, 4, 5, 6)
    net = nn.Sequential(Stage(lambda x: {"a": (x, 2 * x), "b": None, "length": torch.tensor(3)}), Stage(lambda d: d))
    for select, factor in ((("a", 1), 2), (lambda out: out["a"][0], 1)):
        assert_equal(Taps(net, ["0"], select={"0": select})(x)[1], [factor * x])
        remove_taps(net)
    for select in (None, "b", "c", "a"):
        with pytest.raises(ShapeError, match="stage '0' returned dict with tensors at"):
            Taps(net, ["0"], select={"0": select} if select else None)(x)
        remove_taps(net)
    single = nn.Sequential(Stage(lambda x: (x, None, 3)), Stage(lambda t: t))
    assert_equal(Taps(single, ["0"])(x)[1], [x])


@pytest.mark.parametrize(
    ("message", "build"),
    [
        ("expected one or more", lambda net: Taps(net, [])),
        ("each once", lambda net: Taps(net, ["level1", "level1"])),
        ("no stage 'level3'", lambda net: Taps(net, ["level3"])),
        ("select names", lambda net: Taps(net, ["level1"], select={"level2": 0})),
        ("repeats is 'all'", lambda net: Taps(net, ["level1"], repeats="all")),
    ],
)
def test_bad_input_leaves_the_network_alone(message, build):
    net = Student()
    with pytest.raises(ConfigError, match=message):
        build(net)
    assert not any(m._forward_hooks for m in net.modules())


def test_a_stage_that_does_not_run():
    net = nn.ModuleDict({"unused": nn.Identity()})
    net.forward = lambda x: x
    with pytest.raises(ConfigError, match="'unused' did not run"):
        Taps(net, ["unused"])(X)
