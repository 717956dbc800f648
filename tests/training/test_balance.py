"""What balanced_loss does to gradients."""

import pytest
import torch
from harness import seeded

from kdinpaint.training.balance import balanced_loss


class Setting:
    """Two shared parameters, one that only the task sees, one that only distillation sees."""

    def __init__(self, seed=0, against=False):
        generator = seeded(seed)
        self.shared = [torch.randn(3, generator=generator, requires_grad=True) for _ in range(2)]
        self.head, self.extra = (torch.randn(3, generator=generator, requires_grad=True) for _ in range(2))
        self.pull = [torch.randn(3, generator=generator) for _ in range(2)]
        sign = -1 if against else 1
        self.task = sum((p * v).sum() for p, v in zip(self.shared, self.pull, strict=True)) + self.head.square().sum()
        self.distill = sum((p * (sign * v + 0.1)).sum() for p, v in zip(self.shared, self.pull, strict=True))
        self.distill = self.distill + (self.extra * self.shared[0]).sum()
        self.total = self.task + self.distill

    def gradients(self, loss):
        found = torch.autograd.grad(loss, [*self.shared, self.head, self.extra], retain_graph=True, allow_unused=True)
        return torch.cat([torch.zeros(3) if g is None else g for g in found])

    def balanced(self, **options):
        direction = torch.autograd.grad(self.task, self.shared, retain_graph=True)
        return balanced_loss(self.task, self.total, self.shared, direction, **options)


def test_none_is_the_total():
    setting = Setting()
    assert setting.balanced(mode="none") is setting.total


@pytest.mark.parametrize("ratio", [0.1, 0.5, 2.0])
def test_norm_sets_the_share_of_the_distillation_gradient(ratio):
    setting = Setting()
    task = setting.gradients(setting.task)
    rest = setting.gradients(setting.balanced(mode="norm", ratio=ratio)) - task
    assert (rest[:6].norm() / task[:6].norm()).item() == pytest.approx(ratio, rel=1e-4)
    own = setting.gradients(setting.distill)
    assert torch.cosine_similarity(rest, own, 0).item() == pytest.approx(1, abs=1e-5)


def test_projection_takes_away_what_points_against_the_task_and_nothing_else():
    setting = Setting(against=True)
    task, own = setting.gradients(setting.task), setting.gradients(setting.distill)
    assert task[:6] @ own[:6] < 0
    loss = setting.balanced(mode="project")
    assert loss.item() == pytest.approx(setting.total.item())
    rest = setting.gradients(loss) - task
    assert abs((rest[:6] @ task[:6]).item()) < 1e-4
    expected = own[:6] - (own[:6] @ task[:6]) / (task[:6] @ task[:6]) * task[:6]
    torch.testing.assert_close(rest[:6], expected)
    torch.testing.assert_close(rest[6:], own[6:])  # a head of the task is trained by the task alone


def test_projection_leaves_agreeing_gradients_alone():
    setting = Setting(seed=3)
    task, own = setting.gradients(setting.task), setting.gradients(setting.distill)
    assert task[:6] @ own[:6] > 0
    torch.testing.assert_close(setting.gradients(setting.balanced(mode="project")), task + own)


@pytest.mark.parametrize("mode", ["norm", "project"])
def test_without_a_distillation_gradient_the_task_is_as_it_was(mode):
    setting = Setting()
    setting.total = setting.task + 0 * setting.distill
    torch.testing.assert_close(setting.gradients(setting.balanced(mode=mode)), setting.gradients(setting.task))
