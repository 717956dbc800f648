"""What is being traced."""

import torch

__all__ = ["is_exporting"]


def is_exporting() -> bool:
    """Whether a graph is being exported. Up to torch 2.11, `torch.compiler.is_exporting` is True while compiling, too."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
