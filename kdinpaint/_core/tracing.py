"""What is being traced."""

import torch

__all__ = ["is_exporting"]


def is_exporting() -> bool:
    """Whether a graph is being exported; `torch.compiler.is_exporting` says so while compiling, too, up to torch 2.11."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
