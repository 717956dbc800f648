"""Ctrl-C and the signals of schedulers between steps, never inside one."""

import signal
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Preempted", "StopRequest"]

_PREEMPTION = [signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


class Preempted(KeyboardInterrupt):
    """Training was stopped by SIGTERM or SIGUSR1, everything is on disk, and the same call goes on.

    Attributes:
        status: What the command line exits with: 75, which by convention asks for another try.
    """

    status = 75


class StopRequest:
    """Within the block, SIGINT, SIGTERM or SIGUSR1 sets `requested`; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self.preempted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, *_PREEMPTION):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: signals go their usual way
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def reason(self) -> KeyboardInterrupt:
        """What to raise when everything is saved."""
        return Preempted() if self.preempted else KeyboardInterrupt()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.preempted = self.preempted or number in _PREEMPTION
