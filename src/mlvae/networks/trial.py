"""Whether networks of one's own fit a model: each is tried once, on zeros."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mlvae.errors import MLVAEError, ModelError


def features_of(encoder: nn.Module, shape: tuple[int, ...]) -> int:
    """F, where an encoder maps (N, *shape) to (N, F).

    Raises:
        ModelError: it fails, or maps them to something else.
    """
    features = _tried(encoder, shape, "encoder")
    if features.ndim != 2 or len(features) != 2:
        raise ModelError(
            f"Expected the encoder to map (2, *{shape}) to features (2, F); got {tuple(features.shape)}."
            " End it with nn.Flatten()."
        )
    return int(features.shape[1])


def check_decoder(decoder: nn.Module, codes: int, shape: tuple[int, ...]) -> None:
    """Raises ModelError where a decoder makes of codes (N, codes) anything but the likelihood's (N, *shape)."""
    if (made := tuple(_tried(decoder, (codes,), "decoder").shape)) != (2, *shape):
        raise ModelError(
            f"Expected the decoder to map codes (2, {codes}) to (2, *{shape}), as the likelihood asks; got {made}."
            " End it with nn.Unflatten(1, shape)."
        )


@torch.no_grad()
def _tried(network: nn.Module, shape: tuple[int, ...], name: str) -> Tensor:
    """What a network makes of two zeros of a shape; lazy layers take their sizes from these."""
    like = next((each for each in network.parameters() if not is_lazy(each)), torch.zeros(()))
    was = {part: part.training for part in network.modules()}
    zeros = like.new_zeros(2, *shape)
    try:
        made = network.eval()(zeros)
    except MLVAEError:
        raise
    except Exception as error:  # whatever a network of somebody else's comes to
        raise ModelError(
            f"Expected the {name} to take {tuple(zeros.shape)}, two of what it will see; it failed:"
            f" {type(error).__name__}: {error} Make its first layer for {shape}, or begin it with nn.Flatten()."
        ) from error
    finally:
        for part, training in was.items():
            part.training = training
    if not isinstance(made, Tensor):
        raise ModelError(
            f"Expected the {name} to return one tensor; got {type(made).__name__}. Return only what comes next."
        )
    return made


def warn_of_batch_norm(*networks: nn.Module) -> None:
    """Warns where statistics of a batch would enter each observation's vote."""
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for network in networks for part in network.modules()):
        warnings.warn(
            "The network has batch normalisation: observations of a batch leak into each other's votes. Normalise by"
            " group or layer.",
            stacklevel=3,
        )
