"""The student's objective in two processes: one gradient, one meta-update."""

import pytest
import torch
from harness import assert_equal, seeded
from torch.nn.parallel import DistributedDataParallel
from two_processes import in_two_processes, needs_gloo

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint.training import DistillConfig, LossConfig, StudentObjective

CHANNELS = (4, 6)


def _work(rank):
    found = []
    for options in ({}, {"balance": "project", "meta_method": "l2t", "meta_inner_lr": 1e-5, "aligner": "teacher"}):
        torch.manual_seed(0)
        net = InpaintingNet(3, CHANNELS, head_channels=4, dilations=(1,))
        distill = DistillConfig(meta_every=1, **options)
        stage = StudentObjective(net, AutoEncoder(3, CHANNELS, head_channels=4), loss=LossConfig(), distill=distill)
        wrapped = DistributedDataParallel(stage, find_unused_parameters=True)  # as the engine's accelerator does
        optimizer = torch.optim.Adam(stage.trainable(), lr=1e-3)
        for step in range(3):
            image = torch.rand(2, 3, 16, 16, generator=seeded(10 * step + rank))
            losses = wrapped({"image": image, "mask": torch.ones(2, 1, 16, 16)}, step / 3)
            stage.backward(losses, step, lambda loss: loss.backward())
            optimizer.step()
            optimizer.zero_grad()
        found.append([p.detach() for p in stage.parameters()])
    return found


@needs_gloo
@pytest.mark.slow
def test_student_and_meta_learned_parts_stay_the_same_in_all_processes(tmp_path):
    assert_equal(*in_two_processes(_work, tmp_path))
