"""Objectives in two processes: one gradient, one meta-update."""

import pytest
import torch
from harness import assert_equal, seeded
from small_comparators import WIDTHS, batch, small_objective
from torch.nn.parallel import DistributedDataParallel
from two_processes import in_two_processes, needs_gloo

from kdinpaint import AutoEncoder, InpaintingNet, create_model
from kdinpaint.training import RECIPES, DistillConfig, LossConfig, StudentObjective

CHANNELS = (4, 6)


def _student(rank):
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


def _completion(rank, processes=2):
    """Gradients of EC's completion, averaged as data-parallel training does it, for holes of different sizes."""
    torch.manual_seed(0)
    recipe = RECIPES["ec"]
    stage = small_objective(create_model("ec", **WIDTHS["ec"]), recipe, recipe.phases[1]).double()
    share = slice(rank, rank + 1) if processes == 2 else slice(None)
    losses = stage({name: value[share].double() for name, value in batch(32).items()}, 0.0)
    losses.total.backward()
    found = [p.grad for p in stage.net.completion.parameters()]
    if processes == 2:
        for gradient in found:
            torch.distributed.all_reduce(gradient)
    return [gradient / processes for gradient in found]


def _work(rank):
    return _student(rank), _completion(rank)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return in_two_processes(_work, tmp_path_factory.mktemp("processes"))


@needs_gloo
@pytest.mark.slow
def test_student_and_meta_learned_parts_stay_the_same_in_all_processes(found):
    (mine, _), (theirs, _) = found
    assert_equal(mine, theirs)


@needs_gloo
@pytest.mark.slow
def test_completion_of_edge_connect_is_that_of_the_whole_batch(found):
    whole = _completion(0, processes=1)
    for _, gradients in found:
        torch.testing.assert_close(gradients, whole)
