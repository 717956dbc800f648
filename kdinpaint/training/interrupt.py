"""Ctrl-C and the signals of schedulers: at once outside of a stage, between its steps inside, never in its workers."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Preempted", "StopRequest", "deaf_children", "preemptible"]

_PREEMPTION = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


class Preempted(KeyboardInterrupt):
    """Training was stopped by SIGTERM or SIGUSR1, everything is on disk, and the same call goes on.

    Attributes:
        status: What the command line exits with: 75, which by convention asks for another try.
    """

    status = 75


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """Within the block, SIGTERM or SIGUSR1 raises `Preempted`, once; a `StopRequest` inside finishes its step first."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in previous:  # another one must not break off what the first lets finish
            signal.signal(each, signal.SIG_IGN)
        raise Preempted

    previous = _install(_PREEMPTION, stop)
    try:
        yield
    finally:
        _restore(previous)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that start within the block never get SIGINT, SIGTERM or SIGUSR1: whoever started them ends them.

    Schedulers and terminals signal whole process groups. A worker that dies of it takes the step at hand along.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where groups get no such signals
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *_PREEMPTION])  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Within the block, SIGINT, SIGTERM or SIGUSR1 sets `requested`; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self.preempted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = _install([signal.SIGINT, *_PREEMPTION], self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._previous)

    def reason(self) -> KeyboardInterrupt:
        """What to raise when everything is saved."""
        return Preempted() if self.preempted else KeyboardInterrupt()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.preempted = self.preempted or number in _PREEMPTION


def _install(numbers: list[signal.Signals], handler: Any) -> dict[int, Any]:  # noqa: ANN401 - as `signal` has it
    """Handle signals; returns who did before."""
    previous: dict[int, Any] = {}
    for number in numbers:
        try:
            previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread: signals go their usual way
            break
    return previous


def _restore(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
    previous.clear()
