"""Files from outside as observations: bounded before they are decoded, checked, resized, never written."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.depict import Depiction
from mlvae.errors import DataError
from mlvae.explore.rows import sequences, table_rows
from mlvae.model import MLVAE
from mlvae.untrusted import reading

BYTES = 8 * 2**20
"""Of a file."""

PIXELS = 16_000_000
"""Of a picture, before it is brought to the model's size."""

FORMATS = ("PNG", "JPEG")


def observations(content: bytes, model: MLVAE, shown: Depiction) -> Tensor:
    """What a file holds, as observations (N, *shape) of the model: a picture, rows of a table, or sequences.

    Raises:
        DataError: too large, damaged, or not what the model takes; says what is wrong.
    """
    if len(content) > BYTES:
        raise DataError(
            f"Expected a file of at most {BYTES // 2**20} MB; got {len(content) / 2**20:.1f} MB. Shrink it."
        )
    if shown.kind == "image":
        return picture(content, model.shape, shown)[None]
    if shown.kind == "table":
        return table_rows(content, model.schema)
    return sequences(content, model.shape, model.likelihood.missing)


def picture(content: bytes, shape: tuple[int, ...], shown: Depiction) -> Tensor:
    """A picture (*shape) on the data's scale, cut at the middle to the model's proportions.

    Args:
        content: of a PNG or JPEG file.
        shape: (H, W), (1, H, W) or (3, H, W).
        shown: the scale: its low is black.

    Raises:
        DataError: too large, damaged, or no picture.
    """
    from PIL import Image, ImageOps

    advice = "Save it again as a PNG or JPEG picture."
    with reading("picture", "what was uploaded", advice=advice):
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        # The size stands in the head of the file: a bomb is refused before a pixel of it is decoded.
        if opened.width * opened.height > PIXELS:
            raise DataError(
                f"Expected a picture of at most {PIXELS:,} pixels; got {opened.width} x {opened.height}. Shrink it."
            )
        colours = len(shape) == 3 and shape[0] == 3
        flat = _on_white(ImageOps.exif_transpose(opened)).convert("RGB" if colours else "L")
        fitted = ImageOps.fit(flat, (shape[-1], shape[-2]), Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.asarray(fitted, np.float32) / 255)
    values = values.permute(2, 0, 1) if values.ndim == 3 else values
    return (shown.low + (shown.high - shown.low) * values).reshape(shape)


def _on_white(picture: Any) -> Any:
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
