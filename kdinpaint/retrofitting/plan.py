"""RetrofitPlan: which stages of a host get a filler, where the mask comes from, and what the fillers are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError
from kdinpaint.layers.adaptive_conv import Modulation
from kdinpaint.layers.filler import FillerConv, FillerMode
from kdinpaint.retrofitting.masks import MaskSource
from kdinpaint.retrofitting.report import Level

__all__ = ["RetrofitPlan", "Selector"]

Selector = int | str | tuple[int | str, ...]


@dataclass(frozen=True)
class RetrofitPlan:
    r"""Which stages of a host get a `FillerBlock`, and where the mask comes from.

    A level is named by its dotted path ("encoder.layer1"), by the end of one ("layer1") if only one module ends
    so, or by a pattern ("encoder.layer*"; `*` stays between two dots). A pair (first, last) makes one level of
    modules that run one after another: the filler reads the input of the first and adds to the output of the last.
    It may be written as tables print it, too: "first .. last".

    Args:
        levels: Names, patterns, pairs, or the `levels` of `kdinpaint.inspect`.
        mask: Where the mask is found in a call of the host. "input:-1": the last channel of its first argument
            (any channel number). "arg:1": its second argument. "kwarg:mask": the argument of that name, however
            it is passed. "key:mask": that key of its first argument, a dict. A leading "~" ("~arg:1") says that
            1 means known. Or a function (args, kwargs) -> mask with 1 = hole. Hole is what exceeds 0.5. Masks are
            (B, 1, H, W) or (B, H, W), at the size of the image; None means that nothing is hole.
        inputs: Which tensor a stage reads, where it takes several: position or name of the argument, followed by
            positions or keys inside it, as in (0, "feature"). The first one that looks like a feature by default.
            One selector for all levels, or a dict with one for each name or pattern.
        outputs: Which tensor of a tuple, list or dict that a stage gives is the feature; not needed for a single
            one, nor for `levels` of `kdinpaint.inspect`, which know. As `inputs`.
        layout: Of the features, where the dry run cannot tell: "nchw", "nhwc", "tokens" or, with a fixed grid,
            "tokens:14x14". One for all levels, or a dict as for `inputs`.
        hidden_channels: See `FillerBlock`.
        conv: See `FillerBlock`.
        mode: See `FillerBlock`.
        modulation: See `FillerBlock`.
        max_offset: See `FillerBlock`.
        cond_mask: See `FillerBlock`.

    Raises:
        ConfigError: No levels, or an option that does not exist.

    Example:
        >>> from kdinpaint import RetrofitPlan
        >>> plan = RetrofitPlan(["encoder.layer*", ("stem", "pool")], mask="~kwarg:mask")
        >>> plan.levels
        ('encoder.layer*', ('stem', 'pool'))
    """

    levels: Sequence[str | tuple[str, str] | Level]
    mask: str | Callable[[tuple[Any, ...], dict[str, Any]], Tensor | None] = "input:-1"
    inputs: Selector | Mapping[str, Selector] | None = None
    outputs: Selector | Mapping[str, Selector] | None = None
    layout: str | Mapping[str, str] | None = None
    hidden_channels: int | None = None
    conv: FillerConv = "adaptive"
    mode: FillerMode = "parallel"
    modulation: Modulation = "sigmoid"
    max_offset: float | None = None
    cond_mask: bool = False

    def __post_init__(self) -> None:
        given = [self.levels] if isinstance(self.levels, str | Level) else list(self.levels)
        levels = tuple(entry.target if isinstance(entry, Level) else entry for entry in given)
        for entry in levels:
            pair = isinstance(entry, tuple) and len(entry) == 2 and all(isinstance(n, str) and n for n in entry)
            if not pair and not (isinstance(entry, str) and entry):
                raise ConfigError(f"the level {entry!r} is neither a name nor a pair of names (first, last).")
        if not levels:
            raise ConfigError(
                "levels is empty; name at least one stage. kdinpaint.inspect(model, example) proposes some."
            )
        object.__setattr__(self, "levels", levels)
        found = {entry.name: entry.output for entry in given if isinstance(entry, Level) and entry.output}
        if found and (self.outputs is None or isinstance(self.outputs, Mapping)):
            object.__setattr__(self, "outputs", {**found, **(self.outputs or {})})
        MaskSource(self.mask)
        check_choice(self.conv, get_args(FillerConv), "conv")
        check_choice(self.mode, get_args(FillerMode), "mode")
        check_choice(self.modulation, get_args(Modulation), "modulation")
        for name in ("hidden_channels", "max_offset"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; expected a positive number, or None.")
