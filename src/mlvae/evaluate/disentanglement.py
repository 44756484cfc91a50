"""Whether single dimensions of codes follow single factors: DCI, MIG, SAP and modularity, from plain arrays.

A level's block of codes is free to turn, so these numbers speak of dimensions, not of levels: a model that keeps its
levels apart perfectly can have a low MIG. Give the sum over a level's dimensions as one column to ask about levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mlvae.errors import DataError
from mlvae.labels import refuse_missing, tidy

Array = np.ndarray[Any, Any]

BINS = 20
"""Codes, and factors that are numbers, are cut into as many bins of equal width for mutual information."""

TREES, LEAF = 100, 3
"""Of the forests, and the fewest rows of a leaf."""

FEWEST = 4 * LEAF
"""Rows, of which half are what a tree could just split."""


@dataclass(frozen=True)
class Disentanglement:
    """Each between 0 and 1, but for informativeness, where R² may be below 0; 1 is best.

    Args:
        disentanglement: of DCI, whether a dimension matters to one factor only.
        completeness: of DCI, whether a factor is held by one dimension only.
        informativeness: of DCI, accuracy (R² for numbers) of the forests on rows they were not fitted on.
        mig: mutual information gap.
        sap: separated attribute predictability.
        modularity: whether a dimension's mutual information is about one factor only.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    mig: float
    sap: float
    modularity: float


def disentanglement(
    codes: Any, factors: Mapping[str, Any], numbers: Sequence[str] = (), seed: int = 0
) -> Disentanglement:
    """All of them at once.

    Args:
        codes: (N, D), usually posterior means.
        factors: at least two by name, (N,) each, labels of any sortable type.
        numbers: names of the factors whose values are numbers.
        seed: of the forests and of the halves that they are fitted and read on.

    Raises:
        DataError: shapes disagree, values are not finite, a factor is constant, has labels that cannot be sorted, or is
            one of ``numbers`` and has none, or there are fewer than two factors or dimensions, or than twelve rows.

    Example:
        >>> random = np.random.default_rng(0)
        >>> hue, size = random.integers(0, 4, 600), random.normal(size=600)
        >>> found = disentanglement(np.stack([hue, size], 1), {"hue": hue, "size": size}, ["size"])
        >>> found.mig > 0.9, found.modularity > 0.9, found.disentanglement > 0.9
        (True, True, True)
    """
    x, table = _checked(codes, factors, numbers)
    information = mutual_information(x, table, numbers)
    weights, informed = importance(x, table, numbers, seed)
    d, c = dci(weights)
    entropy = np.array([_entropy(_levels(values, name in numbers)) for name, values in table.items()])
    return Disentanglement(d, c, informed, mig(information, entropy), sap(attributes(x, table, numbers)),
                           modularity(information))  # fmt: skip


def mutual_information(codes: Array, factors: Mapping[str, Array], numbers: Sequence[str] = ()) -> Array:
    """(D, F) nats between each binned dimension and each factor."""
    columns = [_levels(codes[:, d], True) for d in range(codes.shape[1])]
    named = [_levels(values, name in numbers) for name, values in factors.items()]
    return np.array([[_entropy(a) + _entropy(b) - _entropy(a * (b.max() + 1) + b) for b in named] for a in columns])


def mig(information: Array, entropy: Array) -> float:
    """Mean over factors of the gap between the two most informative dimensions, as a share of the factor's entropy.

    Reference: Chen, Li, Grosse, Duvenaud 2018, arXiv:1802.04942, eq. 6.
    """
    ordered = np.sort(information, 0)
    return float(((ordered[-1] - ordered[-2]) / entropy).mean())


def modularity(information: Array) -> float:
    """Mean over dimensions of 1 - Σ m_f² / (m_max² (F - 1)), over the factors f but that of the most information m_max.

    Dimensions without any information count as 0.

    Reference: Ridgeway, Mozer 2018, arXiv:1802.05312, section 3.1.
    """
    squared = information**2
    top = squared.max(1)
    rest = squared.sum(1) - top
    held = top > 1e-12
    scores = 1 - np.divide(rest, top * (information.shape[1] - 1), out=np.ones_like(top), where=held)
    return float(np.where(held, scores, 0).mean())


def sap(scores: Array) -> float:
    """Mean over factors of the gap between the two best dimensions' scores (D, F).

    Reference: Kumar, Sattigeri, Balakrishnan 2018, arXiv:1711.00848, section 3.
    """
    ordered = np.sort(scores, 0)
    return float((ordered[-1] - ordered[-2]).mean())


def attributes(codes: Array, factors: Mapping[str, Array], numbers: Sequence[str] = ()) -> Array:
    """(D, F) how well one dimension alone predicts a factor: R² of a line for numbers; for labels, the balanced share
    named rightly by the nearest of the labels' means along the dimension."""
    scores = np.zeros((codes.shape[1], len(factors)))
    for f, (name, values) in enumerate(factors.items()):
        if name in numbers:
            number = values.astype(float)
            with np.errstate(invalid="ignore", divide="ignore"):
                scores[:, f] = [np.nan_to_num(np.corrcoef(codes[:, d], number)[0, 1] ** 2) for d in range(len(scores))]
            continue
        index = _levels(values, False)
        size = np.bincount(index)
        for d in range(len(scores)):
            centres = np.bincount(index, codes[:, d]) / size
            order = np.argsort(centres, kind="stable")
            above = np.searchsorted(centres[order], codes[:, d]).clip(1, len(centres) - 1)
            nearer = codes[:, d] - centres[order][above - 1] > centres[order][above] - codes[:, d]
            right = order[np.where(nearer, above, above - 1)] == index
            scores[d, f] = (np.bincount(index, right) / size).mean()
    return scores


def dci(weights: Array) -> tuple[float, float]:
    """Disentanglement and completeness of an importance matrix (D, F), not negative.

    Disentanglement is one less the entropy, base F, of a dimension's shares, dimensions weighed by their importance;
    completeness is one less the entropy, base D, of a factor's shares, averaged over factors.

    Reference: Eastwood, Williams 2018, "A framework for the quantitative evaluation of disentangled representations".
    """
    dims, factors = weights.shape
    by_code = weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)
    by_factor = weights / np.maximum(weights.sum(0, keepdims=True), 1e-30)
    share = weights.sum(1) / max(weights.sum(), 1e-30)
    apart = 1 - _rows(by_code) / np.log(factors)
    whole = np.where(weights.sum(0) > 0, 1 - _rows(by_factor.T) / np.log(dims), 0)  # of nothing, no dimension has all
    return float((share * apart).sum()), float(whole.mean())


def importance(codes: Array, factors: Mapping[str, Array], numbers: Sequence[str], seed: int) -> tuple[Array, float]:
    """(D, F) of random forests from codes to each factor, and their mean score on the half not fitted on."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    order = np.random.default_rng(seed).permutation(len(codes))
    fitted, read = np.array_split(order, 2)
    weights, scores = [], []
    for name, values in factors.items():
        kind = RandomForestRegressor if name in numbers else RandomForestClassifier
        forest = kind(TREES, min_samples_leaf=LEAF, max_features=1.0, random_state=seed)
        forest.fit(codes[fitted], values[fitted])
        weights.append(forest.feature_importances_)
        scores.append(forest.score(codes[read], values[read]))
    return np.array(weights).T, float(np.mean(scores))


def _checked(codes: Any, factors: Mapping[str, Any], numbers: Sequence[str]) -> tuple[Array, dict[str, Array]]:
    if not isinstance(factors, Mapping):
        raise DataError(f"Expected factors by name, as {{'size': values}}; got {type(factors).__name__}.")
    if isinstance(numbers, str):
        raise DataError(f"Expected `numbers` as a list of names; got {numbers!r}. Write [{numbers!r}].")
    x = np.asarray(_array(codes), float)
    table = {name: tidy(_array(values)) for name, values in factors.items()}
    if x.ndim != 2 or x.shape[1] < 2 or len(table) < 2 or any(v.shape != (len(x),) for v in table.values()):
        raise DataError(
            f"Expected codes (N, D) of at least two dimensions and at least two factors, (N,) each; got {x.shape} and"
            f" { {name: v.shape for name, v in table.items()} }. Take both from the same rows."
        )
    if len(x) < FEWEST:
        raise DataError(f"Expected at least {FEWEST} rows, to fit forests on half of them; got {len(x)}. Pass more.")
    if unknown := [name for name in numbers if name not in table or table[name].dtype.kind not in "biuf"]:
        raise DataError(f"Expected `numbers` to name factors that are numbers; got {unknown[0]!r}.")
    for name, values in table.items():
        if name not in numbers:
            refuse_missing(values, f"factor {name!r}")
        if name not in numbers and values.dtype.kind == "f" and (values != np.floor(values)).any():
            raise DataError(f"Expected labels of factor {name!r}; got numbers. Name it in `numbers`.")
        if values.dtype == object and len(types := {type(value).__name__ for value in values}) > 1:
            raise DataError(
                f"Expected labels of one type in factor {name!r}, to be sorted; got {' and '.join(sorted(types))}."
                " Write all as text."
            )
    if not np.isfinite(x).all() or any(not np.isfinite(table[name].astype(float)).all() for name in numbers):
        raise DataError("Expected finite codes and numbers; got NaN or infinity. Drop those rows.")
    if constant := [name for name, values in table.items() if len(np.unique(values)) < 2]:
        raise DataError(f"Expected factors that vary; {constant[0]!r} is constant. Leave it out.")
    return x, table


def _array(values: Any) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _levels(values: Array, binned: bool) -> Array:
    """Dense numbers: of bins of equal width, or of the labels."""
    if binned:
        edges = np.histogram_bin_edges(values.astype(float), BINS)
        values = np.digitize(values, edges[:-1])
    return np.unique(values, return_inverse=True)[1]


def _entropy(index: Array) -> float:
    share = np.bincount(index) / len(index)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _rows(shares: Array) -> Array:
    """The entropy of each row, nats."""
    safe = np.where(shares > 0, shares, 1)
    entropy: Array = -(shares * np.log(safe)).sum(1)
    return entropy
