"""Replicas as nn.DataParallel makes them, here by hand: it makes none on a CPU. One thread and part of a batch each."""

import copy
import threading

import pytest
import torch
from harness import assert_equal, random_mask
from retrofit_hosts import BOTH, CASES, IMAGE, Checkpointed, installed, liven, photo
from torch import nn

from kdinpaint import RetrofitPlan, retrofit, unretrofit
from kdinpaint.retrofitting import FilledStage

PARTS = 2


def replicas(net, count=PARTS):
    """As torch.nn.parallel.replicate does: copies of all modules that share hooks, with copies of all parameters."""
    modules = list(net.modules())
    place = {module: number for number, module in enumerate(modules)}
    copies = [[module._replicate_for_data_parallel() for module in modules] for _ in range(count)]
    for made in copies:
        for module, replica in zip(modules, made, strict=True):
            for key, child in module._modules.items():
                setattr(replica, key, made[place[child]])
            for key, parameter in module._parameters.items():
                setattr(replica, key, None if parameter is None else parameter.clone())
    return [made[0] for made in copies]


def run_all(parts, calls):
    results = [None] * len(parts)

    def work(number):
        args, kwargs = calls[number]
        results[number] = parts[number](*args, **kwargs)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


HOSTS = {
    "modules": (RetrofitPlan(["levels.*"], mask="kwarg:mask"),),
    "range": (RetrofitPlan([("levels.0", "levels.1")], mask="kwarg:mask"),),
    "serial": (RetrofitPlan(["levels.*"], mask="kwarg:mask", mode="serial"),),
}


@pytest.mark.parametrize("name", HOSTS)
def test_each_replica_has_the_mask_of_its_part(name):
    net = liven(installed(*HOSTS[name]))
    image, _ = photo(batch=4)
    mask = random_mask(4, 24, 32, seed=9).float()
    expected = net(image, mask=mask)
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    for _ in range(3):
        parts = replicas(net)
        calls = [((i,), {"mask": m}) for i, m in zip(image.chunk(PARTS), mask.chunk(PARTS), strict=True)]
        found = torch.cat(run_all(parts, calls))
        torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], gradients, rtol=1e-4, atol=1e-6)
    unretrofit(net)
    assert not any(isinstance(m, FilledStage) for m in net.modules())


def test_checkpointed_replicas():
    net = Checkpointed()
    retrofit(net, CASES["checkpointed"].plan, (BOTH,))
    liven(net)
    net(BOTH).square().mean().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    (part,) = replicas(net, 1)
    run_all([part], [((BOTH,), {})])[0].square().mean().backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], gradients, rtol=1e-4, atol=1e-6)


def test_copies_in_threads_are_strangers():
    net = liven(installed())
    other = copy.deepcopy(net)
    assert other.levels[0].feed is not net.levels[0].feed
    assert other.levels[0].feed is other.levels[1].feed
    masks = [random_mask(2, 24, 32, seed=seed).float() for seed in (1, 2)]
    expected = [net(IMAGE, mask=mask) for mask in masks]
    assert_equal(run_all([net, other], [((IMAGE,), {"mask": mask}) for mask in masks]), expected)


def test_data_parallel_without_a_gpu_hands_on():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: test_guarantees.py")
    net = liven(installed())
    mask = random_mask(2, 24, 32).float()
    assert_equal(nn.DataParallel(net)(IMAGE, mask=mask), net(IMAGE, mask=mask))
