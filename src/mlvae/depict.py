"""One observation as something to look at: a PNG of a picture, lines for a sequence, bars for a row of a table."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mlvae.data import GroupedData
    from mlvae.model import MLVAE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B5B00", "#000000")
"""Okabe and Ito's palette, its yellow made darker: told apart without red and green, and in print on white."""

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
        names: of a table's features.

    Example:
        >>> Depiction("image", 0.0, 1.0).file(torch.rand(8, 8))[1][:4]
        b'\\x89PNG'
    """

    kind: str
    low: float
    high: float
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: MLVAE, data: GroupedData) -> Depiction:
        """What suits the model's observations; its scale is that of the data, as the model sees them."""
        if model.schema.features:
            return cls("table", -3.0, 3.0, tuple(feature.name for feature in model.schema.features))
        values = model.prepare(data.sample(1000)).float()
        values = values[torch.isfinite(values)]
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        return cls(kind(model), low, high if high > low else low + 1.0)

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
        values = x.detach().cpu().double().numpy()
        svg = self._profile(values) if self.kind == "table" else self._lines(values)
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

    def _profile(self, values: np.ndarray[Any, Any]) -> str:
        """A row of a table: a bar a feature, from the training mean to three standard deviations on each side."""
        shown = list(zip(self.names, values.ravel(), strict=True))[:FEATURES]
        parts = []
        for place, (name, value) in enumerate(shown):
            top = 4 + 12 * place
            text = f'<text x="72" y="{top + 8}" font-size="8" text-anchor="end" fill="#222">{escape(name[:14])}</text>'
            parts.append(text)
            if np.isfinite(value):
                end = 116 + 40 * float(np.clip(value / self.high, -1, 1))
                left, wide = min(116.0, end), max(abs(end - 116), 0.7)
                parts.append(
                    f'<rect x="{left:.1f}" y="{top}" width="{wide:.1f}" height="9" fill="{COLOURS[int(value < 0)]}"/>'
                )
        height = 8 + 12 * len(shown)
        parts.append(f'<path d="M116 2V{height - 2}" stroke="#777" stroke-width=".7"/>')
        return _svg(160, height, "".join(parts))


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
