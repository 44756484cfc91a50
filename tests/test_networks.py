from __future__ import annotations

import pytest
import torch

from mlvae.errors import ModelError
from mlvae.networks import NETWORKS, default_network

CASES = [
    *[("mlp", shape) for shape in ((2,), (7,), (5, 3), (2, 3, 4))],
    *[("conv", shape) for shape in ((16, 16), (17, 23), (1, 28, 28), (3, 33, 20), (5, 9, 40), (3, 64, 64), (4, 4))],
    *[(name, (16, 16)) for name in ("conv-small", "conv-large", "mlp-small", "mlp-large")],
    *[("series", shape) for shape in ((6, 100), (1, 8), (3, 37), (2, 5))],
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
