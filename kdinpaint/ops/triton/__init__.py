"""Adaptive convolution on NVIDIA GPUs, in Triton. Importing this imports no Triton: not every machine has it."""

from kdinpaint.ops.triton.launch import backward, forward, unsupported

__all__ = ["backward", "forward", "unsupported"]
