"""What retrofit refuses, how it finds masks and names, and what holds beside the forward pass."""

import copy
import pickle

import pytest
import torch
from harness import assert_equal
from retrofit_hosts import BOTH, IMAGE, KWARG, MASK, PLAN, Lists, Plain, installed, liven, up
from torch import Tensor, nn

from kdinpaint import RetrofitPlan, retrofit, unretrofit
from kdinpaint.errors import ConfigError, ShapeError
from kdinpaint.retrofitting import disabled


class Broken(Plain):
    """Calls its levels through a plain list, past the module tree."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = list(self.levels)

    def forward(self, image: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return up(self.head(self.hidden[1](self.hidden[0](image))), image)


REFUSED = {
    "no such name": (Plain, ["levls.0"], {}, "no module is called 'levls.0'. Did you mean 'levels.0'"),
    "no such pattern": (Plain, ["enc.*"], {}, "inspect"),
    "ambiguous end": (Plain, ["0"], {}, "write out the one that is meant"),
    "never called": (Plain, ["levels"], {}, "never called.*levels.0, levels.1"),
    "wrong order": (Plain, [("levels.1", "levels.0")], {}, "order of running"),
    "pair of many": (Plain, [("levels.*", "head")], {}, "one module each"),
    "ends twice": (Plain, ["levels.1", ("levels.0", "levels.1")], {}, "two levels end with"),
    "past the tree": (Broken, ["levels.0"], {}, "without going through the place.*as it was before"),
    "layout": (Plain, ["levels.0"], {"layout": "nwhc"}, "layout is 'nwhc'"),
    "output": (Plain, ["levels.0"], {"outputs": 3}, "outputs selects"),
    "input": (Plain, ["levels.0"], {"inputs": "x"}, "inputs selects"),
    "no such level": (Plain, ["levels.0"], {"outputs": {"level.0": 0}}, "no module is called 'level.0'.*'levels.0'"),
    "mask place": (Plain, ["levels.0"], {"mask": "kwarg:hole"}, "finds nothing"),
    "mask none": (Plain, ["levels.0"], {"mask": lambda args, kwargs: None}, "has no mask"),
    "mask small": (Plain, ["levels.0"], {"mask": lambda args, kwargs: MASK[..., ::8, ::8]}, "larger than the mask"),
    "mask key": (Plain, ["levels.0"], {"mask": "key:mask"}, "dict with that key"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_leaves_the_host_alone(name):
    build, levels, options, message = REFUSED[name]
    net = build()
    before, tree = copy.deepcopy(net.state_dict()), list(map(id, net.modules()))
    seed = torch.get_rng_state()
    with pytest.raises(ConfigError, match=message):
        retrofit(net, RetrofitPlan(levels, **{"mask": "kwarg:mask", **options}), (IMAGE,), example_kwargs=KWARG)
    assert torch.equal(torch.get_rng_state(), seed)
    assert list(map(id, net.modules())) == tree
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(m.training for m in net.modules())
    assert_equal(net.state_dict(), before)


def test_refuses_what_is_no_host():
    net = installed()
    with pytest.raises(ConfigError, match=r"already, at levels.0, levels.1. Call kdinpaint.unretrofit"):
        retrofit(net, PLAN, (IMAGE,), example_kwargs=KWARG)
    with pytest.raises(ConfigError, match="retrofitted already"):
        retrofit(nn.Sequential(net), PLAN, (IMAGE,), example_kwargs=KWARG)
    unretrofit(net)
    with pytest.raises(ConfigError, match="not retrofitted"):
        unretrofit(net)
    with pytest.raises(ConfigError, match="not retrofitted"), disabled(net):
        pass
    with pytest.raises(ConfigError, match="example is missing"):
        retrofit(net, PLAN)
    with pytest.raises(ConfigError, match=r"does not run on the example: TypeError"):
        retrofit(net, PLAN, (IMAGE, MASK, MASK))
    with pytest.raises(ConfigError, match="DataParallel"):
        retrofit(nn.DataParallel(net), PLAN, (IMAGE,))
    with pytest.raises(ConfigError, match="OptimizedModule"):
        retrofit(torch.compile(net), PLAN, (IMAGE,))
    with pytest.raises(ConfigError, match=r"expected a torch.nn.Module"):
        retrofit(3, PLAN, (IMAGE,))
    with pytest.raises(ConfigError, match="lazy"):
        retrofit(nn.Sequential(nn.LazyConv2d(3, 1)), RetrofitPlan("0"), (IMAGE,))
    with pytest.raises(ConfigError, match=r"several features.*outputs=\{'encoder': \(0,\)"):
        retrofit(Lists(), RetrofitPlan("encoder"), (BOTH,))
    with pytest.raises(ShapeError, match="channel 7"):
        retrofit(net, RetrofitPlan("levels.0", mask="input:7"), (IMAGE,))


@pytest.mark.parametrize(
    "options",
    [
        {"levels": []},
        {"levels": [3]},
        {"levels": [("a", "b", "c")]},
        {"levels": ["a"], "mask": "channel 3"},
        {"levels": ["a"], "mask": 3},
        {"levels": ["a"], "mode": "beside"},
        {"levels": ["a"], "conv": "deformable"},
        {"levels": ["a"], "modulation": "tanh"},
        {"levels": ["a"], "hidden_channels": 0},
        {"levels": ["a"], "max_offset": -1.0},
    ],
    ids=str,
)
def test_plans_that_cannot_work(options):
    with pytest.raises(ConfigError):
        RetrofitPlan(**options)


MASKS = {
    "input:-1": lambda m: ((torch.cat([IMAGE, m], 1),), {}),
    "~input:3": lambda m: ((torch.cat([IMAGE, 1 - m], 1),), {}),
    "arg:1": lambda m: ((IMAGE, m.bool()), {}),
    "~arg:1": lambda m: ((IMAGE,), {"mask": ~m.bool()}),
    "kwarg:mask": lambda m: ((IMAGE, 2 * m[:, 0] - 1), {}),
    "~kwarg:mask": lambda m: ((), {"image": IMAGE, "mask": 255 * (1 - m).repeat(1, 3, 1, 1)}),
    "key:mask": lambda m: (({"mask": m.int()},), {}),
}


@pytest.mark.parametrize("spec", MASKS)
def test_masks_are_found_in_either_polarity(spec):
    from kdinpaint.retrofitting.masks import MaskSource

    class Host(nn.Module):
        def forward(self, image, mask=None):
            return image

    source = MaskSource(spec, Host())
    args, kwargs = MASKS[spec](MASK)
    if spec == "~kwarg:mask":
        with pytest.raises(AssertionError):  # three equal channels: inverted before they are joined
            assert_equal(source(args, kwargs), ~MASK.bool())
    assert_equal(source(args, kwargs), MASK.bool())


def test_a_pair_is_written_as_tables_print_it():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    found = retrofit(net, RetrofitPlan(["0 .. 1"]), example=(torch.rand(1, 4, 16, 16),))
    assert [level.target for level in found.levels] == [("0", "1")]
    assert "0 .. 1" in str(found)


@pytest.mark.parametrize("copied", [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_what_was_frozen_is_trainable_again_after_its_parameters_were_replaced(copied):
    net = installed(trainable="fillers")
    net = copied(net)
    net.load_state_dict({key: value.clone() for key, value in net.state_dict().items()}, assign=True)
    nn.utils.parametrizations.orthogonal(net.head)
    assert not any(p.requires_grad for p in net.head.parameters())
    unretrofit(net)
    assert all(p.requires_grad for p in net.parameters())


def test_shared_parameters_are_trainable_again_after_they_were_torn_apart():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
    net[2].weight = net[1].weight
    retrofit(net, RetrofitPlan("0"), (BOTH,), trainable="fillers")
    net.load_state_dict({key: value.clone() for key, value in net.state_dict().items()}, assign=True)
    assert not net[2].weight.requires_grad
    unretrofit(net)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("batch", [1, 2])
def test_repeated_batches_are_refused_whatever_the_batch_of_the_example(batch):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Conv2d(4, 6, 3, 2, 1)

        def forward(self, x):
            return self.down(torch.cat([x, x.flip(-1)]))

    with pytest.raises(ConfigError, match=f"has a batch of {2 * batch} and the mask one of {batch}"):
        retrofit(Views(), RetrofitPlan("down"), (BOTH[:batch],))


def test_one_mask_for_a_batch_of_images():
    net = Plain().eval()
    retrofit(net, PLAN, (IMAGE,), example_kwargs={"mask": MASK[:1]})
    liven(net)
    assert_equal(net(IMAGE, mask=MASK[:1]), net(IMAGE, mask=MASK[:1].expand(2, -1, -1, -1)))
