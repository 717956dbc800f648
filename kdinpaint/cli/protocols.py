"""`kdinpaint protocols`: the same images and the same predictions under every protocol."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from kdinpaint._core.files import write_text
from kdinpaint.data import MaskGenerator, PairManifest, common_folder, demo_photos, list_images
from kdinpaint.metrics import PROTOCOLS, measure
from kdinpaint.training.environment import environment

__all__ = ["ProtocolsConfig", "command", "compare_protocols"]


@dataclass(frozen=True)
class ProtocolsConfig:
    """Measure one blurry filling of holes of 20-30 % under every protocol: only the protocol differs."""

    photos: Path | None = None
    """Folder of photos; by default those that come with scikit-image."""
    size: int = 256
    """Side of the images, pixels."""
    images: int = 24
    """How many images."""
    seed: int = 0
    out: Path | None = None
    """JSON file for the results."""


def command(config: Annotated[ProtocolsConfig, tyro.conf.arg(name="")]) -> None:
    """Show how far the protocol alone moves PSNR and SSIM: equal images, holes and fillings under each."""
    results, digest = compare_protocols(config)
    print(f"{'protocol':14}{'PSNR':>8}{'SSIM':>9}")
    for name, values in results.items():
        cells = (f"{values['psnr']:.2f}" if "psnr" in values else "-", f"{values['ssim']:.4f}")
        print(f"{name:14}{cells[0]:>8}{cells[1]:>9}")
    similarities = [values["ssim"] for values in results.values()]
    print(f"\nOne set of predictions, SSIM from {min(similarities):.3f} to {max(similarities):.3f}.")
    if config.out is not None:
        content = {
            "command": f"kdinpaint protocols --out {config.out}",
            "options": {"size": config.size, "images": config.images, "seed": config.seed},
            "manifest": digest,
            "environment": environment(),
            "protocols": results,
        }
        write_text(config.out, json.dumps(content, indent=1) + "\n")
    print(f"{config.images} images of {config.size} pixels, holes of 20-30 %, manifest {digest[:12]}")


def compare_protocols(config: ProtocolsConfig) -> tuple[dict[str, dict[str, float]], str]:
    """Mean of every metric by protocol, and the hash of the manifest."""
    files = demo_photos().train + demo_photos().held_out if config.photos is None else list_images(config.photos)
    manifest = PairManifest.build(
        files,
        size=config.size,
        masks=MaskGenerator("strokes"),
        pairs=config.images,
        bins=(0.2, 0.3),
        seed=config.seed,
        windows_per_photo=-(-config.images // len(files)),
    )
    rows: dict[str, list[dict[str, Tensor]]] = {name: [] for name in PROTOCOLS}
    for batch in DataLoader(manifest.pairs(common_folder(files)), batch_size=16):
        image, mask = batch["image"], batch["mask"]
        prediction = blurry_fill(image, mask)
        for name in PROTOCOLS:
            rows[name].append(measure(prediction, image, mask, protocol=name))
    means = {
        name: {metric: float(torch.cat([part[metric] for part in parts]).mean()) for metric in parts[0]}
        for name, parts in rows.items()
    }
    return means, manifest.hash


def blurry_fill(image: Tensor, mask: Tensor) -> Tensor:
    """The mean of the known pixels around: (B, C, H, W) from an image and a mask with 1 = hole."""
    known = 1 - mask
    total, weight = image * known, known
    side = 4 * (image.shape[-1] // 32) + 1
    for _ in range(3):  # three boxes are nearly a Gaussian
        total, weight = (F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False) for x in (total, weight))
    return (total / weight.clamp_min(1e-6)).clamp(0, 1)
