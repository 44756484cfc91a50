"""Changes of an observation that its group has no part in: shifts, turns, size, mirror images, noise, time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from mlvae.errors import DataError, nearest


@dataclass(frozen=True)
class Augmentation:
    """Draws another change for every observation, each time it is called.

    Only what does not change who or what a group is: a small turn of a digit, but not of an arrow.

    Args:
        shift: pixels that an image moves at most, up or down and sideways; the border is repeated.
        rotate: degrees that an image turns at most, either way.
        zoom: share by which an image grows or shrinks at most: with .1, to between 1/1.1 and 1.1 of its size.
        flip: share of the images that are mirrored, left to right.
        noise: standard deviation that Gaussian noise has at most, on the scale that the model sees; of each
            observation another, so that clean ones, which are read later, are learned from too. Results stay within the
            range of the batch. Of a table's columns numbers have it, other kinds stay.
        time: steps that a series moves at most along its last axis, that of windows (channels, steps) and of
            spectrograms (bands, frames); the ends are repeated.

    Raises:
        DataError: a number is negative or not finite, or none is above 0, or ``flip`` is above 1.

    Example:
        >>> x = torch.rand(5, 1, 8, 8)
        >>> Augmentation(shift=1, rotate=5)(x).shape
        torch.Size([5, 1, 8, 8])
    """

    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    flip: float = 0.0
    noise: float = 0.0
    time: float = 0.0

    def __post_init__(self) -> None:
        values = asdict(self)
        if not all(0 <= value < math.inf for value in values.values()) or not any(values.values()):
            raise DataError(f"Expected numbers of at least 0, one of them above 0, as changes; got {values}.")
        if self.flip > 1:
            raise DataError(f"Expected a share of mirrored images between 0 and 1 as `flip`; got {self.flip:g}.")

    @classmethod
    def parsed(cls, text: str) -> Augmentation:
        """From the command line's "shift:2,rotate:10".

        Raises:
            DataError: a name is unknown, or a number missing.
        """
        values: dict[str, float] = {}
        known = [field.name for field in fields(cls)]
        for part in text.split(","):
            name, _, number = part.strip().partition(":")
            if name not in known:
                hint = nearest(name, known)
                raise DataError(f"Expected changes by name, as in shift:2,rotate:10; got {name!r}. {hint}")
            try:
                values[name] = float(number)
            except ValueError as error:
                raise DataError(f"Expected a number after the colon, as in {name}:2; got {number!r}.") from error
        return cls(**values)

    def __call__(self, x: Tensor, gaps: bool = True) -> Tensor:
        """Observations (N, *shape) as the model takes them, each changed by itself; ``gaps``: NaN may be among them."""
        if self.shift or self.rotate or self.zoom or self.flip:
            x = self._moved(x, gaps)
        if self.time:
            steps = x.shape[-1]
            by = torch.randint(-round(self.time), round(self.time) + 1, (len(x), 1), device=x.device)
            place = (torch.arange(steps, device=x.device) + by).clamp(0, steps - 1)
            x = x.gather(-1, place.reshape(len(x), *[1] * (x.ndim - 2), steps).expand(x.shape))
        if self.noise:
            least, most = x.nan_to_num(nan=math.inf).amin(), x.nan_to_num(nan=-math.inf).amax()
            deviation = self.noise * torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device)
            x = torch.addcmul(x, deviation.to(x), torch.randn_like(x)).clamp(least, most)
        return x

    def _moved(self, x: Tensor, gaps: bool) -> Tensor:
        """Images shifted, turned, sized and mirrored in one sampling, which blurs less than several.

        A pixel between others is the mean of those that were observed, by their weights; a gap where these are less
        than a half.
        """
        if x.ndim not in (3, 4):
            shape = tuple(x.shape[1:])
            raise DataError(f"Expected images (H, W) or (C, H, W) to shift, turn, zoom or flip; got the shape {shape}.")
        images = x if x.ndim == 4 else x.unsqueeze(1)
        n, height, width = len(x), *x.shape[-2:]
        angle = (2 * torch.rand(n, device=x.device) - 1) * math.radians(self.rotate)
        down, right = ((2 * torch.rand(n, device=x.device) - 1) * self.shift for _ in range(2))
        if not (self.rotate or self.zoom):  # whole pixels do not blur
            down, right = down.round(), right.round()
        size = (1 + self.zoom) ** (2 * torch.rand(n, device=x.device) - 1)
        mirror = 1 - 2 * (torch.rand(n, device=x.device) < self.flip).to(size)
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        # The grid's coordinates run from -1 to 1 along either side: a turn must know their lengths.
        across = torch.stack([mirror * cos, -mirror * sin * height / width, 2 * right / width], 1)
        along = torch.stack([sin * width / height, cos, 2 * down / height], 1)
        grid = F.affine_grid(torch.stack([across, along], 1).to(x), list(images.shape), align_corners=False)
        if not gaps:
            return _sampled(images, grid).reshape(x.shape)
        seen = ~images.isnan()
        share = _sampled(seen.to(images), grid)
        moved = _sampled(torch.where(seen, images, 0.0), grid) / share.clamp_min(0.5)
        return torch.where(share > 0.499, moved, torch.nan).reshape(x.shape)


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
