"""MetaLearner: weight goes to the channels whose imitation serves the task, and nothing else changes."""

import copy

import pytest
import torch
from harness import assert_equal
from torch import nn

from kdinpaint import CrossDistillLoss, MetaLearner
from kdinpaint._core.errors import ConfigError, ShapeError

MASK = torch.ones(2, 1, 1, 1)


class Toy:
    """One parameter t; the student's feature is (t, t, 0). The teacher says (1, -1, 0), the task wants t = 1.

    Imitating channel 0 serves the task, channel 1 hurts it, channel 2 does not depend on t.
    """

    def __init__(self, **options):
        self.cross = CrossDistillLoss([3])
        self.meta = MetaLearner(self.cross.predictors.parameters(), every=1, lr=0.05, **options)
        self.t = nn.Parameter(torch.zeros(()))
        self.teacher = [torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 1, 1)]

    def distances(self):
        feature = torch.stack([self.t, self.t, 0 * self.t]).view(1, 3, 1, 1).expand(2, 3, 1, 1)
        return self.cross.distances([feature], self.teacher, MASK)

    def step(self, sign=1.0, **change):
        (v,) = torch.autograd.grad(sign * (self.t - 1).square(), [self.t])
        given = {
            "parameters": [self.t],
            "direction": [v],
            "distances": self.distances,
            "importance": self.cross.importance(self.teacher, MASK),
        }
        return self.meta.step(**{**given, **change})

    def weights(self):
        return self.cross.importance(self.teacher, MASK)[0][0].tolist()

    def state(self):
        return copy.deepcopy((self.cross.state_dict(), self.meta.state_dict(), self.t.detach()))


def test_weight_moves_to_what_serves_the_task():
    toy = Toy()
    for _ in range(6):
        assert toy.step() is not None
    good, bad, idle = toy.weights()
    assert good > idle > bad
    assert good > 0.5
    assert bad < 0.2


def test_weight_moves_the_other_way_for_the_opposite_task():
    toy = Toy()
    for _ in range(20):
        toy.step(sign=-1.0)
    good, bad, _ = toy.weights()
    assert bad > good


def test_reports_health_before_the_update():
    toy = Toy()
    assert toy.step()["effective_share"] == pytest.approx(1.0)
    assert toy.step()["effective_share"] < 1.0


def test_changes_the_predictors_only():
    toy = Toy()
    toy.t.grad = torch.tensor(3.0)
    before, stamp = toy.t.detach().clone(), [p.detach().clone() for p in toy.meta.predictors]
    toy.step()
    assert torch.equal(toy.t, before)
    assert toy.t.grad.item() == 3.0
    assert all(p.grad is None for p in toy.meta.predictors)
    assert any(not torch.equal(p, s) for p, s in zip(toy.meta.predictors, stamp, strict=True))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_bad_direction_changes_nothing(bad):
    toy = Toy()
    toy.step()
    before = toy.state()
    assert toy.step(direction=[torch.tensor(bad)]) is None
    assert toy.step(direction=[None]) is None
    assert_equal(toy.state(), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_distances_change_nothing(bad):
    toy = Toy()
    toy.step()
    before = toy.state()
    assert toy.step(distances=lambda: [d + bad for d in toy.distances()]) is None
    assert_equal(toy.state(), before)


def test_state_round_trip_continues_identically():
    toy, other = Toy(), Toy()
    for _ in range(3):
        toy.step()
    other.cross.load_state_dict(copy.deepcopy(toy.cross.state_dict()))
    other.meta.load_state_dict(copy.deepcopy(toy.meta.state_dict()))
    for _ in range(3):
        assert toy.step() == other.step()
    assert_equal(other.state(), toy.state())


def test_scale_of_the_task_does_not_matter():
    # Adam ignores the scale of a gradient, weight decay does not.
    loud, quiet = Toy(weight_decay=1.0), Toy(weight_decay=1.0)
    for _ in range(10):
        loud.step(sign=1000.0)
        quiet.step(sign=1.0)
    assert loud.weights() == pytest.approx(quiet.weights(), rel=1e-3)


def test_level_weights_set_the_share_of_each_level():
    def two(weights):
        toy = Toy(weight_decay=0.0)
        cross = CrossDistillLoss([3, 3])
        meta = MetaLearner(cross.predictors.parameters(), lr=0.05, weight_decay=0.0)
        (v,) = torch.autograd.grad((toy.t - 1).square(), [toy.t])
        importance = cross.importance([*toy.teacher, *toy.teacher], MASK)
        distances = lambda: [*toy.distances(), *toy.distances()]  # noqa: E731 - a callable is wanted
        meta.step(parameters=[toy.t], direction=[v], distances=distances, importance=importance, weights=weights)
        return [p.linear.bias.detach().clone() for p in cross.predictors]

    first, second = two([1.0, 0.0])
    assert bool(first.any())
    assert not second.any()
    first, second = two([1.0, -1.0])
    torch.testing.assert_close(first, -second)


def test_due():
    meta = MetaLearner([nn.Parameter(torch.zeros(1))], every=3)
    assert [step for step in range(8) if meta.due(step)] == [0, 3, 6]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MetaLearner([]), ConfigError, "no predictor parameters.*importance='learned'"),
        (lambda: MetaLearner([nn.Parameter(torch.zeros(1))], every=0), ConfigError, "every is 0"),
        (lambda: MetaLearner([nn.Parameter(torch.zeros(1))], method="l3t"), ConfigError, "method is 'l3t'"),
        (
            lambda: Toy().step(importance=[torch.ones(2, 4)]),
            ShapeError,
            r"distances are \[\(2, 3\)\], importance \[\(2, 4\)\]",
        ),
        (lambda: Toy().step(importance=[]), ShapeError, r"importance \[\] and there are 0 weights"),
        (lambda: Toy().step(weights=[1.0, 1.0]), ShapeError, "there are 2 weights"),
    ],
)
def test_documented_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_errors_change_nothing():
    toy = Toy()
    before = toy.state()
    with pytest.raises(ShapeError):
        toy.step(weights=[1.0, 1.0])
    assert_equal(toy.state(), before)
