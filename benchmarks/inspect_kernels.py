"""What the compiler makes of the Triton kernels on a Hopper GPU: registers, spills, shared memory. Needs no GPU.

python benchmarks/inspect_kernels.py            all kernels at the configurations that ship
python benchmarks/inspect_kernels.py --check    the same, failing where registers spill
python benchmarks/inspect_kernels.py --quick    one shape, nothing written: only whether everything compiles

Launches are recorded on tensors without storage, so what is compiled is what would run. Writes
benchmarks/results/kernels_sm90.json.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.triton import arguments, columns
from kdinpaint.ops.triton import launch as fused
from kdinpaint.ops.triton.configs import Config
from kdinpaint.training.environment import environment

RESULT = Path(__file__).parent / "results" / "kernels_sm90.json"
TARGET = GPUTarget("cuda", 90, 32)
SHAPES = [(64, 64, 128), (128, 128, 64), (256, 256, 32), (64, 3, 128), (48, 80, 64)]
DTYPES = [torch.bfloat16, torch.float32]
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}
Launch = tuple[Any, dict[str, Any], Config]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches instead of starting them."""
    launches: list[Launch] = []

    def keep(kernel: Any, grid: tuple[int, ...], given: dict[str, Any], config: Config) -> None:
        launches.append((kernel, dict(given), config))

    modules = (arguments, columns, fused)
    kept = arguments.launch
    for module in modules:
        module.launch = keep
    try:
        yield launches
    finally:
        for module in modules:
            module.launch = kept


def compiled(kernel: Any, given: dict[str, Any], config: Config) -> Any:
    """Compile a launch for the target, with the facts about its arguments that a real launch would find."""
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        name, value = parameter.name, given[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (special and isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        if isinstance(value, torch.Tensor) or (special and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=TARGET, options=options)


def facts(binary: Any, warps: int) -> dict[str, Any]:
    """Registers and the like, from the assembler; instructions that matter, from the PTX."""
    ptx = binary.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx, encoding="utf-8")
        said = assembled(file)
    registers = int(re.search(r"Used (\d+) registers", said).group(1))
    stores, loads = (int(re.search(rf"(\d+) bytes spill {kind}", said).group(1)) for kind in ("stores", "loads"))
    shared = int(binary.metadata.shared)
    by_registers = 65536 // (-(-registers // 8) * 8 * 32 * warps)
    by_shared = 227 * 1024 // (shared + 1024)
    return {
        "registers": registers,
        "spill_stores": stores,
        "spill_loads": loads,
        "shared": shared,
        "blocks_per_sm": min(by_registers, by_shared, 2048 // (32 * warps)),
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "mma": len(re.findall(r"\bmma\.sync", ptx)),
        "async_copies": len(re.findall(r"cp\.async\.c", ptx)),
        "reductions": counted(r"((?:red|atom)\.\S*add\S*)", ptx),
        "loads": counted(r"(ld\.global\S*)", ptx),
    }


def assembled(file: Path) -> str:
    """What the assembler says of a PTX file. Triton brings two; which one reads its PTX depends on its version."""
    said = ""
    for name in ("ptxas", "ptxas_blackwell"):
        tool = getattr(knobs.nvidia, name, None)
        if tool is not None:
            command = [tool.path, "-v", "--gpu-name=sm_90a", str(file), "-o", str(file.with_suffix(".bin"))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stderr
            said += done.stderr + done.stdout
    raise RuntimeError(said)


def counted(pattern: str, text: str) -> dict[str, int]:
    found = re.findall(pattern, text)
    return {form: found.count(form) for form in sorted(set(found))}


def launches(channels: int, outputs: int, size: int, dtype: torch.dtype, *, region: bool) -> list[Launch]:
    """Every launch of a forward and a backward pass, of the fused and of the column form."""
    geometry = Geometry.make(3, 1, 1)
    with torch.device("meta"):
        x = torch.empty(6, channels, size, size, dtype=dtype).to(memory_format=torch.channels_last)
        weight, bias = torch.empty(outputs, channels, 3, 3, dtype=dtype), torch.empty(outputs, dtype=dtype)
        offset, kernel = torch.empty(6, 18, size, size), torch.empty(6, 9, size, size)
        where = torch.empty(6, 1, size, size, dtype=torch.bool) if region else None
        grad = torch.empty(6, outputs, size, size, dtype=dtype).to(memory_format=torch.channels_last)
    with recorded() as found:
        fused.fused_forward(x, weight, offset, kernel, bias, where, geometry)
        fused.fused_backward(grad, x, weight, offset, kernel, where, geometry, (True,) * 4)
        if not region:
            columns.forward(x, weight, offset, kernel, bias, where, geometry)
            columns.backward(grad, x, weight, offset, kernel, where, geometry, (True,) * 4)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where registers spill")
    parser.add_argument("--quick", action="store_true", help="one shape, nothing written")
    options = parser.parse_args()
    rows, seen = [], set()
    for channels, outputs, size in SHAPES[: 1 if options.quick else None]:
        for dtype in DTYPES:
            for region in (False, True):
                for kernel, given, config in launches(channels, outputs, size, dtype, region=region):
                    name = kernel.fn.__name__
                    case = (name, channels, outputs, str(dtype).removeprefix("torch."), region)
                    if case in seen or (name.startswith("columns") and channels != 64):
                        continue
                    seen.add(case)
                    row = dict(zip(("kernel", "channels", "outputs", "dtype", "region"), case, strict=True))
                    row |= {"config": config._asdict(), "precision": given.get("PRECISION")}
                    row |= facts(compiled(kernel, given, config), config.warps)
                    rows.append(row)
                    print(*case, tuple(config), {k: row[k] for k in list(row)[7:]}, flush=True)
    content = {
        "command": "python benchmarks/inspect_kernels.py",
        "environment": {**environment(), "triton": triton.__version__},
        "target": "sm_90a",
        "kernels": rows,
    }
    if not options.quick:
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    spilling = [row for row in rows if row["spill_stores"] or row["spill_loads"]]
    for row in spilling:
        print("spills:", row["kernel"], row["channels"], row["outputs"], row["dtype"], row["spill_stores"], "bytes")
    return 1 if options.check and spilling else 0


if __name__ == "__main__":
    raise SystemExit(main())
