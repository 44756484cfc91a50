"""Whether networks of one's own fit a model: each is tried once, on zeros."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from mlvae.errors import ModelError


def features_of(encoder: nn.Module, shape: tuple[int, ...]) -> int:
    """F, where an encoder maps (N, *shape) to (N, F).

    Raises:
        ModelError: it maps them to something else.
    """
    features = _tried(encoder, shape)
    if features.ndim != 2 or len(features) != 2:
        raise ModelError(
            f"Expected the encoder to map (2, *{shape}) to features (2, F); got {tuple(features.shape)}."
            " End it with nn.Flatten()."
        )
    return int(features.shape[1])


def check_decoder(decoder: nn.Module, codes: int, shape: tuple[int, ...]) -> None:
    """Raises ModelError where a decoder makes of codes (N, codes) anything but the likelihood's (N, *shape)."""
    if (made := tuple(_tried(decoder, (codes,)).shape)) != (2, *shape):
        raise ModelError(
            f"Expected the decoder to map codes (2, {codes}) to (2, *{shape}), as the likelihood asks; got {made}."
            " End it with nn.Unflatten(1, shape)."
        )


@torch.no_grad()
def _tried(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """What a network makes of two zeros of a shape."""
    like = next(network.parameters(), torch.zeros(()))
    was = {part: part.training for part in network.modules()}
    try:
        made: Tensor = network.eval()(like.new_zeros(2, *shape))
    finally:
        for part, training in was.items():
            part.training = training
    return made


def warn_of_batch_norm(*networks: nn.Module) -> None:
    """Warns where statistics of a batch would enter each observation's vote."""
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for network in networks for part in network.modules()):
        warnings.warn(
            "The network has batch normalisation: observations of a batch leak into each other's votes. Normalise by"
            " group or layer.",
            stacklevel=3,
        )
