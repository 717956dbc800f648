"""Modes of a module and its parts."""

import torch
from torch import nn

from kdinpaint._core.modes import evaluating


def test_every_part_gets_its_own_mode_back():
    net = nn.Sequential(nn.BatchNorm2d(2).eval(), nn.Dropout())
    with evaluating(net):
        assert not torch.is_grad_enabled()
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, False, True]
