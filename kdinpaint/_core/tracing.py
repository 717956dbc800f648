"""What is being traced."""

import torch

__all__ = ["is_exporting"]


def is_exporting() -> bool:
    """Whether a graph is being exported, and not compiled: up to torch 2.11 PyTorch's own answer is yes for both."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
