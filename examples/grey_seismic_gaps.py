"""Missing traces of a seismic section: one channel, generated data, no photograph anywhere.

Sections are layers of reflectors, folded and faulted, seen through a wavelet. Gaps are runs of missing traces.
A small network of one channel gets fillers and a teacher that was trained on complete sections.

python examples/grey_seismic_gaps.py            a few minutes on a CPU
python examples/grey_seismic_gaps.py --smoke    a few seconds
"""

import argparse
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kdinpaint

SIZE = 64


def wavelet(width: float = 2.0) -> Tensor:
    """A Ricker wavelet, (1, 1, 17, 1)."""
    t = (torch.arange(17.0) - 8) / width
    return ((1 - t.square()) * torch.exp(-t.square() / 2))[None, None, :, None]


def sections(batch: int, generator: torch.Generator) -> Tensor:
    """Sections (batch, 1, SIZE, SIZE) in [0, 1]: depth along the rows, traces along the columns."""

    def random(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)

    layers = (random(4 * SIZE) - 0.5) * (random(4 * SIZE) < 0.3)  # reflection coefficients, mostly none
    trace = torch.arange(SIZE) / SIZE
    dip = (random(1) - 0.5) * SIZE * trace
    fold = 12 * random(1) * torch.sin(2 * torch.pi * (trace * (0.5 + 2 * random(1)) + random(1)))
    fault = (24 * random(1) - 12) * (trace > random(1))
    depth = torch.arange(SIZE)[None, :, None] + 1.5 * SIZE + (dip + fold + fault)[:, None, :]
    place = depth.floor().clamp(0, 4 * SIZE - 2).long()
    share = depth - place
    rows = layers[:, :, None].expand(-1, -1, SIZE)
    reflectors = rows.gather(1, place) * (1 - share) + rows.gather(1, place + 1) * share
    return (0.5 + 0.5 * F.conv2d(reflectors[:, None], wavelet(), padding=(8, 0))).clamp(0, 1)


def gaps(batch: int, generator: torch.Generator) -> Tensor:
    """Masks (batch, 1, SIZE, SIZE), 1 = missing: two runs of 4 to 12 traces each."""
    mask = torch.zeros(batch, 1, SIZE, SIZE)
    for number in range(batch):
        for _ in range(2):
            width = int(torch.randint(4, 13, (), generator=generator))
            start = int(torch.randint(0, SIZE - width, (), generator=generator))
            mask[number, :, :, start : start + width] = 1
    return mask


class Interpolator(nn.Module):
    """Somebody's network for missing traces: section and mask in, section out."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(2, 16, 4, 2, 1), nn.LeakyReLU(0.2))
        self.down2 = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2))
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(32, 16, 3, padding=1), nn.LeakyReLU(0.2))
        self.up2 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(32, 16, 3, padding=1), nn.LeakyReLU(0.2))
        self.out = nn.Conv2d(18, 1, 3, padding=1)

    def forward(self, section: Tensor, missing: Tensor) -> Tensor:
        """The complete section."""
        x = torch.cat([section * (1 - missing) + 0.5 * missing, missing], 1)
        shallow = self.down1(x)
        y = self.up1(self.down2(shallow))
        return torch.sigmoid(self.out(torch.cat([self.up2(torch.cat([y, shallow], 1)), x], 1)))


def train(net: nn.Module, parameters: list[nn.Parameter], steps: int, run) -> float:
    """Train on fresh data with the losses that `run` gives; returns the last one."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    for _ in range(steps):
        loss = run(sections(8, generator), gaps(8, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def error_in_gaps(net: nn.Module, count: int) -> float:
    """Mean absolute error of the missing traces of sections never seen."""
    generator = torch.Generator().manual_seed(2)
    section, missing = sections(count, generator), gaps(count, generator)
    return float(((net(section, missing) - section).abs() * missing).sum() / missing.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    smoke = parser.parse_args().smoke
    steps, count = (3, 4) if smoke else (600, 64)
    torch.manual_seed(0)
    plain = Interpolator()
    net = copy.deepcopy(plain)
    generator = torch.Generator().manual_seed(0)
    example = sections(1, generator), gaps(1, generator)

    plan = kdinpaint.RetrofitPlan(levels=["down1", "down2"], mask="arg:1")
    report = kdinpaint.retrofit(net, plan, example=example)
    print(report)
    # One channel at 1/4 resolution with 32 channels could copy a section: a deeper bottleneck is added for that.
    teacher = kdinpaint.AutoEncoder.for_levels(report.levels, in_channels=1)
    error = train(teacher, list(teacher.parameters()), steps, lambda section, _: F.l1_loss(teacher(section), section))
    print(f"teacher: reconstruction error {error:.4f}, channels {teacher.channels}, taught levels {teacher.taught}")

    guide = kdinpaint.Distiller(net, teacher, plan, self_ramp=steps // 5)

    def task(out: Tensor, section: Tensor, missing: Tensor) -> Tensor:
        return F.l1_loss(out, section) + 5 * ((out - section).abs() * missing).sum() / missing.sum()

    def guided(section: Tensor, missing: Tensor) -> Tensor:
        out, losses = guide(section, missing, image=section, mask=missing)
        return task(out, section, missing) + sum(losses.values())

    train(plain, list(plain.parameters()), steps, lambda s, m: task(plain(s, m), s, m))
    train(net, [*net.parameters(), *guide.trainable()], steps, guided)
    kdinpaint.strip(net)
    print(f"plain       error in the gaps {error_in_gaps(plain, count):.4f}")
    print(f"retrofitted error in the gaps {error_in_gaps(net, count):.4f}")


if __name__ == "__main__":
    main()
