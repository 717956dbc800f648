"""`kdinpaint export`: a trained model as an ONNX file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from kdinpaint._core.errors import ConfigError
from kdinpaint.exporting import export
from kdinpaint.inference import Inpainter

__all__ = ["ExportConfig", "command"]


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as an ONNX file, which takes images of any size, and compare it with PyTorch."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder, or a folder with model.safetensors and config.json."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where to write the file."""
    size: int = 256
    """Side in pixels of the image that the file is checked with."""
    opset: int = 20
    """Version of the ONNX operator set, 19 or higher."""
    fixed: bool = False
    """Take one image of that size only, for runtimes that need to know sizes beforehand."""


def command(config: Annotated[ExportConfig, tyro.conf.arg(name="")]) -> None:
    """Write a trained model as an ONNX file."""
    if config.size < 1:
        raise ConfigError(f"size is {config.size}; expected at least 1 pixel.")
    model = Inpainter(config.run, device="cpu").model.float()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, model.in_channels, config.size, config.size, generator=generator)
    mask = torch.zeros(1, 1, config.size, config.size)
    mask[..., config.size // 4 : -(config.size // 4) or None, config.size // 3 :] = 1
    report = export(model, (image, mask), config.output, opset=config.opset, dynamic=not config.fixed)
    for kind, values in (("input", report.inputs), ("output", report.outputs)):
        for name, shape in values.items():
            print(f"{kind:7} {name:7} {' x '.join(map(str, shape))}")
    if report.difference is None:
        print("not compared with PyTorch: onnxruntime is not installed")
    else:
        print(f"largest difference to PyTorch, relative: {report.difference:.1e}")
    print(report.path)
