"""What was found in data, as a picture: how large groups are, and what is in some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlvae.data import GroupedData
from mlvae.errors import DataError
from mlvae.inspection.findings import Inspection


def save_picture(found: Inspection, path: str | Path) -> Path:
    """Writes a PNG: the histogram of group sizes and, of pictures, some members of some groups, a row a group."""
    from PIL import Image, ImageDraw

    rows, bar = len(found.bins), 18
    left = Image.new("RGB", (420, max(200, 50 + rows * bar)), "white")
    pen = ImageDraw.Draw(left)
    pen.text((10, 10), f"{len(found.data):,} observations, {len(found.sizes):,} groups by {found.data.by}", "black")
    pen.text((10, 26), "members of a group, and how many groups have them", "gray")
    most = max(count for _, count in found.bins)
    for place, (name, count) in enumerate(found.bins):
        top = 48 + place * bar
        pen.text((10, top), name, "black")
        pen.rectangle((110, top, 110 + 230 * count / most, top + bar - 6), fill="steelblue")
        pen.text((116 + 230 * count / most, top), f"{count:,}", "black")
    grid = _members(found.data)
    if grid is not None:
        right = Image.fromarray(grid)
        sheet = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
        sheet.paste(left, (0, 0))
        sheet.paste(right, (left.width, 0))
        left = sheet
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise DataError(f"Expected a .png file to write; got {path}. Rename it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    left.save(path)
    return path


def _members(data: GroupedData, groups: int = 6, members: int = 8, height: int = 48) -> np.ndarray[Any, Any] | None:
    """Pictures (height, width, 3) uint8 of the first members of some groups; None where observations are none."""
    shape = data.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        return None
    ids = data.codes(data.by or "").numpy()
    chosen = np.linspace(0, ids.max(), min(groups, int(ids.max()) + 1)).astype(int)
    scale = max(1, height // shape[-2])
    rows = []
    for group in chosen:
        x = data.x[torch.from_numpy(np.flatnonzero(ids == group)[:members])].float()
        x = (x / 255 if data.x.dtype == torch.uint8 else x).nan_to_num(0.0).clamp(0, 1)
        x = x.unsqueeze(1) if len(shape) == 2 else x
        x = torch.cat([x, x.new_ones(members - len(x), *x.shape[1:])])
        x = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=1.0).expand(-1, 3, -1, -1)
        rows.append(torch.cat(list(x), 2))
    picture: np.ndarray[Any, Any] = (torch.cat(rows, 1) * 255).byte().permute(1, 2, 0).numpy()
    return picture
