"""Filler blocks and a teacher for a network of your own, without touching its code, and out again.

The network is a U-Net that knows nothing of kdinpaint and takes its mask as a named argument in which 1 means known.
Twice it starts from the same weights and sees the same batches: once as it is, once retrofitted and guided.

python examples/retrofit_your_own.py            some minutes on a CPU, photographs from scikit-image
python examples/retrofit_your_own.py --smoke    a few seconds
"""

import argparse
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import kdinpaint
from kdinpaint.data import MaskGenerator, PhotoFolder, TrainingSamples, demo_photos
from kdinpaint.retrofitting import disabled


class UNet(nn.Module):
    """Somebody's inpainting network."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        before = (4, *widths[:-1])
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(b, b, 3, padding=1), nn.LeakyReLU(0.2))
            for a, b in zip(before, widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Conv2d(a + b, b, 3, padding=1) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(widths[0] + 4, 3, 3, padding=1)

    def forward(self, image: Tensor, *, known: Tensor) -> dict[str, Tensor]:
        """The filled image."""
        x = y = torch.cat([image * known, known], 1)
        skips = []
        for level in self.encoder:
            y = level(y)
            skips.append(y)
        for conv, skip in zip(self.decoder, skips[-2::-1], strict=True):
            y = F.leaky_relu(conv(torch.cat([F.interpolate(y, scale_factor=2.0), skip], 1)), 0.2)
        return {"image": torch.sigmoid(self.out(torch.cat([F.interpolate(y, scale_factor=2.0), x], 1)))}


def task_loss(out: dict[str, Tensor], truth: Tensor, mask: Tensor) -> Tensor:
    """Somebody's loss."""
    error = (out["image"] - truth).abs()
    return error.mean() + 5 * (error * mask).sum() / (3 * mask.sum()).clamp_min(1)


def train(net: UNet, batches: DataLoader) -> None:
    """Somebody's training loop."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for batch in batches:
        truth, mask = batch["image"], batch["mask"]
        loss = task_loss(net(truth, known=1 - mask), truth, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_guided(net: UNet, guide: kdinpaint.Distiller, batches: DataLoader) -> None:
    """The same loop with the lines that kdinpaint adds."""
    optimizer = torch.optim.Adam([*net.parameters(), *guide.trainable()], lr=1e-3)
    meta = kdinpaint.MetaLearner(guide.predictors(), every=10, lr=1e-3)
    for step, batch in enumerate(batches):
        truth, mask = batch["image"], batch["mask"]
        # The network calls its own input `image`, too: give it by position.
        out, losses = guide(truth, known=1 - mask, image=truth, mask=mask)
        task = task_loss(out, truth, mask)
        direction = guide.direction(task) if meta.due(step) else None
        optimizer.zero_grad()
        (task + sum(losses.values())).backward()
        if direction is not None:
            guide.meta_step(meta, direction, truth, known=1 - mask, image=truth, mask=mask)
        optimizer.step()
        if step % 100 == 0:
            shown = {name: round(float(value.detach()), 4) for name, value in losses.items()}
            print(f"step {step:4}  task {float(task.detach()):.4f}  {shown}")


def train_teacher(net: kdinpaint.AutoEncoder, batches: DataLoader) -> None:
    """The teacher reconstructs intact images through a bottleneck."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for batch in batches:
        loss = F.l1_loss(net(batch["image"]), batch["image"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"teacher: reconstruction error {float(loss.detach()):.4f}")


@torch.no_grad()
def hole_psnr(net: UNet, batches: DataLoader) -> float:
    """PSNR inside the holes, dB."""
    squared = count = 0.0
    for batch in batches:
        truth, mask = batch["image"], batch["mask"]
        out = net(truth, known=1 - mask)["image"]
        squared += float(((out - truth).square() * mask).sum())
        count += 3 * float(mask.sum())
    return float(-10 * torch.tensor(squared / count).log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    steps = 3 if parser.parse_args().smoke else 600
    torch.manual_seed(0)
    photos = demo_photos()

    def batches(paths: list, count: int, seed: int) -> DataLoader:
        samples = PhotoFolder(paths, min_size=64)
        return DataLoader(
            TrainingSamples(samples, MaskGenerator(), size=64, seed=seed, length=8 * count, min_window=0.2),
            batch_size=8,
        )

    training, held_out = batches(photos.train, steps, 0), batches(photos.held_out, max(1, steps // 30), 1)
    plain = UNet()
    net = copy.deepcopy(plain)
    example, known = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)

    print(kdinpaint.inspect(net, example=(example,), example_kwargs={"known": known}))
    plan = kdinpaint.RetrofitPlan(levels=["encoder.*"], mask="~kwarg:known")
    report = kdinpaint.retrofit(net, plan, example=(example,), example_kwargs={"known": known})
    print(report)

    teacher = kdinpaint.AutoEncoder.for_levels(report.levels)
    train_teacher(teacher, training)
    train(plain, training)
    guide = kdinpaint.Distiller(net, teacher, plan, self_ramp=steps // 5)
    train_guided(net, guide, training)
    print(f"plain       {hole_psnr(plain, held_out):.2f} dB in the holes of held-out photographs")
    print(f"retrofitted {hole_psnr(net, held_out):.2f} dB")
    with disabled(net):
        print(f"its fillers switched off {hole_psnr(net, held_out):.2f} dB")

    kdinpaint.strip(net)  # the taps are gone, the fillers stay
    torch.save(net.state_dict(), "retrofitted.pt")
    kdinpaint.unretrofit(net)  # and now it is a UNet as before
    assert net.state_dict().keys() == plain.state_dict().keys()


if __name__ == "__main__":
    main()
