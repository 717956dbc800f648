"""Awkward hosts for retrofit: small networks that each do one thing in a way of their own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from harness import random_mask, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kdinpaint import RetrofitPlan, retrofit
from kdinpaint.retrofitting import FilledStage


def down(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.GELU(), nn.Dropout(0.1))


def up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def photo(seed: int = 0, height: int = 24, width: int = 32, batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 3, height, width, generator=seeded(seed)), random_mask(batch, height, width).float()


class Plain(nn.Module):
    """Levels in a ModuleList, mask by keyword with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([down(3, 6), down(6, 10)])
        self.head = nn.Conv2d(10, 3, 1)

    def forward(self, image: Tensor, *, mask: Tensor | None = None) -> Tensor:
        x = image
        for level in self.levels:
            x = level(x)
        return up(self.head(x), image)


class Positional(Plain):
    """The mask is the second argument."""

    def forward(self, image: Tensor, known: Tensor) -> Tensor:
        return super().forward(image * known)


class ForwardFeatures(Plain):
    """Its forward goes through a method, and gives a dict."""

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for number, level in enumerate(self.levels):
            found[f"level{number}"] = x = level(x)
        return found

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["image"]
        return {"out": up(self.head(self.forward_features(x)["level1"]), x)}


class Pair(NamedTuple):
    feature: Tensor
    other: Tensor


class TupleStage(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = down(before, after)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Pair:
        y = self.body(pair[0])
        return Pair(y, y.mean((2, 3), keepdim=True) + pair[1].mean())


class Tuples(nn.Module):
    """Stages take and give (named) tuples of two features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = TupleStage(4, 6), TupleStage(6, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        pair = self.b(self.a((x, x)))
        return up(self.head(pair.feature) + pair.other.mean(), x), 7


class DictStage(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = down(before, after)

    def forward(self, *, features: dict[str, Tensor]) -> dict[str, Any]:
        x = self.body(features["x"])
        return {"x": x, "all": [x], "size": tuple(x.shape)}


class Dicts(nn.Module):
    """Stages take and give dicts in which a feature stands twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = DictStage(4, 6), DictStage(6, 8)
        self.head = nn.Conv2d(14, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(features={"x": x})
        b = self.b(features={"x": a["x"]})
        return self.head(torch.cat([up(a["all"][0], x), up(b["all"][0], x)], 1))


class ListEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = down(4, 6), down(6, 8)

    def forward(self, x: Tensor) -> list[Tensor]:
        a = self.a(x)
        return [x, a, self.b(a)]


class Lists(nn.Module):
    """One stage gives all features as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ListEncoder()
        self.head = nn.Conv2d(14, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        return self.head(torch.cat([up(f, x) for f in features[1:]], 1))


class Reused(nn.Module):
    """One stage under two names, run twice in a call at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 6, 1)
        self.first = down(6, 6)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.stem(x))
        return up(y, x)[:, :3] + up(self.second(y), x)[:, 3:]


class NHWC(nn.Module):
    """Channels last as an axis, as Swin has them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(4, 8, 4, 4)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return up(self.head(self.block(self.embed(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), x)


class Tokens(nn.Module):
    """A class token, then a grid of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(4, 8, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.embed(x)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), grid.flatten(2).transpose(1, 2)], 1)
        out = self.head(self.block(tokens))[:, 1:]
        return up(out.transpose(1, 2).unflatten(2, grid.shape[-2:]), x)


class InPlace(nn.Module):
    """The stage begins with an activation that overwrites its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 6, 3, 2, 1)
        self.stage = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1))
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return up(self.head(self.stage(self.stem(x))), x)


class Checkpointed(nn.Module):
    """Two levels run again during the backward pass."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 6, 1)
        self.a, self.b = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.GELU()), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Conv2d(8, 3, 1)
        self.reentrant, self.on = reentrant, True

    def encode(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = checkpoint(self.encode, x, use_reentrant=self.reentrant) if self.on else self.encode(x)
        return up(self.head(y), x)


class Shrinking(nn.Module):
    """Convolutions without padding, strides that differ or are odd, and a stage that pools."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 6, 5)
        self.b = nn.Conv2d(6, 8, 3, 3)
        self.pool = nn.AvgPool2d((2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return up(self.pool(self.b(self.a(x)))[:, :3], x)


class Hooked(nn.Module):
    """A decoder that reads what hooks have caught, as some feature extractors work."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = down(4, 6), down(6, 8)
        self.head = nn.Conv2d(14, 3, 1)
        self.caught: dict[str, Tensor] = {}
        self.a.register_forward_hook(Catch("a", self.caught))
        self.b.register_forward_hook(Catch("b", self.caught), with_kwargs=True)

    def forward(self, x: Tensor) -> Tensor:
        self.b(self.a(x))
        return self.head(torch.cat([up(self.caught.pop("a"), x), up(self.caught.pop("b"), x)], 1))


class Catch:
    def __init__(self, name: str, caught: dict[str, Tensor]) -> None:
        self.name, self.caught = name, caught

    def __call__(self, module: nn.Module, *seen: Any) -> None:
        self.caught[self.name] = seen[-1]


class PartialStage(nn.Module):
    """A partial convolution: what is known weighs, and what becomes known goes on as a second feature."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after)

    def forward(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        share = F.avg_pool2d(known, 3, 2, 1)
        y = self.norm(self.conv(x * known) / (share + 0.1)).relu()
        return y, (share > 0).to(x.dtype)


class Partial(nn.Module):
    """Stages take feature and mask and give both."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([PartialStage(3, 6), PartialStage(6, 8)])
        self.head = nn.Conv2d(14, 3, 1)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        a, known = self.levels[0](image, 1 - hole)
        b, known = self.levels[1](a, known)
        return self.head(torch.cat([up(a, image), up(b * known, image)], 1))


def white_is_hole(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return (args[0] >= 1).all(1, keepdim=True)


@dataclass
class Case:
    """A host, a call of it, and the plan for it."""

    build: Callable[[], nn.Module]
    plan: RetrofitPlan
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    exports: bool = True


IMAGE, MASK = photo()
BOTH = torch.cat([IMAGE * (1 - MASK), MASK], 1)
CHANNEL = (BOTH,)

CASES = {
    "sequential": Case(
        lambda: nn.Sequential(*down(4, 6), down(6, 8), nn.Conv2d(8, 3, 1)), RetrofitPlan([("0", "3"), "4"]), CHANNEL
    ),
    "kwarg": Case(Plain, RetrofitPlan(["levels.*"], mask="kwarg:mask"), (IMAGE,), {"mask": MASK}),
    "inverted": Case(Positional, RetrofitPlan(["levels.0"], mask="~arg:1"), (IMAGE, 1 - MASK)),
    "callable": Case(Plain, RetrofitPlan(["levels.0"], mask=white_is_hole), (torch.where(MASK > 0, 1.0, IMAGE),)),
    "range": Case(Plain, RetrofitPlan([("levels.0", "levels.1")], mask="kwarg:mask"), (IMAGE,), {"mask": MASK[:, 0]}),
    "serial": Case(Plain, RetrofitPlan(["levels.*"], mask="kwarg:mask", mode="serial"), (IMAGE,), {"mask": MASK}),
    "features": Case(
        ForwardFeatures, RetrofitPlan(["levels.*"], mask="key:mask", conv="plain"), ({"image": IMAGE, "mask": MASK},)
    ),
    "tuples": Case(Tuples, RetrofitPlan(["a", "b"], inputs=(0, 0), outputs=0), CHANNEL),
    "dicts": Case(Dicts, RetrofitPlan(["a", "b"], inputs={"?": ("features", "x")}, cond_mask=True), CHANNEL),
    "partial": Case(Partial, RetrofitPlan(["levels.*"], mask="arg:1", outputs=0), (IMAGE, MASK)),
    "lists": Case(Lists, RetrofitPlan(["encoder"], outputs=2), CHANNEL),
    "reused": Case(Reused, RetrofitPlan(["second"]), CHANNEL),
    "nhwc": Case(NHWC, RetrofitPlan(["block"]), CHANNEL),
    "tokens": Case(Tokens, RetrofitPlan(["embed", "block"], hidden_channels=4, max_offset=4.0), CHANNEL),
    "in place": Case(InPlace, RetrofitPlan(["stage"]), CHANNEL),
    "hooked": Case(Hooked, RetrofitPlan(["a", "b"]), CHANNEL),
    "checkpointed": Case(Checkpointed, RetrofitPlan(["a", "b"]), CHANNEL),
    "reentrant": Case(lambda: Checkpointed(True), RetrofitPlan(["a"]), CHANNEL, exports=False),
    "shrinking": Case(Shrinking, RetrofitPlan(["a", "b", "pool"]), CHANNEL),
}

KWARG = {"mask": MASK}
PLAN = RetrofitPlan(["levels.*"], mask="kwarg:mask")


def installed(plan: RetrofitPlan = PLAN, **options: Any) -> "Plain":
    net = Plain().eval()
    retrofit(net, plan, (IMAGE,), example_kwargs=KWARG, **options)
    return net


def liven(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, FilledStage):
            nn.init.normal_(module.kdinpaint_filler.exit.weight)
    return net
