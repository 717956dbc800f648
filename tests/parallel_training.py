"""Guided training of a retrofitted host in one process, or in one of two. As a script: RANK STORE OUT.

In float64: sums that cancel differ between batches and their halves by more in float32 than a mistake would have to.
"""

import sys
from typing import Any

import torch
from small_students import Student
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, MetaLearner, RetrofitPlan, retrofit

WORLD = 2
STEPS = 3


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The global batch: four samples whose holes have four sizes, one of them none at all."""
    truth = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    mask = torch.zeros(4, 1, 32, 32, dtype=torch.float64)
    for sample, size in enumerate((6, 0, 20, 13)):
        mask[sample, :, 2 : 2 + size, step : step + size] = 1
    return torch.cat([truth * (1 - mask), mask], 1), truth, mask


def train(rank: int | None, *, meta_every: int = 0) -> dict[str, Any]:
    """Train on all of each batch (rank None), or on the share of a process; what there was in each step."""
    torch.manual_seed(0)
    net = Student().double()
    plan = RetrofitPlan(["level1", "level2"], hidden_channels=4)
    report = retrofit(net, plan, example=(batch(0)[0],))
    for level in (net.level1, net.level2):
        nn.init.normal_(level.kdinpaint_filler.exit.weight, std=0.3)
    teacher = AutoEncoder(3, (6, 10), head_channels=4).double()
    guide = Distiller(net, teacher, report, cross=0.5, self_distill=0.5).double()
    run = guide if rank is None else nn.parallel.DistributedDataParallel(guide)
    meta = MetaLearner(guide.predictors(), every=meta_every, lr=1e-2) if meta_every else None
    parameters = [*net.parameters(), *guide.trainable()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    found: dict[str, Any] = {"gradients": [], "losses": []}
    for step in range(STEPS):
        x, truth, mask = (t if rank is None else t.chunk(WORLD)[rank] for t in batch(step))
        out, losses = run(x, image=truth, mask=mask)
        task = F.l1_loss(out, truth)
        direction = guide.direction(task) if meta is not None and meta.due(step) else None
        optimizer.zero_grad()
        (task + sum(losses.values())).backward()
        found["losses"].append({name: loss.detach() for name, loss in losses.items()})
        found["gradients"].append([p.grad.clone() for p in parameters])
        if direction is not None:
            assert guide.meta_step(meta, direction, x, image=truth, mask=mask) is not None
        optimizer.step()
    found["parameters"] = [p.detach().clone() for p in parameters]
    found["predictors"] = [p.detach().clone() for p in guide.predictors()]
    return found


def main(rank: int, store: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    try:
        torch.save({"plain": train(rank), "meta": train(rank, meta_every=2)}, out)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
