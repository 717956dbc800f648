"""Distillation into a network of your own, with your own training loop.

A small U-Net that knows nothing of kdinpaint learns to inpaint; an autoencoder that saw the intact images teaches its
encoder, and a meta-learner decides which channels are worth imitating. Lines that are kdinpaint's are marked.

python examples/distill_your_network.py            some minutes on a CPU, photographs from scikit-image
python examples/distill_your_network.py --smoke    a few seconds
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from kdinpaint import AutoEncoder, CrossDistillLoss, FrozenTeacher, MetaLearner, SelfDistillLoss
from kdinpaint.data import MaskGenerator, PhotoFolder, TrainingSamples, demo_photos

WIDTHS = [16, 32, 64]


class UNet(nn.Module):
    """Somebody's inpainting network: image with white holes and mask in, image out."""

    def __init__(self) -> None:
        super().__init__()
        before = [4, *WIDTHS[:-1]]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(before, WIDTHS, strict=True))
        self.up = nn.ModuleList(
            nn.Conv2d(a + b, b, 3, padding=1) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(WIDTHS[0] + 4, 3, 3, padding=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features, shallow to deep."""
        features = []
        for conv in self.down:
            x = F.leaky_relu(conv(x), 0.2)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Image and features."""
        features = self.encode(x)
        y = features[-1]
        for conv, skip in zip(self.up, features[-2::-1], strict=True):
            y = F.leaky_relu(conv(torch.cat([F.interpolate(y, scale_factor=2.0), skip], 1)), 0.2)
        return torch.sigmoid(self.out(torch.cat([F.interpolate(y, scale_factor=2.0), x], 1))), features


def train_teacher(batches: DataLoader) -> FrozenTeacher:
    """The teacher only has to reconstruct intact images through a bottleneck."""
    net = AutoEncoder(3, WIDTHS, blocks=0)  # kdinpaint; any network with features of these shapes would do
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for batch in batches:
        loss = F.l1_loss(net(batch["image"]), batch["image"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"teacher: reconstruction error {float(loss.detach()):.4f}")
    return FrozenTeacher(net, method="encode")  # kdinpaint


def train_student(batches: DataLoader, teacher: FrozenTeacher) -> UNet:
    student = UNet()
    cross = CrossDistillLoss(WIDTHS, scale="teacher_std")  # kdinpaint
    own = SelfDistillLoss(WIDTHS, importance="uniform", scale="teacher_std")  # kdinpaint
    meta = MetaLearner(cross.predictors.parameters(), every=10, lr=1e-3)  # kdinpaint
    optimizer = torch.optim.Adam([*student.parameters(), *own.aligners.parameters()], lr=1e-3)
    encoder = list(student.down.parameters())
    for step, batch in enumerate(batches):
        image, mask = batch["image"], batch["mask"]
        x = torch.cat([image * (1 - mask) + mask, mask], 1)
        prediction, features = student(x)
        task = F.l1_loss(prediction, image)
        target = teacher(image)
        due = meta.due(step)
        direction = torch.autograd.grad(task, encoder, retain_graph=True) if due else ()
        optimizer.zero_grad()
        (task + 0.05 * cross(features, target, mask) + 0.05 * own(features, mask)).backward()  # kdinpaint
        if due:  # kdinpaint: channels gain weight if imitating them lowers the task loss
            health = meta.step(
                parameters=encoder,
                direction=direction,
                distances=lambda x=x, target=target, mask=mask: cross.distances(student.encode(x), target, mask),
                importance=cross.importance(target, mask),
            )
        optimizer.step()
        if step % 50 == 0:
            share = f"{health['effective_share']:.3f}" if health else "-"
            print(f"step {step:4}  task {float(task.detach()):.4f}  channels in use {share}")
    return student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    steps = 3 if parser.parse_args().smoke else 500
    torch.manual_seed(0)
    photos = PhotoFolder(demo_photos().train, min_size=64)
    samples = TrainingSamples(photos, MaskGenerator(), size=64, seed=0, length=8 * steps, min_window=0.2)
    batches = DataLoader(samples, batch_size=8)
    teacher = train_teacher(batches)
    student = train_student(batches, teacher)
    torch.save(student.state_dict(), "student.pt")  # nothing of kdinpaint is in it
    print(f"student.pt: {sum(p.numel() for p in student.parameters()):,} parameters")


if __name__ == "__main__":
    main()
