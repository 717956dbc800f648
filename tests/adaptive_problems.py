"""Random arguments of adaptive_conv2d over all geometries, and its value with its gradients."""

import torch
from harness import SEEDS, seeded
from hypothesis import strategies as st


def problem(
    batch, channels, outputs, kernel, size, stride, padding, dilation, *, reach=1.5, seed=0, dtype=torch.float64
):
    """Random tensors of a geometry, enlarged until there is an output: ((input, weight, offset, V, bias), options)."""
    size = tuple(max(n, d * (k - 1) + 1 - 2 * p) for n, k, p, d in zip(size, kernel, padding, dilation, strict=True))
    output = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    taps, generator = kernel[0] * kernel[1], seeded(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors = (
        draw(batch, channels, *size),
        draw(outputs, channels, *kernel),
        reach * draw(batch, 2 * taps, *output),
        draw(batch, taps, *output),
        draw(outputs),
    )
    return tensors, (stride, padding, dilation)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw, reaches=(0.0, 0.6, 4.0, 1e3), largest=7):
    return problem(
        draw(st.integers(1, 3)),
        draw(st.sampled_from((1, 2, 3, 17))),
        draw(st.sampled_from((1, 2, 3, 17))),
        draw(pairs(1, 5)),
        draw(pairs(1, largest)),
        draw(pairs(1, 3)),
        draw(pairs(0, 2)),
        draw(pairs(1, 2)),
        reach=draw(st.sampled_from(reaches)),
        seed=draw(SEEDS),
    )


def small(seed=0, batch=2, reach=1.5, dtype=torch.float64):
    return problem(batch, 2, 3, (3, 3), (4, 5), (1, 1), (1, 1), (1, 1), reach=reach, seed=seed, dtype=dtype)


def with_gradients(function, tensors, cotangent=None):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    cotangent = torch.randn(out.shape, generator=seeded(7), dtype=out.dtype) if cotangent is None else cotangent
    return out, torch.autograd.grad(out, leaves, cotangent, materialize_grads=True)
