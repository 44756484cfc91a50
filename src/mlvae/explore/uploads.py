"""Files from outside as observations: bounded before they are decoded, checked, resized, never written."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from mlvae.data.sources.images import decode
from mlvae.depict import Depiction
from mlvae.errors import DataError
from mlvae.explore.rows import sequences, table_rows
from mlvae.model import MLVAE

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
    return sequences(content, model.shape, model.likelihood.missing, -1 if model.network == "series" else 0)


def picture(content: bytes, shape: tuple[int, ...], shown: Depiction) -> Tensor:
    """A picture (*shape) on the data's scale, cut at the middle to the model's proportions.

    Args:
        content: of a PNG or JPEG file.
        shape: (H, W), (1, H, W) or (3, H, W).
        shown: the scale: its low is black.

    Raises:
        DataError: too large, damaged, or no picture.
    """
    mode = "RGB" if len(shape) == 3 and shape[0] == 3 else "L"
    pixels = decode(
        "what was uploaded", io.BytesIO(content), (shape[-2], shape[-1]), mode, convert=True, formats=FORMATS,
        most=PIXELS, advice="Save it again as a PNG or JPEG picture.",
    )  # fmt: skip
    values = torch.from_numpy(pixels.astype(np.float32) / 255)
    return (shown.low + (shown.high - shown.low) * values).reshape(shape)
