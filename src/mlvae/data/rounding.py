"""Numbers whose differences float32 rounds away, as those of times in seconds since 1970 within a minute."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from torch import Tensor

WORTH_SAYING = 1e-3
"""The rounding error above which it is told, in standard deviations of the numbers."""

NOISE = 1e-12
"""Of their size, the standard deviation of numbers that are constant but for float64's own rounding."""

ROWS = 1024
"""Of each piece that are looked at, evenly spaced; fewer where they are more than NUMBERS."""
NUMBERS = 2**22

Array = np.ndarray[Any, Any]


class Rounding:
    """What float32 does to numbers (N, *shape) that come a piece at a time; NaN is passed over.

    Example:
        >>> rounding = Rounding()
        >>> rounding.add(1.7e9 + np.arange(6.0))
        >>> rounding.lost()
        array(True)
    """

    def __init__(self) -> None:
        self.count: Any = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0
        self.error: Any = 0.0

    def add(self, values: Any) -> None:
        """Looks at some rows of a piece (n, *shape), an array or a tensor."""
        size = max(1, int(np.prod(values.shape[1:])))
        part = values[:: max(1, len(values) // max(8, min(ROWS, NUMBERS // size)))]
        exact = np.asarray(part.cpu() if isinstance(part, Tensor) else part).astype(np.float64)
        with np.errstate(over="ignore"):  # what does not fit is told elsewhere
            kept = exact.astype(np.float32).astype(np.float64)
        known = np.isfinite(kept)
        exact, kept = np.where(known, exact, 0), np.where(known, kept, 0)
        # Means and sums of squares about them are put together as Chan does: nothing large cancels.
        count = known.sum(0)
        mean = exact.sum(0) / np.maximum(count, 1)
        gap, total = mean - self.mean, np.maximum(self.count + count, 1)
        self.squares += (np.where(known, exact - mean, 0) ** 2).sum(0) + gap**2 * self.count * count / total
        self.mean = self.mean + gap * count / total
        self.count = self.count + count
        self.error += ((exact - kept) ** 2).sum(0)

    def lost(self) -> Array:
        """(*shape) bool: where differences are lost that are not noise."""
        spread = self.squares > self.count * (NOISE * self.mean) ** 2
        return np.asarray(spread & (self.error > WORTH_SAYING**2 * self.squares))

    def warn(self, what: str) -> None:
        """Warns where differences are lost."""
        places = np.argwhere(self.lost())
        if len(places):
            at = f" at {tuple(places[0].tolist())}" if places.shape[1] else ""
            more = f" (and at {len(places) - 1:,} places more)" if len(places) > 1 else ""
            warnings.warn(
                f"Numbers of {what}{at}{more} are so large beside their spread that float32, which keeps 7 digits,"
                " rounds some of it away. Subtract a constant from them first (the least, say), or take differences.",
                stacklevel=2,
            )


def warn_of_rounding(values: Any, what: str) -> None:
    """Warns where differences of numbers (N, *shape), an array or a tensor, are lost; costs nothing for small types."""
    kind = str(values.dtype).removeprefix("torch.")
    if kind in ("float64", "int64", "uint64", "int32", "uint32"):
        rounding = Rounding()
        rounding.add(values)
        rounding.warn(what)
