"""An encoder of timm in a small U-Net, with fillers beside its stages and a teacher of the same make.

The mask is the fourth input channel. kdinpaint.inspect finds the stages, so that any encoder goes. With --pretrained,
the student's encoder and the teacher have timm's weights: the teacher is what the encoder was, and sees the intact
image. Without, nothing is downloaded, and the teacher is an autoencoder that is trained first.

python examples/retrofit_timm_unet.py                              some minutes on a CPU, scikit-image's photographs
python examples/retrofit_timm_unet.py --encoder convnext_atto --pretrained --photos DIR
python examples/retrofit_timm_unet.py --smoke                      a few seconds
"""

import argparse
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.utils import save_image

import kdinpaint
from kdinpaint.data import MaskGenerator, PhotoFolder, TrainingSamples, demo_photos, list_images

LEVELS = (0, 1, 2, 3)  # of the encoder: 1/16 of the size is deep enough for crops of 64 pixels


class UNet(nn.Module):
    """Features of the encoder, and a decoder that takes them one by one, deep to shallow."""

    def __init__(self, encoder: str, pretrained: bool) -> None:
        super().__init__()
        self.encoder = timm.create_model(
            encoder, pretrained=pretrained, features_only=True, in_chans=4, out_indices=LEVELS
        )
        widths = self.encoder.feature_info.channels()
        self.decoder = nn.ModuleList(
            nn.Conv2d(a + b, b, 3, padding=1) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(widths[0] + 4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The filled image, from an image with its hole at grey and the mask as the last channel."""
        *skips, y = self.encoder(x)
        for conv, skip in zip(self.decoder, skips[::-1], strict=True):
            y = F.leaky_relu(conv(torch.cat([F.interpolate(y, size=skip.shape[-2:]), skip], 1)), 0.2)
        return torch.sigmoid(self.out(torch.cat([F.interpolate(y, size=x.shape[-2:]), x], 1)))


def join(truth: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([torch.where(mask > 0.5, 0.5, truth), mask], 1)


def task_loss(out: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    error = (out - truth).abs()
    return error.mean() + 5 * (error * mask).sum() / (3 * mask.sum()).clamp_min(1)


def make_teacher(levels: tuple, options: argparse.Namespace, batches: DataLoader) -> nn.Module:
    """The encoder itself with the weights of timm, or an autoencoder that learns to reconstruct the photographs."""
    if options.pretrained:
        return kdinpaint.TimmTeacher(options.encoder, out_indices=LEVELS)
    teacher = kdinpaint.AutoEncoder.for_levels(levels, head_channels=8)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-4)  # it is deep, and has no normalisation
    for batch in batches:
        loss = F.l1_loss(teacher(batch["image"]), batch["image"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"teacher: reconstruction error {float(loss.detach()):.4f}")
    return teacher


def train(net: UNet, guide: kdinpaint.Distiller, batches: DataLoader) -> None:
    # Weights that are new learn faster than those that timm brings.
    old = set(net.encoder.parameters()) - {p for n, p in net.encoder.named_parameters() if "kdinpaint_filler" in n}
    new = [p for p in [*net.parameters(), *guide.trainable()] if p not in old]
    optimizer = torch.optim.Adam([{"params": list(old), "lr": 3e-4}, {"params": new, "lr": 1e-3}])
    for step, batch in enumerate(batches):
        truth, mask = batch["image"], batch["mask"]
        out, losses = guide(join(truth, mask), image=truth, mask=mask)
        task = task_loss(out, truth, mask)
        optimizer.zero_grad()
        (task + sum(losses.values())).backward()
        optimizer.step()
        if step % 50 == 0:
            shown = {name: round(float(value.detach()), 4) for name, value in losses.items()}
            print(f"step {step:4}  task {float(task.detach()):.4f}  {shown}")


@torch.no_grad()
def draw(net: UNet, batches: DataLoader, path: str) -> float:
    """A picture of input, composite and truth of one batch; returns PSNR in its holes, dB."""
    batch = next(iter(batches))
    truth, mask = batch["image"], batch["mask"]
    x = join(truth, mask)
    out = net.eval()(x)
    save_image(torch.cat([x[:, :3], torch.where(mask > 0.5, out, truth), truth]), path, nrow=len(truth))
    squared = ((out - truth).square() * mask).sum() / (3 * mask.sum())
    return float(-10 * squared.log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18", help="name in timm of a network with (B, C, H, W) features")
    parser.add_argument("--pretrained", action="store_true", help="with the weights of timm, which are downloaded")
    parser.add_argument("--photos", type=Path, help="a folder of photographs; every fifth is held out")
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    steps = 2 if options.smoke else 400
    torch.manual_seed(0)
    if options.photos:
        files = list_images(options.photos)
        training, held_out = [f for n, f in enumerate(files) if n % 5], files[::5]
    else:
        training, held_out = demo_photos().train, demo_photos().held_out

    def batches(paths: list[Path], count: int, seed: int) -> DataLoader:
        samples = TrainingSamples(
            PhotoFolder(paths, min_size=64),
            MaskGenerator(),
            size=64,
            seed=seed,
            length=8 * count,
            min_window=0.2,
            recolor=paths is training,  # seven photographs have few colours
        )
        return DataLoader(samples, batch_size=8)

    net = UNet(options.encoder, options.pretrained)
    example = (torch.rand(1, 4, 64, 64),)
    plan = kdinpaint.RetrofitPlan(kdinpaint.inspect(net, example).levels, hidden_channels=16)
    report = kdinpaint.retrofit(net, plan, example)
    print(report)

    teacher = make_teacher(report.levels, options, batches(training, steps, 0))
    guide = kdinpaint.Distiller(net, teacher, plan, self_ramp=steps // 5)
    before = draw(net, batches(held_out, 1, 1), "retrofit_timm_unet.png")
    train(net.train(), guide, batches(training, steps, 0))
    kdinpaint.strip(net)
    after = draw(net, batches(held_out, 1, 1), "retrofit_timm_unet.png")
    print(f"in the holes of held-out photographs: {before:.2f} dB, after training {after:.2f} dB")
    print("retrofit_timm_unet.png: input, result, truth")


if __name__ == "__main__":
    main()
