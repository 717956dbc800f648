"""Distiller: feature-level supervision of any network, as one module beside it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, check_mask
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.cells import Region
from kdinpaint.distill.channelwise import ChannelDistillLoss, Distance, DistanceReduction, DistanceScale
from kdinpaint.distill.cross import CrossDistillLoss
from kdinpaint.distill.importance import ImportancePool
from kdinpaint.distill.meta import MetaLearner
from kdinpaint.distill.self_distill import SelfDistillLoss
from kdinpaint.layers.blocks import readout_conv
from kdinpaint.ops.masks import MaskResize
from kdinpaint.retrofitting.alignment import channels_of, check_features, freeze, resize, step_between
from kdinpaint.retrofitting.inspecting import Inspection
from kdinpaint.retrofitting.plan import RetrofitPlan
from kdinpaint.retrofitting.probe import untouched
from kdinpaint.retrofitting.report import Level, RetrofitReport
from kdinpaint.retrofitting.student import OwnArguments, keep_student, leave_out_student, levels_of
from kdinpaint.retrofitting.taps import Repeats, Select, Taps, bare

__all__ = ["Distiller", "ImportanceKind"]

ImportanceKind = Literal["meta", "uniform", "joint"]


class Distiller(nn.Module):
    """Run a network and return, beside its output, what its features lack compared with a teacher's.

    It owns the taps, the aligners, the importance predictors and the losses, and holds the student as a
    submodule: `to()`, `train()`, `DistributedDataParallel(guide)` and `torch.compile(guide)` work as for any module
    and cover the student. Yet `guide.state_dict()` has the Distiller's own state only, and the student's
    `state_dict()` and modules are as they were: save the two side by side, ship the student alone.

    The student's features are aligned to the teacher's where they differ: channels by a 1x1 convolution, which trains
    with the student; sizes by resampling the teacher's features. Self distillation is between successive levels.

    Args:
        student: The network; retrofitted before, if at all.
        teacher: `AutoEncoder`, `TimmTeacher`, `ModuleTeacher`, any module that takes an image and returns a list of
            features (or has a method `encode` that does), or None for self distillation alone. It is frozen.
        plan: The stages to supervise: the `RetrofitPlan` that the student was retrofitted with, the report of that
            retrofit, what `inspect` found, or `Level`s, shallow to deep.
        cross: Weight of cross distillation (Eq. 1); 0 for none.
        self_distill: Weight of self distillation (Eq. 2); 0 for none. There is none with a single level. A
            network that starts from random weights bears less of it than one that starts from its teacher's, as the
            reference model does.
        self_ramp: Training steps in which that weight grows from 0: deep features start as noise. The recipe takes
            a fifth of the training; 0 for none.
        importance: "meta": weights of the channels that `meta_step` learns, uniform until then; "uniform": 1/C;
            "joint": learned with the loss itself, which collapses and is for ablations only.
        scale: See `CrossDistillLoss`.
        reduction: See `CrossDistillLoss`.
        mask_resize: See `CrossDistillLoss`.
        detach_target: See `SelfDistillLoss`.
        floor: See `TransferImportancePredictor`.
        temperature: See `TransferImportancePredictor`.
        pool: See `TransferImportancePredictor`.
        distance: See `CrossDistillLoss`; as the next three, of cross distillation alone.
        region: See `CrossDistillLoss`.
        rim: See `CrossDistillLoss`.
        low_pass: See `CrossDistillLoss`.
        readout: Compare a 1x1 convolution of the student's features at every level, so that it may keep a code of its
            own as long as the teacher's can be read from it; False adds one only where channels differ.
        teacher_channels: Channels of the teacher's features, for teachers without an attribute
            `feature_channels`; those of the student by default.
        select: Where the feature is in what a stage returns, see `Taps`; what the plan says by default.
        repeats: Which run of a stage counts if there are several in one forward pass, see `Taps`.

    Raises:
        ConfigError: Nothing to distil, stages that there are not, or another number of levels than the teacher has.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from kdinpaint import AutoEncoder, Distiller
        >>> from kdinpaint.retrofitting import Level
        >>> net = nn.Sequential(nn.Conv2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1))
        >>> levels = [Level("0", 4, 8, 2, (16, 16)), Level("2", 8, 16, 4, (8, 8))]
        >>> guide = Distiller(net, AutoEncoder.for_levels(levels), levels)
        >>> truth, mask = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
        >>> mask[..., 8:24, 8:24] = 1
        >>> out, losses = guide(torch.cat([truth * (1 - mask), mask], 1), image=truth, mask=mask)
        >>> sorted(losses)
        ['cross', 'self']
        >>> sum(losses.values()).backward()
    """

    steps_done: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        plan: RetrofitPlan | RetrofitReport | Inspection | Sequence[Level],
        *,
        cross: float = 0.01,
        self_distill: float = 0.01,
        self_ramp: int = 0,
        importance: ImportanceKind = "meta",
        scale: DistanceScale = "teacher_std",
        reduction: DistanceReduction = "mean",
        mask_resize: MaskResize = "max",
        detach_target: bool = True,
        floor: float = 0.1,
        temperature: float = 1.0,
        pool: ImportancePool = "all",
        distance: Distance = "mse",
        region: Region = "hole",
        rim: float | None = None,
        low_pass: int = 1,
        readout: bool = False,
        teacher_channels: Sequence[int] | None = None,
        select: Mapping[str, Select] | None = None,
        repeats: Repeats = "last",
    ) -> None:
        super().__init__()
        check_choice(importance, get_args(ImportanceKind), "importance")
        if isinstance(student, nn.parallel.DistributedDataParallel):
            raise ConfigError(
                "the student is inside DistributedDataParallel, which would not see what trains beside it. Build "
                "Distiller on the bare network and wrap that: DistributedDataParallel(Distiller(net, ...))."
            )
        levels = levels_of(bare(student), plan)
        self.channels = channels = [level.channels for level in levels]
        wanted = (bool(cross) and teacher is not None, bool(self_distill) and len(levels) > 1)
        if not any(wanted) or min(cross, self_distill, self_ramp) < 0:
            raise ConfigError(
                f"there is nothing to distil with cross={cross}, self_distill={self_distill} (both, and self_ramp, at "
                f"least 0), {len(levels)} levels and "
                f"{'a' if teacher is not None else 'no'} teacher; self distillation needs two levels."
            )
        self.factors = {"cross": float(cross), "self": float(self_distill)}
        self.self_ramp = self_ramp
        where = next((p for p in student.parameters() if p.is_floating_point()), torch.zeros(()))
        options: dict[str, Any] = {
            "importance": "uniform" if importance == "uniform" else "learned",
            "joint": importance == "joint",
            "scale": scale,
            "reduction": reduction,
            "mask_resize": mask_resize,
            "floor": floor,
            "temperature": temperature,
            "pool": pool,
            "device": where.device,
            "dtype": where.dtype,
        }
        self.student = student
        self.teacher = freeze(teacher).to(where.device) if wanted[0] and teacher is not None else None
        self.aligners = nn.ModuleList()
        self.cross: CrossDistillLoss | None = None
        if self.teacher is not None:
            theirs = channels_of(self.teacher, teacher_channels, channels)
            for mine, their in zip(channels, theirs, strict=True):
                needed = readout or mine != their
                self.aligners.append(
                    readout_conv(mine, their, device=where.device, dtype=where.dtype) if needed else nn.Identity()
                )
            form: dict[str, Any] = {"distance": distance, "region": region, "rim": rim, "low_pass": low_pass}
            self.cross = CrossDistillLoss(theirs, **form, **options)
        self.self_distill: SelfDistillLoss | None = None
        if wanted[1]:
            steps = [step_between(a, b) for a, b in pairwise(levels)]
            self.self_distill = SelfDistillLoss(channels, strides=steps, detach_target=detach_target, **options)
            self.steps = steps
        if self_ramp:
            self.register_buffer("steps_done", torch.zeros((), device=where.device))
        # Their gradient comes from `meta_step` alone; data-parallel training would wait for it.
        if importance == "meta":
            for predictor in self.predictors():
                predictor.requires_grad_(False)
        self.arguments = OwnArguments(bare(student))
        # Last, so that a student is left alone by a construction that fails.
        self.taps = Taps(student, levels, select=select, repeats=repeats)
        self.register_state_dict_post_hook(leave_out_student)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(keep_student)  # type: ignore[no-untyped-call]

    def forward(
        self,
        *args: Any,  # noqa: ANN401 - the student's
        image: Tensor | None = None,
        mask: Tensor,
        teacher_features: Sequence[Tensor] | None = None,
        student_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the student, and compare.

        Args:
            *args: Of the student.
            image: (B, C, H, W), the intact image, for the teacher.
            mask: (B, 1, H, W), 1 = hole, at least as large as the largest level.
            teacher_features: The teacher's features of `image`, if they are at hand (see `FeatureCache`).
            student_kwargs: Named arguments of the student that are called image, mask, ... as well.
            **kwargs: Other named arguments of the student.

        Returns:
            The student's output as it is, and the losses that there are ("cross", "self"), scalars times their
            weights.

        Raises:
            ConfigError: No image for the teacher, or the student has an argument `mask` or `image` of its own that is
                given neither by position nor in `student_kwargs`.
            ShapeError: Features do not fit the levels.
        """
        out, features = self._features(args, kwargs, student_kwargs, mask)
        targets = self._targets(image, teacher_features, features)
        losses: dict[str, Tensor] = {}
        for name, term, found, distances in self._terms(features, targets, mask):
            if self.training:
                # Before the distances: the first loss has the scale of all others.
                term.observe(found)
            weights = term.importance(found, mask)
            value = term.combine(weights if term.joint else [w.detach() for w in weights], distances())
            losses[name] = self._factor(name) * value
        if self.self_ramp and self.training:
            self.steps_done.add_(1)
        return out, losses

    def predictors(self) -> list[nn.Parameter]:
        """Parameters of the importance predictors, for `MetaLearner`; none with importance="uniform"."""
        return [p for term in (self.cross, self.self_distill) if term is not None for p in term.predictors.parameters()]

    def trainable(self) -> list[nn.Parameter]:
        """What trains with the student and is not part of it: add it to the optimiser. The aligners."""
        parts = [self.aligners, *([self.self_distill.aligners] if self.self_distill is not None else [])]
        own = [p for part in parts for p in part.parameters()]
        joint = any(term is not None and term.joint for term in (self.cross, self.self_distill))
        return [*own, *self.predictors()] if joint else own

    def direction(self, task: Tensor) -> list[Tensor | None]:
        """Gradient of the user's own loss with respect to the student, for `meta_step`; keeps the graph."""
        return list(torch.autograd.grad(task, self._students(), retain_graph=True, allow_unused=True))

    def meta_step(
        self,
        meta: MetaLearner,
        direction: Sequence[Tensor | None] | None,
        *args: Any,  # noqa: ANN401 - the student's
        image: Tensor | None = None,
        mask: Tensor,
        teacher_features: Sequence[Tensor] | None = None,
        student_kwargs: Mapping[str, Any] | None = None,
        task: Callable[[Any], Tensor] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> dict[str, float] | None:
        """Update the importance predictors: channels whose imitation serves the user's own loss gain weight.

        Call it between `backward()` and `optimizer.step()`, every `meta.every` steps, with the arguments of the call:

            meta = MetaLearner(guide.predictors(), every=10)
            ...
            out, losses = guide(x, image=truth, mask=mask)
            task = my_loss(out, truth)
            direction = guide.direction(task) if meta.due(step) else None
            (task + sum(losses.values())).backward()
            if direction is not None:
                guide.meta_step(meta, direction, x, image=truth, mask=mask)
            optimizer.step()

        The student runs three more times, without gradients ("align"); its buffers and the random state are as before
        afterwards. In distributed training every process calls it, see `MetaLearner`.

        Args:
            meta: Made with `predictors()`.
            direction: From `direction(task)`, taken before `backward()`; None for methods that take `task`.
            *args: As in the call.
            image: As in the call.
            mask: As in the call.
            teacher_features: As in the call.
            student_kwargs: As in the call.
            task: The user's own loss of the student's output, for the methods "lookahead" and "l2t".
            **kwargs: As in the call.

        Returns:
            See `MetaLearner.step`.
        """

        def run() -> tuple[Any, list[Tensor]]:
            with contextlib.nullcontext() if torch.is_grad_enabled() else untouched(self.student):
                return self._features(args, kwargs, student_kwargs, mask)

        with torch.no_grad():
            features = run()[1]
        targets = self._targets(image, teacher_features, features)
        held = [f.detach() for f in features[1:]]
        terms = list(self._terms(features, targets, mask))

        def distances() -> list[Tensor]:
            return [d for *_, found in self._terms(run()[1], targets, mask, held=held) for d in found()]

        predictors = self.predictors()
        for predictor in predictors:
            predictor.requires_grad_(True)
        try:
            health = meta.step(
                parameters=[*self._students(), *(self.trainable() if meta.method == "l2t" else ())],
                direction=direction,
                task=None if task is None else lambda: task(run()[0]),
                modules=[self.student],
                distances=distances,
                importance=[rho for _, term, found, _ in terms for rho in term.importance(found, mask)],
                weights=[float(self._factor(name)) * w for name, term, *_ in terms for w in term.pair_weights()],
            )
        finally:
            for predictor in predictors:
                predictor.requires_grad_(False)
        return health

    def get_extra_state(self) -> Tensor:
        """What the taps have learned: without it a resumed training would sum gradients in another order once."""
        return self.taps.learned

    def set_extra_state(self, state: Tensor) -> None:
        """See `get_extra_state`."""
        self.taps.learned = state

    def remove(self) -> None:
        """Take the taps off the student; nothing of the Distiller is left on it."""
        self.taps.remove()

    def _factor(self, name: str) -> float | Tensor:
        """The present weight of a loss."""
        if name == "self" and self.self_ramp:
            return self.factors[name] * (self.steps_done / self.self_ramp).clamp(max=1)
        return self.factors[name]

    def _students(self) -> list[nn.Parameter]:
        return [p for p in self.student.parameters() if p.requires_grad]

    def _features(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        clashing: Mapping[str, Any] | None,
        mask: Tensor,
    ) -> tuple[Any, list[Tensor]]:
        check_mask(mask)
        if getattr(self, "_is_replica", False):
            raise ConfigError(
                "nn.DataParallel around a Distiller mixes the features of its copies. Put it inside, "
                "Distiller(DataParallel(net), ...), or use DistributedDataParallel(guide)."
            )
        given = self.arguments.join(args, kwargs, clashing, mask)
        out, features = self.taps.run(args, given, size=(mask.shape[-2], mask.shape[-1]), model=self.student)
        for name, channels, feature in zip(self.taps.names, self.channels, features, strict=True):
            if feature.shape[1] != channels or feature.dim() != 4:
                raise ShapeError(
                    f"stage {name!r} gives {tuple(feature.shape)}; expected (B, {channels}, H, W), as its level says. "
                    f"Build the Distiller with levels of this network."
                )
        return out, features

    def _targets(
        self, image: Tensor | None, given: Sequence[Tensor] | None, features: Sequence[Tensor]
    ) -> list[Tensor]:
        """The teacher's features at the sizes of the student's."""
        if self.teacher is None or self.cross is None:
            return []
        if given is None:
            if image is None:
                raise ConfigError("the teacher needs the intact image; call with image= or teacher_features=.")
            given = self.teacher(image)
        channels = [f.shape[1] for f in check_features(given)]
        if channels != list(self.cross.channels):
            raise ShapeError(
                f"the teacher gives {len(given)} levels of {channels} channels; expected {list(self.cross.channels)}. "
                f"Choose as many levels as the student has, and tell their channels: teacher_channels=."
            )
        return [resize(t.detach(), (f.shape[-2], f.shape[-1])) for t, f in zip(given, features, strict=True)]

    def _terms(
        self,
        features: list[Tensor],
        targets: list[Tensor],
        mask: Tensor,
        *,
        held: list[Tensor] | None = None,
    ) -> Iterator[tuple[str, ChannelDistillLoss, list[Tensor], Callable[[], list[Tensor]]]]:
        """Name, loss, targets and distances of cross and self distillation."""
        if self.cross is not None:
            cross = self.cross
            aligned = [align(f) for align, f in zip(self.aligners, features, strict=True)]
            yield "cross", cross, targets, lambda: cross.distances(aligned, targets, mask)
        if self.self_distill is not None:
            own = self.self_distill
            deeper = own.targets(features) if held is None else held
            fitted = [
                resize(f, (step * d.shape[-2], step * d.shape[-1]))
                for f, d, step in zip(features[:-1], deeper, self.steps, strict=True)
            ]
            yield "self", own, deeper, lambda: own.distances([*fitted, features[-1]], mask, targets=deeper)
