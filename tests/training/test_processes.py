"""The student's objective in two processes: one gradient, one meta-update."""

import datetime

import pytest
import torch
from harness import assert_equal, seeded
from torch.nn.parallel import DistributedDataParallel

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint.training import DistillConfig, LossConfig, StudentObjective

CHANNELS = (4, 6)


def _process(rank, store, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
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
    torch.save(found, f"{results}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_student_and_meta_learned_parts_stay_the_same_in_all_processes(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of PyTorch has no gloo")
    torch.multiprocessing.spawn(_process, (f"file://{tmp_path}/store", str(tmp_path / "state")), nprocs=2)
    assert_equal(*(torch.load(tmp_path / f"state.{rank}") for rank in (0, 1)))
