"""Training against discriminators, in the same engine: an objective that owns them and their optimiser."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kdinpaint.models import InpaintingNet
from kdinpaint.models.comparators import Comparator
from kdinpaint.training.objectives import Losses, Objective
from kdinpaint.training.schedule import lr_factor

__all__ = ["AdversarialObjective"]


class AdversarialObjective(Objective):
    """Base of objectives with discriminators. A step updates these first, then the network against the new ones.

    Subclasses write `forward`, whose losses leave the adversarial terms out, `discriminate` and `deceive`. The
    discriminators belong to the module, so that they move and are saved with it, but need no gradient outside their
    own step: data-parallel wrappers pass them over, and their gradients are averaged over processes here. They run
    in full precision, and pass over steps whose gradients are not finite, as gradient scaling does for the network.
    Their optimiser is part of `extra_state`: a stage goes on exactly where it stopped.

    Args:
        net: The network.
        discriminators: By name.
        lr: Learning rate of their Adam.
        betas: Of both Adams.
        schedule: As in `OptimConfig`; the discriminators follow it, too.

    Example:
        >>> import torch
        >>> from kdinpaint import InpaintingNet
        >>> from kdinpaint.losses import discriminator_loss, generator_loss
        >>> from kdinpaint.models.comparators import PatchDiscriminator
        >>> from kdinpaint.training import AdversarialObjective, Losses
        >>> class Sharp(AdversarialObjective):
        ...     def forward(self, batch, progress):
        ...         out = self.net(batch["image"], batch["mask"])
        ...         l1 = (out - batch["image"]).abs().mean()
        ...         return Losses(l1, {"l1": l1.detach()}, (batch["image"], out.float()), progress)
        ...     def discriminate(self, kept):
        ...         real, fake = (self.discriminators["image"](x.detach())[-1] for x in kept)
        ...         return discriminator_loss(real, fake, kind="hinge")
        ...     def deceive(self, kept):
        ...         value = generator_loss(self.discriminators["image"](kept[1])[-1], kind="hinge")
        ...         return 0.01 * value, {"adversarial": value.detach()}
        >>> critics = {"image": PatchDiscriminator(3, width=4)}
        >>> stage = Sharp(InpaintingNet(channels=(4, 8)), critics, lr=1e-4, betas=(0.5, 0.9))
        >>> losses = stage({"image": torch.rand(1, 3, 32, 32), "mask": torch.ones(1, 1, 32, 32)}, 0.0)
        >>> sorted(stage.backward(losses, 0, lambda loss: loss.backward()))
        ['adversarial', 'discriminator']
    """

    def __init__(
        self,
        net: InpaintingNet | Comparator,
        discriminators: Mapping[str, nn.Module],
        *,
        lr: float,
        betas: tuple[float, float],
        schedule: str = "constant",
    ) -> None:
        super().__init__()
        self.net: InpaintingNet | Comparator = net
        self.betas = betas
        self.schedule = schedule
        self.discriminators = nn.ModuleDict(discriminators).requires_grad_(False)
        self.lr = lr
        self.adam = torch.optim.Adam(self.discriminators.parameters(), lr=lr, betas=betas)

    def trainable(self) -> list[nn.Parameter]:
        """What the network's optimiser trains."""
        return [p for p in self.net.parameters() if p.requires_grad]

    def discriminate(self, kept: Any) -> Tensor:  # noqa: ANN401 - what the subclass's forward kept
        """What the discriminators minimise, generated images detached."""
        raise NotImplementedError

    def deceive(self, kept: Any) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ANN401
        """Weighted adversarial terms of the network, and the unweighted ones for the log."""
        raise NotImplementedError

    def backward(self, losses: Losses, step: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Update the discriminators, then fill the network's gradients."""
        loss = self._step(losses)
        added, parts = self.deceive(losses.kept)
        backward(losses.total + added)
        return {"discriminator": float(loss), **{name: float(value) for name, value in parts.items()}}

    def _step(self, losses: Losses) -> Tensor:
        self.discriminators.requires_grad_(True)
        loss = self.discriminate(losses.kept)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.discriminators.parameters())
        if distributed.is_available() and distributed.is_initialized():
            for p in parameters:
                if p.grad is not None:
                    distributed.all_reduce(p.grad)
                    p.grad /= distributed.get_world_size()
        for group in self.adam.param_groups:
            group["lr"] = self.lr * lr_factor(self.schedule, losses.progress)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if bool(torch.isfinite(norm)):
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.discriminators.requires_grad_(False)
        return loss.detach()

    def extra_state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {"adam": self.adam.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """See `Objective`."""
        self.adam.load_state_dict(state["adam"])
