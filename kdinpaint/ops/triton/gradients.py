"""The fused gradient kernels. Both gather again what the forward pass gathered: nothing is kept between the two."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, SIM102

import triton
import triton.language as tl

from kdinpaint.ops.triton.kernels import gather, inside, multiply, pixels, places, planes, rows

__all__ = ["data_gradient_kernel", "weight_gradient_kernel"]


@triton.jit
def add_rows(there, value, mask, c, C: tl.constexpr, WHOLE: tl.constexpr):
    """Add a block of channels to a pixel of dx: relaxed, because nobody reads before the kernel ends."""
    if WHOLE:
        tl.atomic_add(there, value, mask=mask[:, None], sem="relaxed")
    else:
        tl.atomic_add(there, value, mask=mask[:, None] & (c < C)[None, :], sem="relaxed")


@triton.jit
def scatter(dx, corner, W, y0, x0, down, right, v, valid, H, d, c, C: tl.constexpr, WHOLE: tl.constexpr):
    """The transpose of `gather`: every column gradient goes to the four pixels its sample was read from."""
    in00, in01, in10, in11 = inside(y0, x0, valid, H, W)
    there = dx + corner[:, None] + c[None, :]
    add_rows(there, d * ((1 - down) * (1 - right) * v)[:, None], in00, c, C, WHOLE)
    add_rows(there + C, d * ((1 - down) * right * v)[:, None], in01, c, C, WHOLE)
    add_rows(there + W * C, d * (down * (1 - right) * v)[:, None], in10, c, C, WHOLE)
    add_rows(there + W * C + C, d * (down * right * v)[:, None], in11, c, C, WHOLE)


@triton.jit
def corner_products(x, corner, W, y0, x0, valid, H, d, c, C: tl.constexpr, WHOLE: tl.constexpr):
    """Inner products of the column gradients with the four pixels of every sample."""
    in00, in01, in10, in11 = inside(y0, x0, valid, H, W)
    here = x + corner[:, None] + c[None, :]
    g00 = tl.sum(rows(here, in00, c, C, WHOLE) * d, 1)
    g01 = tl.sum(rows(here + C, in01, c, C, WHOLE) * d, 1)
    g10 = tl.sum(rows(here + W * C, in10, c, C, WHOLE) * d, 1)
    g11 = tl.sum(rows(here + W * C + C, in11, c, C, WHOLE) * d, 1)
    return g00, g01, g10, g11


@triton.jit
def store_places(
    doffset, dkernel, at_doffset, at_dkernel, tap, valid, do_c, dv_c,
    g00, g01, g10, g11, down, right, v, moves_y, moves_x,
):  # fmt: skip
    """From the four inner products to the gradients of V and of the two coordinates."""
    upper = (1 - right) * g00 + right * g01
    lower = (1 - right) * g10 + right * g11
    if dkernel is not None:
        value = (1 - down) * upper + down * lower
        tl.store(at_dkernel + tap * dv_c, value.to(dkernel.dtype.element_ty), mask=valid)
    if doffset is not None:
        gy = tl.where(moves_y, v * (lower - upper), 0.0)
        gx = tl.where(moves_x, v * ((1 - down) * (g01 - g00) + down * (g11 - g10)), 0.0)
        tl.store(at_doffset + 2 * tap * do_c, gy.to(doffset.dtype.element_ty), mask=valid)
        tl.store(at_doffset + (2 * tap + 1) * do_c, gx.to(doffset.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["B", "H", "W", "HO", "WO"])
def data_gradient_kernel(
    grad, x, w, offset, kernel, dx, doffset, dkernel, index, count, B, H, W, HO, WO,
    so_b, so_c, so_h, so_w, sv_b, sv_c, sv_h, sv_w, do_b, do_c, do_h, do_w, dv_b, dv_c, dv_h, dv_w,
    C: tl.constexpr, N: tl.constexpr, w_tap: tl.constexpr, w_c: tl.constexpr, w_o: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BP: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of positions; dx, doffset or dkernel is None where it is not wanted.

    A program owns all channels of its positions, so the gradients of V and of the offsets need no atomics.
    """
    block = tl.program_id(0)
    if index is not None:
        if block * BP >= tl.load(count):
            return
    flat, image, row, column, valid = pixels(block, index, count, B, HO, WO, BP, TW)
    at_offset = planes(offset, image, row, column, so_b, so_h, so_w)
    at_kernel = planes(kernel, image, row, column, sv_b, sv_h, sv_w)
    at_doffset = None if doffset is None else planes(doffset, image, row, column, do_b, do_h, do_w)
    at_dkernel = None if dkernel is None else planes(dkernel, image, row, column, dv_b, dv_h, dv_w)
    first = image * (H * W * C)
    at_grad = grad + (flat.to(tl.int64) * N)[:, None]
    if N <= BO:
        # The same for every tap: loaded once, it stays in shared memory.
        o = tl.arange(0, BO)
        whole = tl.load(at_grad + o[None, :], mask=valid[:, None] & (o < N)[None, :], other=0.0)
    for tap in range(KH * KW):
        y0, x0, down, right, v, moves_y, moves_x = places(
            at_offset, at_kernel, tap, row, column, valid, so_c, sv_c, H, W, KW, SH, SW, PH, PW, DH, DW
        )
        corner = first + (y0 * W + x0) * C
        g00 = tl.zeros((BP,), tl.float32)
        g01 = tl.zeros((BP,), tl.float32)
        g10 = tl.zeros((BP,), tl.float32)
        g11 = tl.zeros((BP,), tl.float32)
        for c0 in range(0, C, BC):
            c = c0 + tl.arange(0, BC)
            d = tl.zeros((BP, BC), tl.float32)
            at_w = w + tap * w_tap + c[None, :] * w_c
            if N <= BO:
                m = tl.load(at_w + o[:, None] * w_o, mask=(c < C)[None, :] & (o < N)[:, None], other=0.0)
                d = multiply(whole, m, d, PRECISION)
            else:
                for o0 in range(0, N, BO):
                    o1 = o0 + tl.arange(0, BO)
                    part = tl.load(at_grad + o1[None, :], mask=valid[:, None] & (o1 < N)[None, :], other=0.0)
                    m = tl.load(at_w + o1[:, None] * w_o, mask=(c < C)[None, :] & (o1 < N)[:, None], other=0.0)
                    d = multiply(part, m, d, PRECISION)
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


@triton.jit(do_not_specialize=["B", "H", "W", "HO", "WO", "blocks"])
def weight_gradient_kernel(
    grad, x, offset, kernel, partial, index, count, blocks, B, H, W, HO, WO,
    so_b, so_c, so_h, so_w, sv_b, sv_c, sv_h, sv_w,
    C: tl.constexpr, N: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    BP: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BC x BO weights of one tap, summed over every `splits`-th block of positions, into partial[split].

    Partial sums are added up afterwards, in order: no atomics, the same bits every time.
    """
    tap = tl.program_id(0)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    c = tl.program_id(2) // tl.cdiv(N, BO) * BC + tl.arange(0, BC)
    o = tl.program_id(2) % tl.cdiv(N, BO) * BO + tl.arange(0, BO)
    if index is not None:
        blocks = tl.cdiv(tl.load(count), BP)
    acc = tl.zeros((BC, BO), tl.float32)
    for block in range(split, blocks, splits):
        flat, image, row, column, valid = pixels(block, index, count, B, HO, WO, BP, TW)
        at_offset = planes(offset, image, row, column, so_b, so_h, so_w)
        at_kernel = planes(kernel, image, row, column, sv_b, sv_h, sv_w)
        y0, x0, down, right, v, _, _ = places(
            at_offset, at_kernel, tap, row, column, valid, so_c, sv_c, H, W, KW, SH, SW, PH, PW, DH, DW
        )
        corner = image * (H * W * C) + (y0 * W + x0) * C
        value = gather(x, corner, W, y0, x0, down, right, v, valid, H, c, C, C % BC == 0)
        at_grad = grad + (flat.to(tl.int64) * N)[:, None]
        g = tl.load(at_grad + o[None, :], mask=valid[:, None] & (o < N)[None, :], other=0.0)
        acc = multiply(tl.trans(value.to(g.dtype)), g, acc, PRECISION)
    at = partial + (split * KH * KW + tap).to(tl.int64) * C * N
    tl.store(at + c[:, None] * N + o[None, :], acc, mask=(c < C)[:, None] & (o < N)[None, :])
