"""Four networks with and without retrofit: equal budget, paired seeds, held-out photographs.

python benchmarks/retrofit_study.py --photos DIR --held-out DIR [--masks DIR] --name N

Of each network three copies start from the same weights and see the same images, holes and order: as it is; with
fillers; with fillers and guided by a Distiller. The teacher is an autoencoder made for the network's levels and
trained on the same samples. Interrupted, the same command goes on with the next copy. Writes
benchmarks/results/retrofit_study_NAME.json.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from tqdm import tqdm

import kdinpaint
from kdinpaint._core.command_line import command_line
from kdinpaint._core.files import atomic_path, write_text
from kdinpaint.data import (
    MaskFolder,
    MaskGenerator,
    PairManifest,
    PhotoFolder,
    TrainingSamples,
    common_folder,
    list_images,
)
from kdinpaint.metrics import RatioTable, measure
from kdinpaint.retrofitting import Level
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results"
Batch = dict[str, Tensor]
Host = Literal["unet", "timm", "smp", "torchvision"]
Arm = Literal["plain", "fillers", "fillers and distillation", "fillers and distillation through a readout"]


@dataclass(frozen=True)
class Config:
    """What is run."""

    photos: Path
    """Training photos."""
    held_out: Path
    """Photos to measure on."""
    name: str
    """Of the result file."""
    masks: Path | None = None
    """Mask files, 255 = hole, to measure with; generated ones by default. Training masks are always generated."""
    hosts: tuple[Host, ...] = ("unet", "timm", "smp", "torchvision")
    seeds: tuple[int, ...] = (0, 1, 2)
    size: int = 64
    batch: int = 8
    lr: float = 1e-3
    """Of Adam; a cosine takes it to 0."""
    steps: int = 400
    """Of every network and of the teachers."""
    cross: float = 0.01
    """Weight of cross distillation."""
    arms: tuple[Arm, ...] = ("plain", "fillers", "fillers and distillation")
    """Copies of each network."""
    per_bin: int = 50
    work: Path = Path("runs/retrofit_study")
    """Where finished copies go."""


class UNet(nn.Module):
    """Features of an encoder, shallow to deep, through a decoder with skips."""

    def __init__(self, encoder: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.encoder = encoder
        deep_first = channels[::-1]
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, padding=1), nn.LeakyReLU(0.2)) for a, b in pairwise(deep_first)
        )
        self.out = nn.Conv2d(channels[0] + 4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Image from (B, 4, H, W): image with holes, and mask."""
        *skips, y = self.encoder(x)
        for block, skip in zip(self.decoder, skips[::-1], strict=True):
            y = block(torch.cat([F.interpolate(y, size=skip.shape[-2:]), skip], 1))
        image: Tensor = self.out(torch.cat([F.interpolate(y, size=x.shape[-2:]), x], 1))
        return image


class PlainEncoder(nn.ModuleList):
    """Two convolutions a level, the first with stride 2."""

    def __init__(self, channels: list[int]) -> None:
        before = [4, *channels[:-1]]
        super().__init__(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(b, b, 3, padding=1), nn.LeakyReLU(0.2))
            for a, b in zip(before, channels, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of all levels."""
        features = []
        for level in self:
            x = level(x)
            features.append(x)
        return features


def unet() -> tuple[nn.Module, list[str]]:
    """A U-Net written by hand."""
    channels = [32, 64, 96]
    return UNet(PlainEncoder(channels), channels), ["encoder.0", "encoder.1", "encoder.2"]


def timm_unet() -> tuple[nn.Module, list[str]]:
    """A U-Net on an encoder of timm."""
    encoder = timm.create_model("resnet10t", features_only=True, pretrained=False, in_chans=4, out_indices=(0, 1, 2, 3))
    levels = ["encoder.conv1 .. encoder.act1", "encoder.maxpool .. encoder.layer1", "encoder.layer2"]
    return UNet(encoder, encoder.feature_info.channels()), levels


def smp_unet() -> tuple[nn.Module, list[str]]:
    """The U-Net of segmentation_models_pytorch."""
    import segmentation_models_pytorch as smp

    net = smp.Unet(
        "resnet18", encoder_weights=None, encoder_depth=4, decoder_channels=(128, 64, 32, 16), in_channels=4, classes=3
    )
    return net, ["encoder.conv1 .. encoder.relu", "encoder.maxpool .. encoder.layer1", "encoder.layer2"]


def torchvision_segmenter() -> tuple[nn.Module, list[str]]:
    """LR-ASPP on MobileNet V3."""
    net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    net.backbone["0"][0] = nn.Conv2d(4, 16, 3, 2, 1, bias=False)
    return net, ["backbone.0 .. backbone.1", "backbone.2 .. backbone.3", "backbone.4 .. backbone.6"]


HOSTS: dict[Host, Callable[[], tuple[nn.Module, list[str]]]] = {
    "unet": unet,
    "timm": timm_unet,
    "smp": smp_unet,
    "torchvision": torchvision_segmenter,
}
ARMS: dict[Arm, bool | None] = {
    "plain": None,
    "fillers": None,
    "fillers and distillation": False,
    "fillers and distillation through a readout": True,
}
"""Copies of a network, and with guidance whether it goes through a readout."""


def image_of(out: Tensor | dict[str, Tensor]) -> Tensor:
    """The image in what a network returns."""
    return out["out"] if isinstance(out, dict) else out


def given(batch: Batch) -> Tensor:
    """What networks see: image with holes, and mask."""
    return torch.cat([batch["image"] * (1 - batch["mask"]), batch["mask"]], 1)


def task_loss(out: Tensor, batch: Batch) -> Tensor:
    """L1, holes six times as heavy, each part averaged over its own area."""
    image, mask = batch["image"], batch["mask"]
    error = (out - image).abs().mean(1, keepdim=True)
    hole, known = (error * mask).sum() / mask.sum().clamp_min(1), (error * (1 - mask)).sum() / (1 - mask).sum()
    return 6 * hole + known


def optimise(parameters: list[nn.Parameter], config: Config, batches: list[Batch], label: str) -> Iterator[Batch]:
    """Yield batches, whose losses the caller back-propagates, and step after each."""
    optimizer = torch.optim.Adam(parameters, lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for batch in tqdm(batches, desc=label, leave=False):
        optimizer.zero_grad()
        yield batch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def trained_teacher(
    levels: Sequence[Level], seed: int, config: Config, batches: list[Batch], path: Path
) -> kdinpaint.AutoEncoder:
    """An autoencoder for the levels that reconstructs intact images, trained once for all copies."""
    torch.manual_seed(seed)
    teacher = kdinpaint.AutoEncoder.for_levels(levels)
    if path.exists():
        teacher.load_state_dict(load_file(path))
        return teacher
    for batch in optimise(list(teacher.parameters()), config, batches, "teacher"):
        F.l1_loss(teacher(batch["image"]), batch["image"]).backward()
    with atomic_path(path) as whole:
        save_file(teacher.state_dict(), whole)
    return teacher


def train(net: nn.Module, config: Config, batches: list[Batch], label: str) -> None:
    """Inpaint."""
    for batch in optimise(list(net.parameters()), config, batches, label):
        task_loss(image_of(net(given(batch))), batch).backward()


def train_guided(guide: kdinpaint.Distiller, net: nn.Module, config: Config, batches: list[Batch], label: str) -> None:
    """Inpaint under guidance."""
    meta = kdinpaint.MetaLearner(guide.predictors(), every=10, lr=1e-3)
    for step, batch in enumerate(optimise([*net.parameters(), *guide.trainable()], config, batches, label)):
        out, losses = guide(given(batch), image=batch["image"], mask=batch["mask"])
        task = task_loss(image_of(out), batch)
        direction = guide.direction(task) if meta.due(step) else None
        (task + sum(losses.values())).backward()
        if direction is not None:
            guide.meta_step(meta, direction, given(batch), image=batch["image"], mask=batch["mask"])


@torch.inference_mode()
def evaluate(net: nn.Module, pairs: torch.utils.data.Dataset[dict[str, Tensor]]) -> RatioTable:
    """Metrics of every held-out pair."""
    net.eval()
    table = RatioTable()
    for batch in torch.utils.data.DataLoader(pairs, batch_size=16):
        out = image_of(net(given(batch)))
        table.add(batch["ratio"], measure(out, batch["image"], batch["mask"]))
    return table


def one_host(
    name: Host, seed: int, config: Config, batches: list[Batch], pairs: torch.utils.data.Dataset[dict[str, Tensor]]
) -> dict[str, dict[str, Any]]:
    """Train and measure every copy of one network with one seed; those on disk already are not repeated."""
    folder = config.work / config.name / f"{name}-{seed}"
    torch.manual_seed(seed)
    plain, levels = HOSTS[name]()
    filled = copy.deepcopy(plain)
    plan = kdinpaint.RetrofitPlan(levels=levels, mask="input:-1")
    example = given({key: value[:2] for key, value in batches[0].items()})
    report = kdinpaint.retrofit(filled, plan, example=(example,))
    found: dict[str, dict[str, Any]] = {}
    for arm in config.arms:
        path = folder / f"{arm}.json"
        if not path.exists():
            net = copy.deepcopy(plain if arm == "plain" else filled)
            readout, label, teacher = ARMS[arm], f"{name} {seed} {arm}", None
            if readout is not None:
                teacher = trained_teacher(report.levels, seed, config, batches, folder / "teacher.safetensors")
            torch.manual_seed(seed)
            began = time.time()
            if teacher is None:
                train(net, config, batches, label)
            else:
                guide = kdinpaint.Distiller(
                    net, teacher, plan, cross=config.cross, self_ramp=config.steps // 5, readout=bool(readout)
                )
                train_guided(guide, net, config, batches, label)
            seconds = time.time() - began
            table = evaluate(net, pairs)
            content = {
                **table.summary(),
                "records": table.records,
                "parameters": sum(p.numel() for p in net.parameters()),
                "train_seconds": seconds,
            }
            write_text(path, json.dumps(content) + "\n")
        found[arm] = json.loads(path.read_text())
    return found


def main(config: Config) -> None:
    photos = PhotoFolder(list_images(config.photos), min_size=config.size)
    held_out = list_images(config.held_out)
    masks = MaskGenerator() if config.masks is None else MaskFolder(config.masks, polarity="hole")
    windows = max(1, -(-6 * config.per_bin // len(held_out)))
    manifest = PairManifest.build(
        held_out, size=config.size, masks=masks, per_bin=config.per_bin, seed=0, windows_per_photo=windows
    )
    pairs = manifest.pairs(common_folder(held_out))
    seeds: dict[str, dict[str, Any]] = {}
    for seed in config.seeds:
        samples = TrainingSamples(
            photos, MaskGenerator(), size=config.size, seed=seed, length=config.steps * config.batch
        )
        loader = torch.utils.data.DataLoader(samples, batch_size=config.batch)
        batches = list(tqdm(loader, desc=f"samples of seed {seed}", leave=False))
        seeds[str(seed)] = {name: one_host(name, seed, config, batches, pairs) for name in config.hosts}
    for seed in seeds.values():
        for arms in seed.values():
            for arm in arms.values():
                arm["psnr"] = [round(record["psnr"], 3) for record in arm.pop("records")]
    content = {
        "command": command_line("python benchmarks/retrofit_study.py", config, leave_out=("work",)),
        "config": {k: v for k, v in asdict(config).items() if k not in ("photos", "held_out", "masks", "work")},
        "photos": len(photos),
        "held_out": len(held_out),
        "manifest": manifest.hash,
        "environment": environment(),
        "seeds": seeds,
    }
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / f"retrofit_study_{config.name}.json", json.dumps(content, default=str) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
