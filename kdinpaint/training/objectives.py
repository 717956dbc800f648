"""What each network minimises. An objective holds every trainable of its stage as one module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdinpaint.distill import CrossDistillLoss, FrozenTeacher, MetaLearner, SelfDistillLoss
from kdinpaint.models import AutoEncoder, InpaintingNet
from kdinpaint.models.comparators import Comparator
from kdinpaint.ops import masked_channel_mean
from kdinpaint.training.config import DistillConfig, LossConfig

__all__ = ["ExtraLoss", "Losses", "Objective", "StudentObjective", "TeacherObjective", "inpainting_loss"]

ExtraLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def inpainting_loss(prediction: Tensor, image: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Weighted L1 of a raw prediction, hole and known pixels each averaged over their own area.

    Args:
        prediction: (B, C, H, W).
        image: (B, C, H, W), the truth.
        mask: (B, 1, H, W), 1 = hole.
        config: The weights.

    Returns:
        A scalar.
    """
    error = (prediction - image).abs()
    hole = masked_channel_mean(error, mask).mean()
    known = masked_channel_mean(error, 1 - mask).mean()
    return config.hole * hole + config.known * known


@dataclass
class Losses:
    """What one forward pass of an objective yields.

    Attributes:
        total: The scalar to minimise.
        parts: Its unweighted terms, for the log.
        kept: Whatever the objective needs again in `backward`.
        progress: The share of steps done, for objectives with an optimiser of their own.
    """

    total: Tensor
    parts: dict[str, Tensor]
    kept: Any = None
    progress: float = 0.0


class Objective(nn.Module):
    """Base: `net` is the network that is trained, averaged and kept; `betas` are those of its Adam."""

    net: AutoEncoder | InpaintingNet | Comparator
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam

    def trainable(self) -> list[nn.Parameter]:
        """Parameters of the stage's optimiser."""
        return list(self.parameters())

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """The losses of a batch; `progress` in [0, 1) is the share of steps done."""
        raise NotImplementedError

    def backward(self, losses: Losses, step: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Fill the gradients; returns further numbers for the log."""
        backward(losses.total)
        return {}

    def extra_state(self) -> dict[str, Any]:
        """State that is neither a parameter nor a buffer."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""


class TeacherObjective(Objective):
    """L1 reconstruction of intact images."""

    def __init__(self, net: AutoEncoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        loss = (self.net(batch["image"]) - batch["image"]).abs().mean()
        return Losses(loss, {"l1": loss.detach()})


@dataclass
class _Features:
    image: Tensor
    mask: Tensor
    task: Tensor
    student: list[Tensor]
    teacher: list[Tensor]
    factors: tuple[float, float]


class StudentObjective(Objective):
    """Inpainting loss, cross and self distillation, and the meta-learner of channel importance.

    Args:
        net: The student.
        teacher: The trained autoencoder, or None to train without distillation.
        loss: Weights of the inpainting loss.
        distill: Options of the distillation losses.
        extra: Further losses, called with (prediction, image, mask); a hook for perceptual, style or
            adversarial terms. Each name appears in the log.
    """

    def __init__(
        self,
        net: InpaintingNet,
        teacher: AutoEncoder | None,
        *,
        loss: LossConfig,
        distill: DistillConfig,
        extra: Mapping[str, ExtraLoss] | None = None,
    ) -> None:
        super().__init__()
        self.net: InpaintingNet = net
        self.config = distill
        self.loss_config = loss
        self.extra = dict(extra or {})
        use = teacher is not None
        options: dict[str, Any] = {
            "importance": "uniform" if distill.importance == "uniform" else "learned",
            "scale": distill.scale,
            "reduction": distill.reduction,
            "mask_resize": distill.mask_resize,
            "floor": distill.floor,
            "temperature": distill.temperature,
            "pool": distill.pool,
            "joint": distill.importance == "joint",
        }
        self.teacher = FrozenTeacher(teacher, method="encode") if teacher is not None else None
        self.cross = CrossDistillLoss(net.channels, **options) if use and distill.cross else None
        self.self_distill = (
            SelfDistillLoss(net.channels, detach_target=distill.detach_target, **options)
            if use and distill.self_distill
            else None
        )
        predictors = [
            p for term in (self.cross, self.self_distill) if term is not None for p in term.predictors.parameters()
        ]
        self.meta = (
            MetaLearner(
                predictors,
                every=distill.meta_every,
                lr=distill.meta_lr,
                weight_decay=distill.meta_weight_decay,
            )
            if distill.importance == "meta" and predictors
            else None
        )

    def trainable(self) -> list[nn.Parameter]:
        """All parameters but those the meta-learner owns."""
        meta = {id(p) for p in self.meta.predictors} if self.meta is not None else set()
        return [p for p in self.parameters() if id(p) not in meta]

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        image, mask = batch["image"], batch["mask"]
        prediction, features = self.net(image, mask, return_features=True)
        task = inpainting_loss(prediction, image, mask, self.loss_config)
        parts = {"task": task.detach()}
        for name, term in self.extra.items():
            value = term(prediction, image, mask)
            task, parts[name] = task + value, value.detach()
        total = task
        teacher = self.teacher(image) if self.teacher is not None and self.cross is not None else []
        cross_factor, self_factor = self._factors(progress)
        if self.cross is not None and cross_factor:
            value = self.cross(features, teacher, mask)
            total, parts["cross"] = total + cross_factor * value, value.detach()
        if self.self_distill is not None and self_factor:
            value = self.self_distill(features, mask)
            total, parts["self"] = total + self_factor * value, value.detach()
        kept = _Features(image, mask, task, features, teacher, (cross_factor, self_factor))
        return Losses(total, parts, kept)

    def _factors(self, progress: float) -> tuple[float, float]:
        """Weights of cross and self distillation at this point of training."""
        if progress >= 1 - self.config.off_last:
            return 0.0, 0.0
        ramp = min(1.0, progress / self.config.self_ramp) if self.config.self_ramp else 1.0
        return self.config.cross, self.config.self_distill * ramp

    def backward(self, losses: Losses, step: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Fill the gradients and, when due, update the importance predictors."""
        kept: _Features = losses.kept
        if self.meta is None or not self.meta.due(step) or not any(kept.factors):
            backward(losses.total)
            return {}
        encoder = list(self.net.encoder.parameters())
        direction = torch.autograd.grad(kept.task, encoder, retain_graph=True, allow_unused=True)
        backward(losses.total)
        return self._meta_step(kept, encoder, direction)

    def _meta_step(
        self, kept: _Features, encoder: list[nn.Parameter], direction: tuple[Tensor | None, ...]
    ) -> dict[str, float]:
        assert self.meta is not None
        terms: list[tuple[CrossDistillLoss | SelfDistillLoss, float, list[Tensor]]] = []
        if self.cross is not None and kept.factors[0]:
            terms.append((self.cross, kept.factors[0], kept.teacher))
        if self.self_distill is not None and kept.factors[1]:
            terms.append((self.self_distill, kept.factors[1], [f.detach() for f in kept.student[1:]]))

        def distances() -> list[Tensor]:
            features = self.net.encode(kept.image, kept.mask)
            found: list[Tensor] = []
            for term, _, targets in terms:
                if isinstance(term, CrossDistillLoss):
                    found += term.distances(features, targets, kept.mask)
                else:
                    found += term.distances(features, kept.mask, targets=targets)
            return found

        importance = [rho for term, _, targets in terms for rho in term.importance(targets, kept.mask)]
        health = self.meta.step(
            parameters=encoder,
            direction=direction,
            distances=distances,
            importance=importance,
            weights=[factor * w for term, factor, _ in terms for w in term.pair_weights()],
        )
        if health is None:
            return {}
        task = torch.stack([g.norm() for g in direction if g is not None]).norm()
        rest = torch.stack(
            [
                (p.grad - g).norm()
                for p, g in zip(encoder, direction, strict=True)
                if g is not None and p.grad is not None
            ]
        ).norm()
        return {
            **{f"importance/{name}": value for name, value in health.items()},
            "distill_to_task_gradient": float(rest / task),
        }

    def extra_state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {} if self.meta is None else {"meta": self.meta.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """See `Objective`."""
        if self.meta is not None:
            self.meta.load_state_dict(state["meta"])
