"""`kdinpaint COMMAND`: dispatch, and errors as one readable line."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from kdinpaint._core.errors import KDInpaintError
from kdinpaint._core.optional import require

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run a command.

    Exits with 0 when it succeeds, 2 for anything the user can mend, 130 after Ctrl-C, 75 when training was stopped by
    SIGTERM or SIGUSR1 and goes on with the same command, and 141 when nobody reads the output any more.

    Args:
        arguments: Instead of those of the process.
    """
    with _while_read(), warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            tyro = require("tyro", extra="train")
            commands, arguments = _commands(), sys.argv[1:] if arguments is None else arguments
            if arguments[:1] == ["train"]:
                commands["train"], rest = train_with_preset(arguments[1:])
                arguments = ["train", *rest]
            tyro.extras.subcommand_cli_from_dict(
                commands, prog="kdinpaint", description="Distillation-guided image inpainting.", args=arguments
            )
        except KeyboardInterrupt as stop:
            print("\nStopped. What was done is on disk; the same command goes on from there.", file=sys.stderr)
            sys.exit(getattr(stop, "status", 130))
        except KDInpaintError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


@contextlib.contextmanager
def _while_read() -> Iterator[None]:
    """Ends quietly when whoever reads the output, such as `head`, has seen enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        try:
            print(flush=True)
        except BrokenPipeError:
            # What is left in the buffer goes nowhere at exit, and is not reported.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # as programs do that SIGPIPE ends
        raise  # another pipe


def _commands() -> dict[str, Callable[..., Any]]:
    # Imported here, so that `kdinpaint` without the extra says what to install.
    from kdinpaint.cli import (
        ablate,
        bench,
        demo,
        doctor,
        evaluate,
        export,
        inpaint,
        inspect,
        protocols,
        table,
        train,
    )

    return {
        "demo": demo.command,
        "train": train.command,
        "evaluate": evaluate.command,
        "inpaint": inpaint.command,
        "inspect": inspect.command,
        "export": export.command,
        "ablate": ablate.command,
        "ablate-report": ablate.report_command,
        "bench": bench.command,
        "doctor": doctor.command,
        "table": table.command,
        "protocols": protocols.command,
    }


def train_with_preset(arguments: list[str]) -> tuple[Callable[..., Any], list[str]]:
    """See `kdinpaint.cli.train.with_preset`."""
    from kdinpaint.cli.train import with_preset

    return with_preset(arguments)


def _show_warning(message: Warning | str, category: type[Warning], *details: Any) -> None:  # noqa: ANN401
    """A warning as one line, without the source position that only developers need."""
    print(f"warning: {message}", file=sys.stderr)
