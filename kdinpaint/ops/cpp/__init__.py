"""Adaptive convolution on CPUs in C++, compiled on first use. Importing this compiles nothing."""

from kdinpaint.ops.cpp.launch import backward, forward, unsupported

__all__ = ["backward", "forward", "unsupported"]
