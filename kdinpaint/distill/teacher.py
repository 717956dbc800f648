"""A teacher that cannot thaw."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError

__all__ = ["FrozenTeacher"]


class FrozenTeacher(nn.Module):
    """Hold a network so that nothing in training can change it.

    The network lives outside the module tree: a parent's `train()`, `requires_grad_()`, `parameters()` and
    `state_dict()` do not see it, so optimisers, weight decay, data-parallel wrappers and checkpoints leave it
    alone. It always runs in eval mode, so batch statistics stay, and without gradients. It does follow
    `.to()`, `copy.deepcopy` and pickling.

    Args:
        module: The trained network. It is put into eval mode and its parameters stop requiring gradients.
        method: The method of `module` that yields what the student imitates; an encoder-decoder teaches its
            features, as `AutoEncoder` does with method="encode".

    Raises:
        ConfigError: `module` has no such method.

    Example:
        >>> import torch
        >>> from kdinpaint import AutoEncoder, FrozenTeacher
        >>> teacher = FrozenTeacher(AutoEncoder(channels=(8, 16)), method="encode")
        >>> [tuple(f.shape) for f in teacher(torch.rand(1, 3, 32, 32))]
        [(1, 8, 16, 16), (1, 16, 8, 8)]
        >>> list(teacher.parameters())
        []
    """

    def __init__(self, module: nn.Module, *, method: str = "forward") -> None:
        super().__init__()
        if not callable(getattr(module, method, None)):
            raise ConfigError(
                f"{type(module).__name__} has no method {method!r}; name the one that returns the features."
            )
        # Straight into __dict__, past nn.Module.__setattr__, which would register it as a child.
        self.__dict__["_teacher"] = module.eval().requires_grad_(False)
        self.method = method

    @property
    def module(self) -> nn.Module:
        """The wrapped network."""
        teacher: nn.Module = self.__dict__["_teacher"]
        return teacher

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the teacher takes and gives
        """Run the teacher in eval mode, without gradients; arguments and result are the method's."""
        teacher = self.module
        if teacher.training:
            teacher.eval()
        with torch.no_grad():
            return getattr(teacher, self.method)(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenTeacher":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """The wrapped class and method."""
        return f"{type(self.module).__name__}.{self.method}"
