"""The command that a result records."""

from dataclasses import dataclass
from pathlib import Path

from kdinpaint._core.command_line import command_line


@dataclass(frozen=True)
class Config:
    """Options of every kind."""

    photos: Path
    manifest: Path | None = None
    seeds: tuple[int, ...] = (0, 1)
    cells: tuple[str, ...] = ()
    tiny: bool = False
    recolor: bool = True
    jobs: int = 1


def test_what_differs_from_the_defaults() -> None:
    assert command_line("tool", Config(Path("a/b"))) == "tool --photos DIR"
    config = Config(Path("a/b"), Path("c/m.json"), (2,), ("no cross", "x"), tiny=True, recolor=False, jobs=4)
    expected = "tool --photos DIR --manifest FILE --seeds 2 --cells 'no cross' x --tiny --no-recolor"
    assert command_line("tool", config, leave_out=("jobs",)) == expected
