"""The fused forward kernel, and what all kernels share: which pixels, where they read, and with which weights.

Images, outputs and their gradients are channels-last and dense. Offsets and kernels are read in whatever layout
they have. Channels, geometry and weight strides are compile-time constants: a network has few of them, and with
them known every row of channels is loaded in vectors of 16 bytes.
"""

# Kernels are a language inside Python: their arguments have no Python types.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, SIM102

import triton
import triton.language as tl
from triton import knobs

__all__ = ["INTERPRETED", "compact_kernel", "forward_kernel"]

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether the kernels of this process run in the interpreter; decided once, when they are defined."""


@triton.jit
def pixels(block, index, count, B, HO, WO, BP: tl.constexpr, TW: tl.constexpr):
    """Number, image, row and column of the BP output positions of a block, and which of them exist.

    A block is a tile TW wide, because neighbours share most of what they read; where TW is 0, a stretch of
    consecutive positions, which wastes nothing on small maps; and with an index, a stretch of the region.
    """
    lane = tl.arange(0, BP)
    if index is not None:
        place = block * BP + lane
        valid = place < tl.load(count)
        flat = tl.load(index + place, mask=valid, other=0)
    elif TW == 0:
        flat = block * BP + lane
        valid = flat < B * HO * WO
    if index is not None or TW == 0:
        image = flat // (HO * WO)
        row = flat // WO % HO
        column = flat % WO
    else:
        TH: tl.constexpr = BP // TW
        across = tl.cdiv(WO, TW)
        down = tl.cdiv(HO, TH)
        image = block // (across * down) + lane * 0
        row = block // across % down * TH + lane // TW
        column = block % across * TW + lane % TW
        valid = (row < HO) & (column < WO)
        flat = (image * HO + row) * WO + column
    return flat, image.to(tl.int64), row, column, valid


@triton.jit
def planes(values, image, row, column, stride_b, stride_h, stride_w):
    """Pointers to the first channel of offsets or kernels at every position."""
    return values + image * stride_b + row * stride_h + column * stride_w


@triton.jit
def places(
    at_offset, at_kernel, tap, row, column, valid, so_c, sv_c, H, W,
    KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
):  # fmt: skip
    """Sampling positions of one tap in float32, split into corner and fraction, and the scale V.

    Beyond -2 and the size every sample is zero: clamping there keeps the integers small. Not at -1, where an
    unmoved tap lies and the derivative towards the image is due. A NaN stays in the fraction, so that the
    sample becomes NaN; its corner is 0. `moves` tells where the clamp lets the gradient through.
    """
    dy = tl.load(at_offset + 2 * tap * so_c, mask=valid, other=0.0).to(tl.float32)
    dx = tl.load(at_offset + (2 * tap + 1) * so_c, mask=valid, other=0.0).to(tl.float32)
    v = tl.load(at_kernel + tap * sv_c, mask=valid, other=0.0).to(tl.float32)
    y = (row * SH - PH + tap // KW * DH).to(tl.float32) + dy
    x = (column * SW - PW + tap % KW * DW).to(tl.float32) + dx
    bottom = H.to(tl.float32)
    end = W.to(tl.float32)
    moves_y = (y >= -2.0) & (y <= bottom)
    moves_x = (x >= -2.0) & (x <= end)
    y = tl.where(y < -2.0, -2.0, tl.where(y > bottom, bottom, y))
    x = tl.where(x < -2.0, -2.0, tl.where(x > end, end, x))
    y_floor = tl.floor(y)
    x_floor = tl.floor(x)
    y0 = tl.where(y == y, y_floor, 0.0).to(tl.int32)
    x0 = tl.where(x == x, x_floor, 0.0).to(tl.int32)
    return y0, x0, y - y_floor, x - x_floor, v, moves_y, moves_x


@triton.jit
def inside(y0, x0, valid, H, W):
    """Which of the four corners lie in the image."""
    upper = valid & (y0 >= 0) & (y0 < H)
    lower = valid & (y0 >= -1) & (y0 < H - 1)
    left = (x0 >= 0) & (x0 < W)
    right = (x0 >= -1) & (x0 < W - 1)
    return upper & left, upper & right, lower & left, lower & right


@triton.jit
def rows(here, mask, c, C: tl.constexpr, WHOLE: tl.constexpr):
    """A block of channels at every position, float32; zero where there is no such pixel."""
    if WHOLE:
        value = tl.load(here, mask=mask[:, None], other=0.0)
    else:
        value = tl.load(here, mask=mask[:, None] & (c < C)[None, :], other=0.0)
    return value.to(tl.float32)


@triton.jit
def gather(x, corner, W, y0, x0, down, right, v, valid, H, c, C: tl.constexpr, WHOLE: tl.constexpr):
    """Bilinear samples times V: (positions, channels), float32."""
    in00, in01, in10, in11 = inside(y0, x0, valid, H, W)
    here = x + corner[:, None] + c[None, :]
    value = rows(here, in00, c, C, WHOLE) * ((1 - down) * (1 - right) * v)[:, None]
    value += rows(here + C, in01, c, C, WHOLE) * ((1 - down) * right * v)[:, None]
    value += rows(here + W * C, in10, c, C, WHOLE) * (down * (1 - right) * v)[:, None]
    value += rows(here + W * C + C, in11, c, C, WHOLE) * (down * right * v)[:, None]
    return value


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr):
    """The sum of acc and a b, in float32. The interpreter, which alone asks for "ieee", cannot multiply bfloat16."""
    if PRECISION == "ieee":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=["cells"])
def compact_kernel(running, index, cells, BLOCK: tl.constexpr):
    """From the running count of a mask to the list of its cells, in order: index[running[i] - 1] = i."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = place < cells
    after = tl.load(running + place, mask=exists, other=0)
    before = tl.load(running + place - 1, mask=exists & (place > 0), other=0)
    tl.store(index + after - 1, place, mask=exists & (after > before))


@triton.jit(do_not_specialize=["B", "H", "W", "HO", "WO"])
def forward_kernel(
    x, w, bias, offset, kernel, out, index, count, B, H, W, HO, WO,
    so_b, so_c, so_h, so_w, sv_b, sv_c, sv_h, sv_w,
    C: tl.constexpr, N: tl.constexpr, w_tap: tl.constexpr, w_c: tl.constexpr, w_o: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BP: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of positions, BO output channels: every sample is gathered once, blended and multiplied."""
    block = tl.program_id(0)
    if index is not None:
        if block * BP >= tl.load(count):
            return
    flat, image, row, column, valid = pixels(block, index, count, B, HO, WO, BP, TW)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    first = image * (H * W * C)
    acc = tl.zeros((BP, BO), tl.float32)
    at_offset = planes(offset, image, row, column, so_b, so_h, so_w)
    at_kernel = planes(kernel, image, row, column, sv_b, sv_h, sv_w)
    for tap in range(KH * KW):
        y0, x0, down, right, v, _, _ = places(
            at_offset, at_kernel, tap, row, column, valid, so_c, sv_c, H, W, KW, SH, SW, PH, PW, DH, DW
        )
        corner = first + (y0 * W + x0) * C
        for c0 in range(0, C, BC):
            c = c0 + tl.arange(0, BC)
            value = gather(x, corner, W, y0, x0, down, right, v, valid, H, c, C, C % BC == 0)
            m = tl.load(
                w + tap * w_tap + c[:, None] * w_c + o[None, :] * w_o,
                mask=(c < C)[:, None] & (o < N)[None, :],
                other=0.0,
            )
            acc = multiply(value.to(m.dtype), m, acc, PRECISION)
    if bias is not None:
        acc += tl.load(bias + o, mask=o < N, other=0.0).to(tl.float32)[None, :]
    at_out = out + (flat.to(tl.int64) * N)[:, None] + o[None, :]
    tl.store(at_out, acc.to(out.dtype.element_ty), mask=valid[:, None] & (o < N)[None, :])
