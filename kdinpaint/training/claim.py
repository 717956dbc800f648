"""Whose a run folder is: one configuration and one set of photos, for ever."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.files import make_folder, write_text

__all__ = ["changes", "claim_folder", "fingerprint"]


def claim_folder(folder: Path, content: dict[str, Any]) -> None:
    """Write `config.json` into a run folder, or compare with the one that is there.

    Args:
        folder: Made if missing.
        content: Whatever determines the results, as JSON values.

    Raises:
        ConfigError: The folder holds another run, or something that is not a run.
        OutputError: The folder cannot be written.
    """
    path = folder / "config.json"
    if not path.exists():
        make_folder(folder)
        foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if foreign:
            raise ConfigError(f"{folder} is not empty ({', '.join(foreign[:5])}) and not a run folder; choose another.")
        write_text(path, json.dumps(content, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); restore it, or use another folder.") from error
    if changed := changes(before, content):
        raise ConfigError(
            f"{folder} belongs to another run: {'; '.join(changed[:6])}. Its results are untouched; "
            f"repeat its options to go on with it, or choose another folder."
        )


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two configurations, as JSON values, a sentence each."""
    return [
        f"{name} was {old!r}, now {new!r}"
        for name, old, new in _differences(before, now)
        if not name.endswith(("photos", "masks"))  # where they lie does not matter, what they are does
    ]


def fingerprint(files: Sequence[Path]) -> str:
    """Changes when a photo comes, goes, or changes its name or length."""
    if not files:
        raise DataError("there are no photos; expected at least one for training and one for evaluation.")
    digest = hashlib.sha256()
    for file in files:
        try:
            length = file.stat().st_size
        except OSError:  # a link that leads nowhere: passed over like any file that cannot be read
            length = -1
        digest.update(f"{file.name}\0{length}\n".encode())
    return digest.hexdigest()


def _differences(before: Any, after: Any, name: str = "") -> list[tuple[str, Any, Any]]:  # noqa: ANN401
    """Leaves that differ between two nested dicts."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            difference
            for key in sorted(before.keys() | after.keys())
            for difference in _differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == after else [(name, before, after)]
