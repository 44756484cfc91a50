from __future__ import annotations

import pytest
import torch
from torch import nn

from mlvae.errors import ModelError
from mlvae.networks import NETWORKS, default_network
from mlvae.networks.conv import Crop
from mlvae.networks.fast import Enlarging, GroupNorm, _Normalised

CASES = [
    *[("mlp", shape) for shape in ((2,), (7,), (5, 3), (2, 3, 4))],
    *[("conv", shape) for shape in ((16, 16), (17, 23), (1, 28, 28), (3, 33, 20), (5, 9, 40), (3, 64, 64), (4, 4))],
    *[(name, (16, 16)) for name in ("conv-small", "conv-large", "mlp-small", "mlp-large")],
    *[("series", shape) for shape in ((6, 100), (1, 8), (3, 37), (2, 5), (2, 3, 37))],
]


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("width", [4, 16])
def test_shapes_and_independent_rows(name: str, shape: tuple[int, ...], width: int) -> None:
    network = NETWORKS[name]
    encoder, decoder = network.encoder(shape, width), network.decoder(shape, width, 3)
    x, code = torch.randn(3, *shape), torch.randn(3, 3)
    features, output = encoder(x), decoder(code)
    assert features.ndim == 2
    assert output.shape == (3, *shape)
    # Row 0 does not know what stands beside it: training and evaluation mode alike.
    others_x, others_code = x.clone(), code.clone()
    others_x[1:] *= 100
    others_code[1:] *= 100
    for module, mine, theirs in ((encoder, x, others_x), (decoder, code, others_code)):
        assert torch.allclose(module(mine)[0], module(theirs)[0], atol=1e-5)
        assert torch.allclose(module(mine)[:1], module(mine[:1]), atol=1e-5)
        assert torch.allclose(module.eval()(mine), module.train()(mine), atol=1e-5)
        # ... and different rows differ, or the above would say nothing.
        assert not torch.allclose(module(mine)[0], module(mine)[1], atol=1e-4)


def test_every_network_has_a_case() -> None:
    assert {name for name, _ in CASES} == set(NETWORKS)


@pytest.mark.parametrize("shape", [(12,), (2, 3, 4, 5, 6)])
def test_images_have_two_to_four_axes(shape: tuple[int, ...]) -> None:
    for network in (NETWORKS["conv"].encoder, lambda shape, width: NETWORKS["conv"].decoder(shape, width, 3)):
        with pytest.raises(ModelError, match="'conv'; got .* use another network"):
            network(shape, 8)


def test_windows_have_two_axes() -> None:
    with pytest.raises(ModelError, match="(channels, steps)"):
        NETWORKS["series"].encoder((100,), 8)


def test_the_shape_chooses() -> None:
    chosen = {
        (28, 28): "conv",
        (3, 64, 64): "conv",
        (8, 8): "mlp",
        (5, 32, 32): "mlp",
        (12,): "mlp",
        (2, 3, 4, 5): "mlp",
    }
    assert {shape: default_network(shape) for shape in chosen} == chosen


def last(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize(("groups", "channels"), [(8, 32), (1, 3), (2, 2), (4, 8)])
def test_normalisation_of_few_channels_is_torchs(groups: int, channels: int) -> None:
    layer = GroupNorm(groups, channels).double()
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(1))
        layer.bias.normal_(generator=torch.Generator().manual_seed(2))
    x = last(5, channels, 6, 7)
    gradient = torch.randn(5, channels, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found, expected = layer(x), nn.GroupNorm.forward(layer, x)
    assert torch.allclose(found, expected, atol=1e-12) and found.is_contiguous(memory_format=torch.channels_last)
    wanted = (x, layer.weight, layer.bias)
    for a, b in zip(*(torch.autograd.grad(y, wanted, gradient) for y in (found, expected)), strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    small = last(2, channels, 2, 3), layer.weight, layer.bias
    assert torch.autograd.gradcheck(lambda *each: _Normalised.apply(*each, groups, 1e-5), small)
    # Where channels lie first, or there are many in a group, it is torch's own.
    assert torch.equal(layer(x.contiguous()), nn.GroupNorm.forward(layer, x.contiguous()))
    still = torch.full((1, channels, 4, 4), 7.0, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert torch.allclose(layer(still), layer.bias.view(1, -1, 1, 1).expand_as(still)), "no variance is no error"


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_enlarging_by_blocks_is_a_transposed_convolution(step: int, channels: int) -> None:
    layer, x = Enlarging(5, channels, step).double(), last(3, 5, 4, 6)
    found, expected = layer(x), nn.ConvTranspose2d.forward(layer, x)
    assert found.shape == (3, channels, 4 * step, 6 * step) and torch.allclose(found, expected, atol=1e-12)
    gradient = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = (x, layer.weight, layer.bias)
    for a, b in zip(*(torch.autograd.grad(y, wanted, gradient) for y in (found, expected)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x.detach().float().bfloat16()).dtype == torch.bfloat16


def test_cropping_keeps_channels_last_on_the_way_back() -> None:
    x = last(2, 4, 8, 8)
    y = Crop((7, 6))(x)
    assert torch.equal(y, x[..., :7, :6]) and Crop((8, 8))(x) is x
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y, memory_format=torch.channels_last))
    assert gradient.is_contiguous(memory_format=torch.channels_last) and gradient.sum() == 2 * 4 * 7 * 6
