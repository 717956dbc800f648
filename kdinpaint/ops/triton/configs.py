"""Block sizes: a fixed table, overridden by what was measured on the very device.

Nothing is tuned silently. `benchmarks/gpu_check.py` measures candidates and writes `tuned.json` beside this file;
shapes and devices that are not in it use the table.
"""

import functools
import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch

__all__ = ["TUNED", "Config", "Pass", "choose", "default", "forget", "key"]

Pass = Literal["forward", "data", "weight", "columns"]

TUNED = Path(__file__).with_name("tuned.json")
"""Device name to key to configuration, written by benchmarks/gpu_check.py."""


FEW = 132
"""Fewer blocks than this leave multiprocessors of a large GPU idle."""


class Config(NamedTuple):
    """How one kernel is cut up.

    Attributes:
        pixels: Output positions of a block.
        channels: Input channels of a block.
        outputs: Output channels of a block.
        warps: Of 32 threads each, per block.
        stages: Software pipelining; 1 loads through the first-level cache, more go past it.
        programs: Blocks to aim at; the weight gradient splits its sum over positions accordingly.
    """

    pixels: int
    channels: int
    outputs: int
    warps: int
    stages: int
    programs: int = 264


def _ceiling(count: int, least: int, most: int) -> int:
    """The power of two that holds `count`, within limits; matrix units want 16 at least."""
    return min(max(1 << (count - 1).bit_length(), least), most)


def default(step: Pass, channels: int, outputs: int, dtype: torch.dtype, positions: int) -> Config:
    """The configuration for shapes nobody has measured, chosen so that no kernel spills registers on sm_90."""
    single = dtype == torch.float32
    block_c, block_o = _ceiling(channels, 16, 64), _ceiling(outputs, 16, 256)
    if step == "columns":
        return Config(32, block_c, 0, 4, 1)
    if step == "forward":
        if block_o == 256 and (single or positions < 64 * FEW):
            block_o = 128  # gathering twice costs less than spilling, or than processors without work
        return Config(64, min(block_c, 32), block_o, 4 if block_o <= 64 else 8, 1)
    if step == "data":
        if single and block_o == 256:
            return Config(64, min(block_c, 32), 64, 8, 1)
        if block_o <= 64:
            return Config(64, min(block_c, 32), block_o, 4, 1)
        return Config(64, min(block_c, 32 if single else 64), block_o, 8, 1)
    return Config(64, block_c, min(block_o, 128 if single else 256), 8 if block_o > 64 else 4, 1)


def key(step: Pass, channels: int, outputs: int, dtype: torch.dtype, positions: int) -> str:
    """Under which name a measured configuration is kept; positions count by their power of two."""
    return f"{step}/{channels}/{outputs}/{str(dtype).removeprefix('torch.')}/{positions.bit_length()}"


@functools.cache
def _tuned(device: str) -> dict[str, Config]:
    if not TUNED.is_file():
        return {}
    found = json.loads(TUNED.read_text(encoding="utf-8")).get(device, {})
    return {name: Config(*values) for name, values in found.items()}


def forget() -> None:
    """Read `tuned.json` again at the next call."""
    _tuned.cache_clear()


@functools.cache
def _device_name(index: int) -> str:
    return torch.cuda.get_device_name(index)


def choose(step: Pass, channels: int, outputs: int, dtype: torch.dtype, positions: int, device: torch.device) -> Config:
    """The measured configuration of this device, or the default."""
    if device.type == "cuda":
        name = _device_name(torch.cuda.current_device() if device.index is None else device.index)
        measured = _tuned(name).get(key(step, channels, outputs, dtype, positions))
        if measured is not None:
            return measured
    return default(step, channels, outputs, dtype, positions)
