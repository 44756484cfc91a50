"""One observation as something to look at: a PNG of a picture, lines for a sequence, bars for a row of a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlvae.schema import Schema

if TYPE_CHECKING:
    from mlvae.data import GroupedData
    from mlvae.model import MLVAE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B5B00", "#000000")
"""Okabe and Ito's palette, its yellow made darker: told apart without red and green, and in print on white."""

NAMES = ("blue", "orange", "green", "pink")
"""Of the palette's first colours."""

SMALLEST = 8
"""Pixels: what is lower or narrower is taken for a table of numbers over time, not for a picture."""

FEATURES = 12
"""Features of a table that a profile shows."""

CHANNELS = 4
"""Channels of a sequence that are drawn."""


@dataclass(frozen=True)
class Depiction:
    """How observations of one data set are shown, all on one scale.

    Args:
        kind: "image", "sequence" or "table".
        low: the value that is black, or at the bottom.
        high: the value that is white, or at the top.
        schema: of a table: its features' names, units and words.

    Example:
        >>> Depiction("image", 0.0, 1.0).file(torch.rand(8, 8))[1][:4]
        b'\\x89PNG'
    """

    kind: str
    low: float
    high: float
    schema: Schema = field(default_factory=Schema)

    @classmethod
    def of(cls, model: MLVAE, data: GroupedData) -> Depiction:
        """What suits the model's observations; its scale is that of the data, as the model sees them."""
        if model.schema.features:
            return cls("table", -3.0, 3.0, model.schema)
        values = model.prepare(data.sample(1000)).float()
        values = values[torch.isfinite(values)]
        low, high = float(values.min()), float(values.max())
        if kind(model) == "sequence":
            # One spike in a thousand sequences would make flat lines of all others; what is beyond is cut off.
            inner = [float(np.quantile(values.numpy(), share)) for share in (0.005, 0.995)]
            margin = 0.1 * (inner[1] - inner[0])
            low, high = max(low, inner[0] - margin), min(high, inner[1] + margin)
        elif low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        return cls(kind(model), low, high if high > low else low + 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Of a table's features."""
        return tuple(feature.name for feature in self.schema.features)

    def legend(self, shape: Sequence[int]) -> str:
        """What the lines of observations of a shape are; nothing where there is one, or none."""
        if self.kind != "sequence" or len(shape) < 2:
            return ""
        channels = min(shape[0], int(np.prod(shape[1:])))  # as `_lines` takes them
        shown = min(channels, CHANNELS)
        which = f"the first {shown} of {channels} channels" if shown < channels else f"{channels} channels"
        return f"Lines: {which}, in the order {', '.join(NAMES[:shown])}." if channels > 1 else ""

    def words(self, x: Tensor) -> str:
        """A row of a table (*shape), as the model sees it, in its own units and words; nothing of other observations.

        What a picture of it shows, for those who do not see pictures.
        """
        return ", ".join(f"{name} {value}" for name, value in zip(self.names[:FEATURES], self._values(x), strict=False))

    def _values(self, x: Tensor) -> list[str]:
        if self.kind != "table":
            return []
        columns = self.schema.table(self.schema.restore(x.detach().cpu()[None])).values()
        found = [column[0] for column in columns]
        return ["unknown" if value is None or value != value else _short(value) for value in found]

    @property
    def media_type(self) -> str:
        """Of what `file` gives."""
        return "image/png" if self.kind == "image" else "image/svg+xml"

    @property
    def suffix(self) -> str:
        """Of the name of such a file."""
        return ".png" if self.kind == "image" else ".svg"

    def file(self, x: Tensor, height: int = 96) -> tuple[str, bytes]:
        """The type and the bytes of a picture of one observation (*shape), as the model sees it."""
        if self.kind == "image":
            return self.media_type, _png(self.pixels(x[None, None], max(1, height // x.shape[-2]), gap=0))
        svg = self._profile(x) if self.kind == "table" else self._lines(x.detach().cpu().double().numpy())
        return self.media_type, svg.encode()

    def uri(self, x: Tensor, height: int = 96) -> str:
        """The same as a data URI."""
        media_type, content = self.file(x, height)
        return f"data:{media_type};base64,{base64.b64encode(content).decode()}"

    def sheet(self, pictures: Tensor, height: int = 48) -> str:
        """Images (rows, columns, *shape) as one PNG in a data URI."""
        scale = -(-height // pictures.shape[-2])
        return "data:image/png;base64," + base64.b64encode(_png(self.pixels(pictures, scale))).decode()

    def pixels(self, pictures: Tensor, scale: int, gap: int = 2) -> np.ndarray[Any, Any]:
        """Images (rows, columns, *shape) as one array of uint8, (H, W) or (H, W, 3), white between them."""
        if pictures.ndim == 4:
            pictures = pictures.unsqueeze(2)
        values = ((pictures.float() - self.low) / (self.high - self.low)).nan_to_num(0.0).clamp(0, 1)
        values = (values * 255).round().byte().repeat_interleave(scale, 3).repeat_interleave(scale, 4)
        values = torch.nn.functional.pad(values, (0, gap, 0, gap), value=255)
        rows, columns, channels, high, wide = values.shape
        sheet: np.ndarray[Any, Any] = (
            values.permute(0, 3, 1, 4, 2).reshape(rows * high, columns * wide, channels).numpy()
        )
        return sheet[..., 0] if channels == 1 else sheet

    def _lines(self, values: np.ndarray[Any, Any]) -> str:
        """A sequence (T,), (C, T) or (T, C): a line a channel."""
        rows = values.reshape(1, -1) if values.ndim == 1 else values.reshape(values.shape[0], -1)
        rows = rows if rows.shape[1] >= rows.shape[0] else rows.T
        parts = []
        for place, row in enumerate(rows[:CHANNELS]):
            across = 4 + 152 * np.arange(len(row)) / max(1, len(row) - 1)
            up = 92 - 88 * np.clip((row - self.low) / (self.high - self.low), 0, 1)
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True) if np.isfinite(b))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[place]}" stroke-width="1.5"/>')
        return _svg(160, 96, "".join(parts))

    def _profile(self, x: Tensor) -> str:
        """A row of a table, a line a feature: up to three standard deviations from the training mean, and its value.

        Words have no bar, and a gap has neither.
        """
        shown = list(zip(self.schema.features, x.detach().cpu().double().tolist(), self._values(x), strict=True))
        parts = []
        for place, (feature, value, written) in enumerate(shown[:FEATURES]):
            top = 4 + 14 * place
            parts.append(_text(84, top + 9, feature.name[:14], "end"))
            known = bool(np.isfinite(value))
            parts.append(
                _text(172, top + 9, written[:10] if known else "unknown", "start", "#222" if known else "#6b6b6b")
            )
            if known and feature.kind != "category":
                end = 128 + 40 * float(np.clip(value / self.high, -1, 1))
                left, wide = min(128.0, end), max(abs(end - 128), 0.7)
                parts.append(
                    f'<rect x="{left:.1f}" y="{top}" width="{wide:.1f}" height="10" fill="{COLOURS[int(value < 0)]}"/>'
                )
        height = 8 + 14 * min(len(shown), FEATURES)
        parts.append(f'<path d="M128 2V{height - 2}" stroke="#777" stroke-width=".7"/>')
        return _svg(232, height, "".join(parts))


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _text(across: int, down: int, text: str, anchor: str, colour: str = "#222") -> str:
    place = f'x="{across}" y="{down}" font-size="10" font-family="sans-serif"'
    return f'<text {place} text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def kind(model: MLVAE) -> str:
    """What the model's observations are: "image", "sequence" or "table"."""
    shape = model.shape
    if model.schema.features:
        return "table"
    picture = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    if model.network != "series" and picture and min(shape[-2:]) >= SMALLEST:
        return "image"
    return "sequence"


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def _svg(width: int, height: int, inside: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{inside}</svg>'
    )
