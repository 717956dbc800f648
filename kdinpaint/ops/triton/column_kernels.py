"""The two kernels of the column form: samples into a buffer, and its gradient back to pixels, V and offsets.

They work on a stretch of consecutive positions, so that the buffer stays of bounded size. Cells outside the region
have columns of zeros.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl

from kdinpaint.ops.triton.gradients import corner_products, scatter, store_places
from kdinpaint.ops.triton.kernels import gather, places, planes

__all__ = ["columns_gradient_kernel", "columns_kernel"]


@triton.jit
def stretch(first, last, region, HO, WO, BP: tl.constexpr):
    """The BP positions of a program: row of the buffer, image, row, column, existing, and inside the region."""
    lane = tl.program_id(0) * BP + tl.arange(0, BP)
    flat = first + lane
    exists = flat < last
    valid = exists
    if region is not None:
        valid = exists & (tl.load(region + flat, mask=exists, other=0) != 0)
    return lane, (flat // (HO * WO)).to(tl.int64), flat // WO % HO, flat % WO, exists, valid


@triton.jit(do_not_specialize=["H", "W", "HO", "WO", "first", "last"])
def columns_kernel(
    x, offset, kernel, columns, region, H, W, HO, WO, first, last,
    so_b, so_c, so_h, so_w, sv_b, sv_c, sv_h, sv_w, C: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """columns[position, tap, channel] for one block of positions and one tap."""
    lane, image, row, column, exists, valid = stretch(first, last, region, HO, WO, BP)
    tap = tl.program_id(1)
    at_offset = planes(offset, image, row, column, so_b, so_h, so_w)
    at_kernel = planes(kernel, image, row, column, sv_b, sv_h, sv_w)
    y0, x0, down, right, v, _, _ = places(
        at_offset, at_kernel, tap, row, column, valid, so_c, sv_c, H, W, KW, SH, SW, PH, PW, DH, DW
    )
    corner = image * (H * W * C) + (y0 * W + x0) * C
    to = columns + (lane.to(tl.int64) * (KH * KW) + tap) * C
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        value = gather(x, corner, W, y0, x0, down, right, v, valid, H, c, C, C % BC == 0)
        tl.store(
            to[:, None] + c[None, :],
            value.to(columns.dtype.element_ty),
            mask=exists[:, None] & (c < C)[None, :],
        )


@triton.jit(do_not_specialize=["H", "W", "HO", "WO", "first", "last"])
def columns_gradient_kernel(
    columns, x, offset, kernel, dx, doffset, dkernel, region, H, W, HO, WO, first, last,
    so_b, so_c, so_h, so_w, sv_b, sv_c, sv_h, sv_w, do_b, do_c, do_h, do_w, dv_b, dv_c, dv_h, dv_w,
    C: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """From the gradient of the columns to dx (atomics), doffset and dkernel; None where not wanted."""
    lane, image, row, column, _, valid = stretch(first, last, region, HO, WO, BP)
    tap = tl.program_id(1)
    at_offset = planes(offset, image, row, column, so_b, so_h, so_w)
    at_kernel = planes(kernel, image, row, column, sv_b, sv_h, sv_w)
    at_doffset = None if doffset is None else planes(doffset, image, row, column, do_b, do_h, do_w)
    at_dkernel = None if dkernel is None else planes(dkernel, image, row, column, dv_b, dv_h, dv_w)
    y0, x0, down, right, v, moves_y, moves_x = places(
        at_offset, at_kernel, tap, row, column, valid, so_c, sv_c, H, W, KW, SH, SW, PH, PW, DH, DW
    )
    corner = image * (H * W * C) + (y0 * W + x0) * C
    source = columns + (lane.to(tl.int64) * (KH * KW) + tap) * C
    g00 = tl.zeros((BP,), tl.float32)
    g01 = tl.zeros((BP,), tl.float32)
    g10 = tl.zeros((BP,), tl.float32)
    g11 = tl.zeros((BP,), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        d = tl.load(source[:, None] + c[None, :], mask=valid[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        if doffset is not None or dkernel is not None:
            p00, p01, p10, p11 = corner_products(x, corner, W, y0, x0, valid, H, d, c, C, C % BC == 0)
            g00 += p00
            g01 += p01
            g10 += p10
            g11 += p11
        if dx is not None:
            scatter(dx, corner, W, y0, x0, down, right, v, valid, H, d, c, C, C % BC == 0)
    if doffset is not None or dkernel is not None:
        store_places(
            doffset, dkernel, at_doffset, at_dkernel, tap, valid, do_c, dv_c,
            g00, g01, g10, g11, down, right, v, moves_y, moves_x,
        )  # fmt: skip
