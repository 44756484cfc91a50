"""What torch has, computed faster on a CPU where channels lie last: the same numbers, to rounding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW = 8
"""Channels: torch's group normalisation reads those of one group at once, and fewer than fill a vector one by one."""


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`; sums over pixels of all channels side by side where groups are of few channels.

    Example:
        >>> x = torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last)
        >>> torch.allclose(GroupNorm(4, 8)(x), nn.GroupNorm(4, 8)(x), atol=1e-6)
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        few = self.num_channels < FEW * self.num_groups and x.device.type == "cpu" and x.dtype == self.weight.dtype
        if few and x.is_contiguous(memory_format=torch.channels_last) and not torch.compiler.is_compiling():
            normalised: Tensor = _Normalised.apply(x, self.weight, self.bias, self.num_groups, self.eps)  # type: ignore[no-untyped-call]
            return normalised
        return super().forward(x)


class _Normalised(torch.autograd.Function):
    """y = a x + b, where a and b of each channel are its group's deviation and mean, and the weights."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, pixels, channels)
        size = rows.shape[1] * rows.shape[2] // groups
        mean, square = (
            sums.unflatten(1, (groups, -1)).sum(2, keepdim=True) / size for sums in (rows.sum(1), (rows * rows).sum(1))
        )
        rate = (torch.addcmul(square, mean, mean, value=-1).clamp_min(0) + eps).rsqrt()
        scale = rate * weight.view(groups, -1)  # (N, groups, channels of each)
        shift = torch.addcmul(bias.view(groups, -1), scale, mean, value=-1)
        scale = scale.flatten(1).unsqueeze(1)
        context.save_for_backward(rows, weight, mean, rate, scale)
        context.image = x.shape[2:]
        return _image(torch.addcmul(shift.flatten(1).unsqueeze(1), rows, scale), x.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, rate, scale = context.saved_tensors
        groups, size = mean.shape[1], rows.shape[1] * rows.shape[2] // mean.shape[1]
        by_rows = gradient.permute(0, 2, 3, 1).flatten(1, 2)
        total, product = (sums.unflatten(1, (groups, -1)) for sums in (by_rows.sum(1), (by_rows * rows).sum(1)))
        by_bias, by_weight = total.sum(0), (torch.addcmul(product, total, mean, value=-1) * rate).sum(0)
        total, product = ((sums * weight.view(groups, -1)).sum(2, keepdim=True) / size for sums in (total, product))
        of_rows = torch.addcmul(-product, total, mean) * rate**3
        shift = -torch.addcmul(total * rate, of_rows, mean)
        each = scale.shape[2] // groups
        of_rows, shift = (value.expand(-1, -1, each).flatten(1).unsqueeze(1) for value in (of_rows, shift))
        by_x = torch.addcmul(shift, rows, of_rows).addcmul_(by_rows, scale)
        return _image(by_x, context.image), by_weight.flatten(), by_bias.flatten(), None, None


def _image(rows: Tensor, size: torch.Size) -> Tensor:
    image: Tensor = rows.unflatten(1, size).permute(0, 3, 1, 2)
    return image


class Enlarging(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` by steps of s with kernels of 2 s, for few channels out.

    What it makes of a pixel and its neighbours is a block of s x s pixels: a convolution to s² channels, laid side by
    side. For one channel torch's own takes two (s = 2) to five times (s = 4) as long.

    Args:
        before: channels in.
        after: channels out.
        step: s, even.

    Example:
        >>> layer, x = Enlarging(3, 1, 4), torch.randn(2, 3, 5, 5)
        >>> torch.allclose(layer(x), nn.ConvTranspose2d.forward(layer, x), atol=1e-5)
        True
    """

    def __init__(self, before: int, after: int, step: int) -> None:
        super().__init__(before, after, 2 * step, step, step // 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype and output_size is None
        if not plain or torch.compiler.is_compiling():
            return super().forward(x, output_size)
        enlarged: Tensor = _Enlarged.apply(x, self.weight, self.bias, self.stride[0])  # type: ignore[no-untyped-call]
        return enlarged


class _Enlarged(torch.autograd.Function):
    """Forwards by blocks; backwards torch's own is as fast as it should be."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, step: int) -> Tensor:
        context.save_for_backward(x, weight)
        context.step = step
        # Of three blocks of s² weights along each side, the first is for the pixel after, the last for that before.
        blocks = F.pad(weight, [step // 2] * 4).unflatten(3, (3, step)).unflatten(2, (3, step)).flip(2, 4)
        kernels = blocks.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(F.conv2d(x, kernels, bias.repeat_interleave(step**2), padding=1), step)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        step = context.step
        sides = [step] * 2, [step // 2] * 2, [1, 1], True, [0, 0], 1
        wanted = list(context.needs_input_grad[:3])
        found = torch.ops.aten.convolution_backward(gradient, x, weight, [weight.shape[1]], *sides, wanted)
        return *found, None
