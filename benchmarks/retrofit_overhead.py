"""What wrappers and taps cost: a training step of a retrofitted network against the same computation written by hand.

python benchmarks/retrofit_overhead.py             prints
python benchmarks/retrofit_overhead.py --write     on an idle machine: writes benchmarks/results/retrofit_overhead.json

Both variants are the same modules with the same weights, take turns within one run, and give the same gradients.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, RetrofitPlan, retrofit
from kdinpaint.benchmark.timing import interleave, speedup
from kdinpaint.retrofitting import FilledStage
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results" / "retrofit_overhead.json"
WIDTHS = (32, 64, 128)


class UNet(nn.Module):
    """A plain encoder-decoder with skips; image with hole and mask in, image out."""

    def __init__(self) -> None:
        super().__init__()
        before = (4, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(b, b, 3, padding=1), nn.LeakyReLU(0.2))
            for a, b in zip(before, WIDTHS, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(a + b, b, 3, padding=1) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(WIDTHS[0] + 4, 3, 3, padding=1)

    def decode(self, features: list[Tensor], x: Tensor) -> Tensor:
        """Image from the features of all levels."""
        y = features[-1]
        for conv, skip in zip(self.up, features[-2::-1], strict=True):
            y = F.leaky_relu(conv(torch.cat([F.interpolate(y, scale_factor=2.0), skip], 1)), 0.2)
        return torch.sigmoid(self.out(torch.cat([F.interpolate(y, scale_factor=2.0), x], 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Image."""
        features, y = [], x
        for level in self.down:
            y = level(y)
            features.append(y)
        return self.decode(features, x)


def by_hand(guide: Distiller, x: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What Distiller and wrappers compute, without hooks and wrappers."""
    net: UNet = guide.student
    features, y = [], x
    hole = x[:, -1:] > 0.5
    for stage in net.down:
        assert isinstance(stage, FilledStage)
        y = stage.base(y) + stage.kdinpaint_filler(y, hole)
        features.append(y)
    out = net.decode(features, x)
    with torch.no_grad():
        targets = guide.teacher.module.encode(image)
    deeper = [f.detach() for f in features[1:]]
    if guide.training:
        guide.cross.observe(targets)
        guide.self_distill.observe(deeper)
    losses = []
    for term, found, distances in (
        (guide.cross, targets, guide.cross.distances(features, targets, mask)),
        (guide.self_distill, deeper, guide.self_distill.distances(features, mask)),
    ):
        losses.append(0.1 * term.combine([w.detach() for w in term.importance(found, mask)], distances))
    return out, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--write", action="store_true", help="write the result; on an idle machine")
    options = parser.parse_args()
    torch.manual_seed(0)
    image = torch.rand(options.batch, 3, options.size, options.size, device=options.device)
    mask = torch.zeros_like(image[:, :1])
    quarter = options.size // 4
    mask[..., quarter : 3 * quarter, quarter : 3 * quarter] = 1
    x = torch.cat([image * (1 - mask), mask], 1)
    net = UNet().to(options.device)
    report = retrofit(net, RetrofitPlan(["down.*"], mask="input:-1"), example=(x,))
    teacher = AutoEncoder.for_levels(report.levels).to(options.device)
    guide = Distiller(net, teacher, report.levels, cross=0.1, self_distill=0.1)
    parameters = [*net.parameters(), *guide.trainable()]

    def step(run) -> list[Tensor | None]:
        out, losses = run()
        total = F.l1_loss(out, image) + sum(losses.values() if isinstance(losses, dict) else losses)
        return torch.autograd.grad(total, parameters, allow_unused=True)

    variants = {
        "retrofit": lambda: step(lambda: guide(x, image=image, mask=mask)),
        "by hand": lambda: step(lambda: by_hand(guide, x, image, mask)),
    }
    guide(x, image=image, mask=mask)
    guide.eval()  # the same scales for both
    observed = [call() for call in variants.values()]
    for mine, theirs in zip(*observed, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-4)
    guide.train()
    times = interleave(variants, rounds=options.rounds, device=options.device)
    ratio = speedup(times["by hand"], times["retrofit"])
    content = {
        "command": f"python benchmarks/retrofit_overhead.py --size {options.size} --batch {options.batch} "
        f"--rounds {options.rounds} --device {options.device} --write",
        "environment": environment(),
        "milliseconds": {name: timing.summary() for name, timing in times.items()},
        "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
    }
    print(json.dumps({k: content[k] for k in ("milliseconds", "ratio")}, indent=1))
    if options.write:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
