"""What a student minimises: the inpainting loss, distillation, and what its meta-learner owns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError
from kdinpaint._core.processes import averaged
from kdinpaint.distill import (
    AttentionTransferLoss,
    CrossDistillLoss,
    FrozenTeacher,
    MetaLearner,
    SelfDistillLoss,
    TransferImportancePredictor,
    teacher_forcing,
)
from kdinpaint.distill.running import observed_together
from kdinpaint.models import AttentionMap, InpaintingNet
from kdinpaint.training.attention import attention_channels
from kdinpaint.training.balance import balanced_loss, mean_gradient, scaled_gradient
from kdinpaint.training.config import DistillConfig, LossConfig
from kdinpaint.training.objectives import Losses, Objective, inpainting_loss

__all__ = ["ExtraLoss", "StudentObjective"]

ExtraLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class _Features:
    image: Tensor
    mask: Tensor
    hole: Tensor  # the mask as the network pads it: it covers the features
    task: Tensor
    student: list[Tensor]
    teacher: list[Tensor]
    looked: AttentionMap | None
    factors: dict[str, float]


_Distances = Callable[[list[Tensor], AttentionMap | None], list[Tensor]]


@dataclass
class _Term:
    """One distillation loss in the meta-learner's eyes."""

    factors: list[float]
    importance: list[Tensor]
    distances: _Distances


class StudentObjective(Objective):
    """Inpainting loss, distillation losses, and the meta-learner of what they weigh.

    Args:
        net: The student.
        teacher: The trained autoencoder, or any module with its method `encode`; None to train without distillation.
            If its `feature_channels` differ from the student's, cross distillation compares a linear readout of the
            student's features, which trains along and is left behind.
        loss: Weights of the inpainting loss.
        distill: Options of the distillation losses.
        extra: Further losses, called with (prediction, image, mask); a hook for perceptual, style or
            adversarial terms. Each name appears in the log.

    Raises:
        ConfigError: Attention transfer with a student or teacher that has no attention; weights of levels or a teacher
            whose levels do not fit the student's; teacher forcing by a teacher of other widths.
    """

    def __init__(
        self,
        net: InpaintingNet,
        teacher: nn.Module | None,
        *,
        loss: LossConfig,
        distill: DistillConfig,
        extra: Mapping[str, ExtraLoss] | None = None,
    ) -> None:
        super().__init__()
        distill.check_levels(len(net.channels))
        self.net: InpaintingNet = net
        self.config = distill
        self.loss_config = loss
        self.extra = dict(extra or {})
        use = teacher is not None
        joint = distill.importance == "joint"
        kind: Any = "uniform" if distill.importance == "uniform" else "learned"
        options: dict[str, Any] = {
            "importance": kind,
            "scale": distill.scale,
            "reduction": distill.reduction,
            "mask_resize": distill.mask_resize,
            "floor": distill.floor,
            "temperature": distill.temperature,
            "pool": distill.pool,
            "joint": joint,
        }
        learned: Literal["learned"] | None = "learned" if distill.level_weights == "learned" else None
        widths = tuple(getattr(teacher, "feature_channels", net.channels))
        self.readouts = _readouts(net.channels, widths, forced=bool(distill.teacher_forcing))
        self.cross = (
            CrossDistillLoss(
                widths,
                level_weights=learned if isinstance(distill.level_weights, str) else distill.level_weights,
                aligner=distill.aligner,
                distance=distill.distance,
                region=distill.region,
                rim=distill.rim,
                low_pass=distill.low_pass,
                **options,
            )
            if use and distill.cross
            else None
        )
        self.self_distill = (
            SelfDistillLoss(net.channels, level_weights=learned, detach_target=distill.detach_target, **options)
            if use and distill.self_distill
            else None
        )
        self.attention: AttentionTransferLoss | None = None
        if teacher is not None and distill.attention_transfer:
            self.attention = AttentionTransferLoss(
                attention_channels(net, teacher), importance=kind, mask_resize=distill.mask_resize, joint=joint
            )
        self.teacher = (
            FrozenTeacher(teacher, method="encode" if self.attention is None else "attend")
            if teacher is not None
            else None
        )
        self._parts: list[tuple[_Features, list[Tensor | None]]] = []
        terms = [term for term in (self.cross, self.self_distill, self.attention) if term is not None]
        if distill.importance == "random":
            self._freeze_random_importance()
        predictors = [p for term in terms for p in term.meta_parameters() if p.requires_grad]
        aligners = [] if self.cross is None else self.cross.aligner_parameters()
        self.meta = (
            MetaLearner(
                predictors,
                aligners=aligners,
                method=distill.meta_method,
                every=distill.meta_every,
                lr=distill.meta_lr,
                weight_decay=distill.meta_weight_decay,
                inner_lr=distill.meta_inner_lr,
                inner_steps=distill.meta_inner_steps,
                inner_momentum=distill.meta_inner_momentum,
                inner_weight_decay=distill.meta_inner_weight_decay,
            )
            if not joint and (predictors or aligners)
            else None
        )

    def _freeze_random_importance(self) -> None:
        """Channel weights that no image and no training changes: a softmax of normal numbers."""
        for term in (self.cross, self.self_distill):
            for predictor in () if term is None else term.predictors:
                predictor.requires_grad_(False)
                assert isinstance(predictor, TransferImportancePredictor)
                nn.init.normal_(predictor.linear.bias)

    def trainable(self) -> list[nn.Parameter]:
        """All parameters but those the meta-learner owns and those that stay fixed."""
        meta = set() if self.meta is None else {id(p) for p in [*self.meta.predictors, *self.meta.aligners]}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in meta]

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        number, count = self.part
        with observed_together(self, last=number == count - 1):
            return self._losses(batch["image"], batch["mask"], progress)

    def _losses(self, image: Tensor, mask: Tensor, progress: float) -> Losses:
        looked: AttentionMap | None = None
        start, until = self.config.teacher_forcing, self.config.teacher_forcing_until
        share = start * (1 - progress / until) if self.teacher is not None and progress < until else 0.0
        teacher, theirs = self._teach(image, forced=share > 0)

        def forced(features: list[Tensor], hole: Tensor) -> list[Tensor]:
            return teacher_forcing(features, teacher, hole, share=share)

        reads = forced if share else None
        if self.attention is None:
            prediction, features = self.net(image, mask, return_features=True, before_decoder=reads)
        else:
            prediction, features, looked = self.net(
                image, mask, return_features=True, return_attention=True, before_decoder=reads
            )
        task, parts = self._task(prediction, image, mask)
        total = task
        hole = self.net.prepare(image, mask)[1]
        factors = self._factors(progress)
        if self.cross is not None and factors["cross"]:
            self.cross.region = "all" if progress < self.config.everywhere_first else self.config.region
            value = self.cross(self.read(features), teacher, hole)
            total, parts["cross"] = total + factors["cross"] * value, value.detach()
        if self.self_distill is not None and factors["self"]:
            value = self.self_distill(features, hole)
            total, parts["self"] = total + factors["self"] * value, value.detach()
        if self.attention is not None and looked is not None and theirs is not None and factors["attention"]:
            value = self.attention(looked.rows, theirs.rows, hole, feature=theirs.feature)
            total, parts["attention"] = total + factors["attention"] * value, value.detach()
        return Losses(total, parts, _Features(image, mask, hole, task, features, teacher, theirs, factors))

    def read(self, features: list[Tensor]) -> list[Tensor]:
        """The student's features as cross distillation compares them: in the teacher's widths."""
        return [readout(feature) for readout, feature in zip(self.readouts, features, strict=True)]

    def _task(self, prediction: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        task = inpainting_loss(prediction, image, mask, self.loss_config)
        parts = {"task": task.detach()}
        for name, term in self.extra.items():
            value = term(prediction, image, mask)
            task, parts[name] = task + value, value.detach()
        return task, parts

    def _teach(self, image: Tensor, *, forced: bool) -> tuple[list[Tensor], AttentionMap | None]:
        """The teacher's features and attention, as far as they are needed."""
        if self.teacher is None or (self.cross is None and self.attention is None and not forced):
            return [], None
        if self.attention is None:
            return self.teacher(image), None
        features, looked = self.teacher(image)
        return features, looked

    def _factors(self, progress: float) -> dict[str, float]:
        """Weights of the distillation losses at this point of training."""
        if progress >= 1 - self.config.off_last:
            return {"cross": 0.0, "self": 0.0, "attention": 0.0}
        ramp = min(1.0, progress / self.config.self_ramp) if self.config.self_ramp else 1.0
        return {
            "cross": self.config.cross if self.cross is not None else 0.0,
            "self": self.config.self_distill * ramp if self.self_distill is not None else 0.0,
            "attention": self.config.attention_transfer if self.attention is not None else 0.0,
        }

    def backward(self, losses: Losses, step: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Fill the gradients and, when due, update what the meta-learner owns."""
        kept: _Features = losses.kept
        distills = any(kept.factors.values())
        due = distills and self.meta is not None and self.meta.due(step)
        if not due and (self.config.balance == "none" or not distills):
            backward(losses.total)
            return {}
        # What the distances depend on: attention rows are made in the decoder.
        shared = list(self.net.encoder.parameters() if self.attention is None else self.net.parameters())
        direction = averaged(scaled_gradient(kept.task, shared, self.loss_scale))
        balance, ratio, scale = self.config.balance, self.config.balance_ratio, self.loss_scale
        backward(balanced_loss(kept.task, losses.total, shared, direction, mode=balance, ratio=ratio, loss_scale=scale))
        if not due:
            return {}
        # With gradient accumulation, one update at the end, from the gradient of the task on the whole batch.
        self._parts.append((kept, direction))
        if self.part[0] < self.part[1] - 1:
            return {}
        parts, self._parts = self._parts, []
        direction = [mean_gradient(of_parts) for of_parts in zip(*(v for _, v in parts), strict=True)]
        health: dict[str, float] = {}
        for number, (one, _) in enumerate(parts):
            health = self._meta_step(one, shared, direction, update=number == len(parts) - 1)
        return health

    def _meta_step(
        self, kept: _Features, shared: list[nn.Parameter], direction: list[Tensor | None], *, update: bool
    ) -> dict[str, float]:
        assert self.meta is not None
        terms = list(self._terms(kept))
        everything = self.meta.method == "l2t"
        own = [] if self.self_distill is None else list(self.self_distill.aligners.parameters())
        own += [] if self.cross is None else [*self.readouts.parameters(), *self.cross.readouts.parameters()]

        def distances() -> list[Tensor]:
            if self.attention is None:
                features, looked = self.net.encode(kept.image, kept.mask), None
            else:
                _, features, looked = self.net(kept.image, kept.mask, return_features=True, return_attention=True)
            return [d for term in terms for d in term.distances(features, looked)]

        health = self.meta.step(
            parameters=[*self.net.parameters(), *own] if everything else shared,
            distances=distances,
            importance=[rho for term in terms for rho in term.importance],
            weights=[factor for term in terms for factor in term.factors],
            direction=direction if self.meta.method == "align" else None,
            task=lambda: self._task(self.net(kept.image, kept.mask), kept.image, kept.mask)[0],
            modules=[self.net],
            update=update,
        )
        if health is None or not update:
            return {}
        task = torch.stack([g.norm() for g in direction if g is not None]).norm()
        rest = torch.stack(
            [
                (p.grad / self.loss_scale - g).norm()
                for p, g in zip(shared, direction, strict=True)
                if g is not None and p.grad is not None
            ]
        ).norm()
        return {
            **{f"importance/{name}": value for name, value in health.items()},
            "distill_to_task_gradient": float(rest / task),
        }

    def _terms(self, kept: _Features) -> Iterator[_Term]:
        """The losses at work, with the targets that the student has now."""
        cross, own, attention, theirs, hole = self.cross, self.self_distill, self.attention, kept.looked, kept.hole

        def term(name: str, loss: Any, importance: list[Tensor], distances: _Distances) -> _Term:  # noqa: ANN401
            return _Term([kept.factors[name] * w for w in loss.pair_weights()], importance, distances)

        if cross is not None and kept.factors["cross"]:
            found = cross.importance(kept.teacher, hole)
            yield term(
                "cross", cross, found, lambda features, _: cross.distances(self.read(features), kept.teacher, hole)
            )
        if own is not None and kept.factors["self"]:
            deeper = [f.detach() for f in kept.student[1:]]
            found = own.importance(deeper, hole)
            yield term("self", own, found, lambda features, _: own.distances(features, hole, targets=deeper))
        if attention is not None and theirs is not None and kept.factors["attention"]:
            rows = theirs.rows
            found = attention.importance(rows, theirs.feature)
            yield term(
                "attention",
                attention,
                found,
                lambda _, looked: [] if looked is None else attention.distances(looked.rows, rows, hole),
            )

    def extra_state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {} if self.meta is None else {"meta": self.meta.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """See `Objective`."""
        if self.meta is not None:
            self.meta.load_state_dict(state["meta"])


def _readouts(mine: Sequence[int], theirs: Sequence[int], *, forced: bool) -> nn.ModuleList:
    """One a level: nothing where widths agree."""
    if len(mine) != len(theirs) or (forced and tuple(mine) != tuple(theirs)):
        raise ConfigError(
            f"the teacher's levels have {', '.join(map(str, theirs))} channels and the student's "
            f"{', '.join(map(str, mine))}; expected as many levels, and equal channels for teacher_forcing."
        )
    return nn.ModuleList(nn.Identity() if a == b else nn.Conv2d(a, b, 1) for a, b in zip(mine, theirs, strict=True))
