"""Measuring: interleaved timing, peak memory, and adaptive convolution against everything else that computes it."""
