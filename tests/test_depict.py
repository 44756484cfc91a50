"""Observations as pictures, lines and profiles."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

import mlvae
from mlvae import MLVAE, GroupedData, Level
from mlvae.depict import Depiction, kind
from mlvae.schema import Feature, Schema


@pytest.mark.parametrize(
    ("shape", "network", "expected"),
    [
        ((8, 8), "mlp", "image"), ((3, 28, 28), "conv", "image"), ((6, 64), "series", "sequence"),
        ((6, 64), "mlp", "sequence"), ((30,), "mlp", "sequence"), ((2, 16, 16), "mlp", "sequence"),
    ],
)  # fmt: skip
def test_kinds(shape: tuple[int, ...], network: str, expected: str) -> None:
    levels = [Level("content", 2, by="g"), Level("style", 2)]
    assert kind(MLVAE(shape, levels, network=network, width=8)) == expected


def test_a_picture_is_on_the_datas_scale() -> None:
    _, content = Depiction("image", -2.0, 2.0).file(torch.tensor([[-2.0, 0.0], [2.0, 9.0]]), height=2)
    assert np.asarray(Image.open(io.BytesIO(content))).tolist() == [[0, 128], [255, 255]]
    data = GroupedData.from_arrays(torch.rand(8, 8, 8) * 6 - 3, [0, 1] * 4)
    shown = Depiction.of(MLVAE.for_data(data, content_dim=2, style_dim=2, width=8), data)
    assert -3 <= shown.low < -2 and 2 < shown.high <= 3
    digits = mlvae.read("digits")
    shown = Depiction.of(MLVAE.for_data(digits, content_dim=2, style_dim=2, width=8), digits)
    assert (shown.low, shown.high) == (0, 1)


def test_a_sequence_is_a_line_a_channel_without_its_gaps() -> None:
    x = torch.stack([torch.linspace(0, 1, 20), torch.full((20,), torch.nan)])
    x[1, :5] = 0.5
    svg = ET.fromstring(Depiction("sequence", 0.0, 1.0).file(x)[1])
    lines = [line.get("points", "").split() for line in svg if line.tag.endswith("polyline")]
    assert [len(points) for points in lines] == [20, 5]
    assert lines[0][0] == "4.0,92.0" and lines[0][-1] == "156.0,4.0"


def test_one_spike_does_not_flatten_the_others() -> None:
    x = torch.sin(torch.arange(6000) / 7).reshape(100, 2, 30)
    x[3, 0, 3] = 500.0
    data = GroupedData.from_arrays(x, np.arange(100) % 4)
    shown = Depiction.of(MLVAE.for_data(data, content_dim=2, style_dim=2, width=8, network="series"), data)
    assert -1.3 < shown.low < -0.9 and 0.9 < shown.high < 1.3


def test_lines_are_named_where_there_are_several() -> None:
    shown = Depiction("sequence", 0.0, 1.0)
    assert shown.legend((6, 50)) == "Lines: the first 4 of 6 channels, in the order blue, orange, green, pink."
    assert shown.legend((2, 50)) == "Lines: 2 channels, in the order blue, orange."
    assert shown.legend((30,)) == shown.legend((1, 30)) == Depiction("image", 0.0, 1.0).legend((8, 8)) == ""


def test_a_row_of_a_table_is_a_bar_a_feature_with_its_value_in_its_own_units() -> None:
    height = Feature("up & down", mean=170.0, scale=10.0)
    features = (height, Feature("gap"), Feature("down"), Feature("hand", "category", ("left", "right")))
    shown, x = Depiction("table", -3.0, 3.0, Schema(features)), torch.tensor([3.0, float("nan"), -1.5, 1.0])
    svg = ET.fromstring(shown.file(x)[1])
    bars = [one for one in svg if one.tag.endswith("rect") and one.get("height") == "10"]
    assert [bar.get("width") for bar in bars] == ["40.0", "20.0"] and bars[0].get("fill") != bars[1].get("fill")
    texts = [text.text for text in svg if text.tag.endswith("text")]
    assert texts == ["up & down", "200", "gap", "unknown", "down", "-1.5", "hand", "right"]
    assert shown.words(x) == "up & down 200, gap unknown, down -1.5, hand right"
    assert Depiction("image", 0.0, 1.0).words(torch.zeros(8, 8)) == ""
