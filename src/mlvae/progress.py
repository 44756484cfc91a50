"""A run's progress on the screen, and the way it is stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any


class Interrupt:
    """Ctrl-C, or SIGTERM, asks the loop to save and stop after the step under way; a second one stops at once."""

    def __enter__(self) -> Interrupt:
        self.asked = False
        self.former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)


class Progress:
    """A bar with the loss's terms in nats per observation and the rate; plain lines where there is no terminal."""

    def __init__(self, epochs: int, *, enabled: bool) -> None:
        self.epochs = epochs
        self.enabled = enabled

    def __enter__(self) -> Progress:
        if self.enabled:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("epoch {task.fields[epoch]}"), BarColumn(20), TimeRemainingColumn(),
                TextColumn("{task.fields[terms]}"),
            )  # fmt: skip
            self.task = self.bar.add_task("", total=self.epochs, epoch=f"1/{self.epochs}", terms="")
            if self.bar.console.is_terminal:
                self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled and self.bar.console.is_terminal:
            self.bar.stop()

    def show(self, epoch: int, share: float, means: Mapping[str, float], seen: int, started: float) -> None:
        """Moves the bar."""
        if self.enabled:
            rate = seen / (time.perf_counter() - started)
            terms = f"{_terms(means)}  {rate:,.0f} observations/s"
            self.bar.update(self.task, completed=epoch + share, epoch=f"{epoch + 1}/{self.epochs}", terms=terms)

    def epoch(self, row: Mapping[str, float]) -> None:
        """One line for a finished epoch, where no bar is drawn."""
        if self.enabled and not self.bar.console.is_terminal:
            rate = f"{row['images_per_second']:,.0f} observations/s"
            print(f"epoch {row['epoch']}/{self.epochs}  {_terms(row)}  {rate}", flush=True)


def _terms(means: Mapping[str, float]) -> str:
    hidden = {"epoch", "seconds", "images_per_second", "loss"}
    return "  ".join(f"{name} {value:.3g}" for name, value in means.items() if name not in hidden)
