"""What retrofit found and what it added, as records that print as tables."""

from dataclasses import dataclass

__all__ = ["Level", "RetrofitReport"]


@dataclass(frozen=True)
class Level:
    """One encoder level of a host, as a dry run saw it.

    Attributes:
        name: Dotted path of the stage; for a stage of several modules, of the one that ends it. Its output is
            the feature of the level.
        in_channels: Channels of the stage's input.
        channels: Channels of the stage's output, the feature.
        stride: Pixels of the image for one cell of the feature, along one axis (timm's "reduction"); 0 where the
            two axes differ.
        size: (height, width) of the feature in the dry run.
        layout: Of the feature: "nchw", "nhwc" or "tokens".
        start: Dotted path of the module that begins the stage; equal to `name` for a stage of one module.
        output: Positions or keys that lead to the feature where the stage gives several; empty for a single one.
    """

    name: str
    in_channels: int
    channels: int
    stride: int
    size: tuple[int, int]
    layout: str = "nchw"
    start: str = ""
    output: tuple[int | str, ...] = ()

    @property
    def target(self) -> str | tuple[str, str]:
        """The stage as an entry of `RetrofitPlan.levels`."""
        return (self.start, self.name) if self.start not in ("", self.name) else self.name


def table(levels: tuple[Level, ...], more: dict[str, list[str]] | None = None) -> str:
    """Levels as lines of text, with further columns by heading."""
    more = more or {}
    rows = [["stage", "channels", "stride", "size", "layout", *more]]
    for number, level in enumerate(levels):
        name = level.target if isinstance(level.target, str) else " .. ".join(level.target)
        size = f"{level.size[0]}x{level.size[1]}"
        channels = f"{level.in_channels} -> {level.channels}"
        rows.append(
            [name, channels, str(level.stride), size, level.layout, *(column[number] for column in more.values())]
        )
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@dataclass(frozen=True)
class RetrofitReport:
    """What `retrofit` added; prints as a table.

    Attributes:
        levels: The stages, in the order in which they run.
        parameters: Parameters of the filler of each level.
        gmac: Billions of multiply-accumulates of each filler on the example, with everything being hole.
        trainable: What was left trainable: "fillers", "encoder" or "all".
    """

    levels: tuple[Level, ...]
    parameters: tuple[int, ...]
    gmac: tuple[float, ...]
    trainable: str = "all"

    def __str__(self) -> str:
        more = {
            "parameters": [f"{count:,}" for count in self.parameters],
            "GMAC": [f"{cost:.3f}" for cost in self.gmac],
        }
        return (
            f"{table(self.levels, more)}\n"
            f"added {sum(self.parameters):,} parameters and {sum(self.gmac):.3f} GMAC; trainable: {self.trainable}"
        )
