"""What may come from outside while a training runs: a signal, or nobody who reads its remarks any more."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

AGAIN_AFTER_S = 1.0
"""A second Ctrl-C counts from then on: launchers pass on what the terminal has told everybody already."""


class StopSignal:
    """Remembers SIGTERM or SIGINT, so that the loop can save before it leaves.

    A second Ctrl-C leaves at once: a step may hang, such as on a stream that gives nothing any more.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since_s = 0.0

    def __enter__(self) -> StopSignal:
        """Take over both signals."""
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.number and number == signal.SIGINT and now_s > self._since_s + AGAIN_AFTER_S:
            raise KeyboardInterrupt
        if not self.number:
            self._since_s = now_s
            # Past Python's buffer: the signal may have come while that was written to.
            with suppress(OSError):
                os.write(
                    sys.stderr.fileno(),
                    b"stopping after this step and its checkpoint; Ctrl-C once more leaves at once\n",
                )
        self.number = number


def tell(text: str) -> None:
    """Say something on stderr.

    Who reads it may have left: in `train.run 2>&1 | tee log`, Ctrl-C ends tee before the checkpoint is saved.
    """
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
