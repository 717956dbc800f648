"""FrozenTeacher: nothing in training can change it, and it still travels with its parent."""

import copy
import pickle
from typing import ClassVar

import pytest
import torch
from harness import Contract, assert_equal, randomise, seeded
from torch import nn

from kdinpaint import FrozenTeacher
from kdinpaint._core.errors import ConfigError


class Network(nn.Module):
    """Convolution and batch statistics, with two ways to be called."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)))

    def encode(self, x, *, scale=1.0):
        return [scale * self.conv(x), self(x)]


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = nn.Conv2d(2, 3, 3, padding=1)
        self.teacher = FrozenTeacher(randomise(Network()))


X = torch.randn(4, 2, 5, 6)


class TestFrozenTeacher(Contract):
    without: ClassVar = {
        "gradients": "there are none, which is tested below",
        "second_gradients": "there are none, which is tested below",
    }
    errors: ClassVar = {
        "method": (
            ConfigError,
            "Network has no method 'features'; name the one",
            lambda _: FrozenTeacher(Network(), method="features"),
        )
    }

    def make(self, dtype=torch.float32):
        return FrozenTeacher(randomise(Network()).to(dtype))

    def inputs(self, batch=2, height=5, width=6, dtype=torch.float32, seed=0):
        return (torch.randn(batch, 2, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def oracle(self, subject, x):
        norm = subject.module.norm
        return subject.module.conv(x) / (1 + norm.eps) ** 0.5 * norm.weight[:, None, None] + norm.bias[:, None, None]


def bits(parent):
    return copy.deepcopy(parent.teacher.module.state_dict())


def test_training_the_parent_changes_nothing():
    parent = Parent()
    before, expected = bits(parent), parent.teacher(X)
    parent.train()
    parent.requires_grad_(True)
    optimizer = torch.optim.AdamW(parent.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (parent.student(X) - parent.teacher(X)).square().mean().backward()
        optimizer.step()
    assert_equal(bits(parent), before)
    assert_equal(parent.teacher(X), expected)
    assert not any(p.requires_grad or p.grad is not None for p in parent.teacher.module.parameters())


def test_parent_does_not_see_its_state():
    parent = Parent()
    assert {n for n, _ in parent.named_parameters()} == {"student.weight", "student.bias"}
    assert not list(parent.teacher.parameters())
    assert not list(parent.teacher.buffers())
    assert set(parent.state_dict()) == {"student.weight", "student.bias"}
    parent.load_state_dict(parent.state_dict())
    parent.apply(lambda m: randomise(m, scale=5.0) if isinstance(m, nn.BatchNorm2d) else None)
    parent.zero_grad()


def test_it_is_in_eval_mode_even_after_train_on_the_network_itself():
    network = randomise(Network())
    teacher = FrozenTeacher(network)
    expected = teacher(X)
    assert not network.training
    network.train()
    assert_equal(teacher(X), expected)
    assert not network.norm.training
    assert network.norm.num_batches_tracked.item() == 0


def test_no_gradient_passes():
    teacher = FrozenTeacher(Network())
    assert not teacher(X.clone().requires_grad_()).requires_grad
    assert not any(p.requires_grad for p in teacher.module.parameters())


def test_method_and_arguments_are_passed_on():
    network = randomise(Network())
    teacher = FrozenTeacher(network, method="encode")
    first, second = teacher(X, scale=2.0)
    torch.testing.assert_close(first, 2 * network.conv(X))
    assert second.shape == first.shape
    assert repr(teacher) == "FrozenTeacher(Network.encode)"


def test_follows_to():
    parent = Parent().to(torch.float64)
    assert {t.dtype for t in parent.teacher.module.state_dict().values() if t.is_floating_point()} == {torch.float64}
    assert parent.teacher(X.double()).dtype == torch.float64
    assert Parent().to("meta").teacher.module.conv.weight.is_meta
    assert not any(p.requires_grad for p in parent.teacher.module.parameters())


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_travels_with_its_parent(travel):
    parent = Parent()
    arrived = travel(parent)
    assert_equal(arrived.teacher(X), parent.teacher(X))
    assert arrived.teacher.module is not parent.teacher.module
    randomise(arrived.teacher.module, scale=3.0)
    assert not torch.equal(arrived.teacher(X), parent.teacher(X))
    assert not list(arrived.teacher.parameters())
