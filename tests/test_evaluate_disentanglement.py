"""Against the published definitions, written out slowly."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch

from mlvae.errors import DataError
from mlvae.evaluate import disentanglement
from mlvae.evaluate.disentanglement import BINS, attributes, dci, mig, modularity, mutual_information, sap

RANDOM = np.random.default_rng(0)
SHAPE, HUE, SIZE = RANDOM.integers(0, 3, 400), RANDOM.integers(0, 5, 400), RANDOM.normal(size=400)
FACTORS = {"shape": np.array(["disc", "box", "star"])[SHAPE], "hue": HUE, "size": SIZE}
CODES = np.stack([SHAPE + 0.2 * RANDOM.normal(size=400), HUE + SIZE, SIZE + 0.3 * RANDOM.normal(size=400),
                  RANDOM.normal(size=400)], 1)  # fmt: skip


def binned(values: np.ndarray) -> list[int]:
    low, high = values.min(), values.max()
    return [min(int((v - low) / (high - low) * BINS), BINS - 1) for v in values]


def slow_information(a: list, b: list) -> float:
    n, pairs, first, second = len(a), Counter(zip(a, b, strict=True)), Counter(a), Counter(b)
    return sum(k / n * math.log(k * n / (first[x] * second[y])) for (x, y), k in pairs.items())


def tables() -> tuple[np.ndarray, np.ndarray]:
    named = [FACTORS["shape"].tolist(), HUE.tolist(), binned(SIZE)]
    information = np.array([[slow_information(binned(CODES[:, d]), f) for f in named] for d in range(4)])
    return information, np.array([slow_information(f, f) for f in named])


def test_mutual_information_is_its_sum_over_cells() -> None:
    np.testing.assert_allclose(mutual_information(CODES, FACTORS, ["size"]), tables()[0], atol=1e-10)


def test_mig_and_modularity_are_their_definitions() -> None:
    information, entropy = tables()
    gaps = []
    for f in range(3):
        first, second = sorted(information[:, f].tolist())[::-1][:2]
        gaps.append((first - second) / entropy[f])
    assert mig(information, entropy) == pytest.approx(np.mean(gaps))
    scores = []
    for row in information.tolist():
        top = max(row)
        template = [top if m == top else 0.0 for m in row]
        scores.append(1 - sum((m - t) ** 2 for m, t in zip(row, template, strict=True)) / (top**2 * (len(row) - 1)))
    assert modularity(information) == pytest.approx(np.mean(scores))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (np.eye(3), (1.0, 1.0)),
        (np.ones((3, 3)), (0.0, 0.0)),
        # Two dimensions share one factor: disentangled, half complete for it; by hand.
        (np.array([[1.0, 0], [1, 0], [0, 2], [0, 0]]), (1.0, 1 - (math.log(2) / math.log(4)) / 2)),
        (np.array([[3.0, 1], [0, 4]]), (0.5 * (1 - 0.8112781245) + 0.5, ((1.0) + (1 - 0.7219280949)) / 2)),
    ],
)
def test_dci_by_hand(weights: np.ndarray, expected: tuple[float, float]) -> None:
    assert dci(weights) == pytest.approx(expected)


def test_sap_is_the_gap_of_scores_of_single_dimensions() -> None:
    scores = attributes(CODES, FACTORS, ["size"])
    line = np.polyfit(CODES[:, 2], SIZE, 1)
    r2 = 1 - np.var(SIZE - np.polyval(line, CODES[:, 2])) / np.var(SIZE)
    assert scores[2, 2] == pytest.approx(r2)
    centres = [CODES[k == SHAPE, 0].mean() for k in range(3)]
    right = [np.mean([min(range(3), key=lambda c: abs(v - centres[c])) == k for v in CODES[k == SHAPE, 0]])
             for k in range(3)]  # fmt: skip
    names = sorted(("disc", "box", "star"))
    assert scores[0, 0] == pytest.approx(np.mean(right)) and names == sorted(set(FACTORS["shape"]))
    ordered = np.sort(scores, 0)
    assert sap(scores) == pytest.approx(np.mean([ordered[-1, f] - ordered[-2, f] for f in range(3)]))


def test_turning_the_codes_costs_all_of_them() -> None:
    straight = np.stack([SHAPE + 0.1 * RANDOM.normal(size=400), SIZE], 1)
    turned = (straight - straight.mean(0)) / straight.std(0) @ np.array([[1, 1], [-1, 1]]) / 2**0.5
    factors = {"shape": SHAPE, "size": SIZE}
    a, b = disentanglement(straight, factors, ["size"]), disentanglement(turned, factors, ["size"])
    for name in ("mig", "sap", "disentanglement", "completeness"):
        assert getattr(a, name) > getattr(b, name) + 0.2
    assert a.modularity > b.modularity + 0.05
    assert a.mig > 0.85 and a.informativeness > 0.95 and b.informativeness > 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": CODES[:, :1]}, "at least two dimensions"),
        ({"factors": {"hue": HUE}}, "two factors"),
        ({"factors": np.stack([SHAPE, HUE], 1)}, "factors by name"),
        ({"numbers": []}, "Name it in `numbers`"),
        ({"factors": {**FACTORS, "hue": HUE[:3]}}, "same rows"),
        ({"factors": {**FACTORS, "hue": 0 * HUE}}, "'hue' is constant"),
        ({"numbers": ["shape"]}, "'shape'"),
        ({"codes": np.where(CODES > 2, np.nan, CODES)}, "finite"),
        (
            {"factors": {**FACTORS, "hue": np.array([1, "red"] * 200, dtype=object)}},
            "one type in factor 'hue'.* int and str",
        ),
        ({"numbers": "size"}, r"Write \['size'\]"),
        (
            {"codes": CODES[:3], "factors": {name: values[:3] for name, values in FACTORS.items()}},
            "at least 12 rows.* 3",
        ),
    ],
)
def test_wrong_arrays_are_named(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        disentanglement(**{"codes": CODES, "factors": FACTORS, "numbers": ["size"], **change})


def test_codes_with_a_gradient_and_few_rows_have_numbers() -> None:
    codes = torch.tensor(CODES[:12], requires_grad=True)
    few = {"hue": HUE[:12].astype(object), "size": torch.tensor(SIZE[:12], requires_grad=True)}
    found = disentanglement(codes, few, ["size"])
    assert all(math.isfinite(value) for value in asdict(found).values())
    assert found == disentanglement(CODES[:12], {"hue": HUE[:12], "size": SIZE[:12]}, ["size"])
