"""A thousand guided steps hold no more memory than some."""

import gc
import os
from itertools import pairwise

import pytest
import torch
from retrofit_hosts import liven
from small_students import Student, batch
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, MetaLearner, RetrofitPlan, retrofit

STATUS = "/proc/self/statm"


def resident() -> float:
    """Megabytes of this process in memory."""
    with open(STATUS) as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_steps():
    net = Student()
    x, truth, mask = batch(16, count=1)
    plan = RetrofitPlan(["level1", "level2"], hidden_channels=2)
    report = retrofit(net, plan, example=(x,))
    liven(net)
    guide = Distiller(net, AutoEncoder.for_levels(report.levels, blocks=0, head_channels=2), plan)
    parameters = [*net.parameters(), *guide.trainable()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    meta = MetaLearner(guide.predictors(), every=100)
    tensors, megabytes = [], []
    for step in range(1000):
        out, losses = guide(x, image=truth, mask=mask)
        task = F.l1_loss(out, truth)
        direction = guide.direction(task) if meta.due(step) else None
        optimizer.zero_grad()
        (task + sum(losses.values())).backward()
        if direction is not None:
            guide.meta_step(meta, direction, x, image=truth, mask=mask)
        optimizer.step()
        if step % 200 == 199:
            del out, losses, task, direction
            gc.collect()
            tensors.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
            megabytes.append(resident() if os.path.exists(STATUS) else 0.0)
    # Never more than before. Fewer may be: what earlier tests have left in this process goes when it will.
    assert all(later <= earlier for earlier, later in pairwise(tensors)), tensors
    assert megabytes[-1] - megabytes[0] < 8, megabytes
