"""Any architecture of segmentation_models_pytorch as an inpainting network, with fillers and a teacher.

Such networks have their encoder in `encoder`, whose stages a pattern names for all of them. The mask is the fourth
input channel. What was added can be saved alone, and goes into any network that is retrofitted by the same plan.

python examples/retrofit_smp.py                           some minutes on a CPU, photographs from scikit-image
python examples/retrofit_smp.py --architecture FPN --pretrained --photos DIR
python examples/retrofit_smp.py --smoke                   a few seconds
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.utils import save_image

import kdinpaint
from kdinpaint.data import MaskGenerator, PhotoFolder, TrainingSamples, demo_photos, list_images
from kdinpaint.retrofitting import disabled, filler_state_dict

try:
    import segmentation_models_pytorch as smp
except ImportError:
    raise SystemExit("this example needs: pip install segmentation-models-pytorch") from None

PLAN = kdinpaint.RetrofitPlan(["encoder.layer[123]"], mask="input:-1", hidden_channels=16)


def join(truth: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([torch.where(mask > 0.5, 0.5, truth), mask], 1)


def task_loss(out: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    error = (out - truth).abs()
    return error.mean() + 5 * (error * mask).sum() / (3 * mask.sum()).clamp_min(1)


def train_teacher(teacher: kdinpaint.AutoEncoder, batches: DataLoader) -> None:
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-4)  # it is deep, and has no normalisation
    for batch in batches:
        loss = F.l1_loss(teacher(batch["image"]), batch["image"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"teacher: reconstruction error {float(loss.detach()):.4f}")


def train(guide: kdinpaint.Distiller, batches: DataLoader) -> None:
    """Guide covers the network: its parameters that train are all there are."""
    optimizer = torch.optim.Adam([p for p in guide.parameters() if p.requires_grad], lr=1e-3)
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
def fill(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
    """The filled images of a batch, and their PSNR in the holes, dB."""
    truth, mask = batch["image"], batch["mask"]
    out = net.eval()(join(truth, mask))
    squared = ((out - truth).square() * mask).sum() / (3 * mask.sum())
    return torch.where(mask > 0.5, out, truth), float(-10 * squared.log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="Unet", help="Unet, UnetPlusPlus, FPN, Linknet, MAnet, ...")
    parser.add_argument("--pretrained", action="store_true", help="an encoder that knows ImageNet; it is downloaded")
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

    net = getattr(smp, options.architecture)(
        "resnet18",
        encoder_weights="imagenet" if options.pretrained else None,
        in_channels=4,
        classes=3,
        activation="sigmoid",
    )
    report = kdinpaint.retrofit(net, PLAN, example=(torch.rand(1, 4, 64, 64),))
    print(report)
    teacher = kdinpaint.AutoEncoder.for_levels(report.levels, head_channels=8)
    train_teacher(teacher, batches(training, steps, 0))
    train(kdinpaint.Distiller(net, teacher, PLAN, self_ramp=steps // 5), batches(training, steps, 0))

    kdinpaint.strip(net)
    torch.save(filler_state_dict(net), "fillers.pt")
    held = next(iter(batches(held_out, 1, 1)))
    filled, psnr = fill(net, held)
    with disabled(net):
        _, without = fill(net, held)
    print(f"in the holes of held-out photographs: {psnr:.2f} dB, with its fillers switched off {without:.2f} dB")
    save_image(torch.cat([join(held["image"], held["mask"])[:, :3], filled, held["image"]]), "retrofit_smp.png", nrow=8)
    print("retrofit_smp.png: input, result, truth;  fillers.pt: what kdinpaint added")


if __name__ == "__main__":
    main()
