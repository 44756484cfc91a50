"""What codes tell about labels: a classifier fitted on one part and read on another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.errors import DataError, nearest
from mlvae.grouping import shuffled
from mlvae.labels import among

HIDDEN = 128
BATCH = 512
LEARNING_RATE = 2e-3
CHECK_EVERY = 25
"""Steps between two looks at the validation loss; an epoch where that is longer."""
PATIENCE = 8
MOST_CHECKS = 60

LOGITS = 2**25
"""Logits that are held at once, at most."""

Array = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Probe:
    """What a probe reads on the test part.

    Args:
        accuracy: share of labels named rightly.
        nats: H(label) minus the probe's cross-entropy, a lower estimate of the information that a code holds about its
            label. About 0 for independent codes, and below where the probe is sure and wrong.
        chance: share of the most frequent label.
    """

    accuracy: float
    nats: float
    chance: float


def probe(
    train_codes: Array,
    train_labels: Any,
    test_codes: Array,
    test_labels: Any,
    kind: Literal["linear", "mlp"] = "linear",
    seed: int = 0,
) -> Probe:
    """Fits a classifier from codes to labels and reads it on codes it was not fitted on.

    Args:
        train_codes: (N, D); codes are standardised by these.
        train_labels: (N,), of any sortable type.
        test_codes: (M, D).
        test_labels: (M,), none that is not among the training labels.
        kind: "linear", multinomial logistic regression; or "mlp", two hidden layers of 128 units, stopped early on a
            tenth of the training part.
        seed: of the mlp's weights and batches. The same seed gives the same numbers.

    Raises:
        DataError: shapes disagree, a part is too small, or a test label is unknown in training.

    Example:
        >>> codes = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> labels = (codes[:, 0] > 0).long()
        >>> result = probe(codes[:300], labels[:300], codes[300:], labels[300:])
        >>> result.accuracy > 0.95, result.nats > 0.5          # of at most log 2 = 0.69
        (True, True)
    """
    x, x_test, (labels, test) = _both(train_codes, train_labels, test_codes, test_labels, kind)
    names, y = np.unique(labels, return_inverse=True)
    if not (known := among(test, names)).all():
        raise DataError(
            f"Expected test labels that occur in training; got {test[~known].tolist()[0]!r}."
            " Groups that training never saw are for few_shot."
        )
    y_test = torch.from_numpy(np.searchsorted(names, test))

    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fitted = (_linear if kind == "linear" else _mlp)(x, torch.from_numpy(y), len(names))
    right, surprise = 0, 0.0
    with torch.no_grad():
        for rows in _blocks(len(x_test), len(names)):
            logits = fitted(x_test[rows])
            right += int((logits.argmax(1) == y_test[rows]).sum())
            surprise += F.cross_entropy(logits, y_test[rows], reduction="sum").item()
    shares = torch.bincount(y_test).double() / len(y_test)
    return Probe(
        accuracy=right / len(y_test),
        nats=torch.special.entr(shares).sum().item() - surprise / len(y_test),
        chance=shares.max().item(),
    )


def cross_probe(codes: Array, labels: Any, kind: Literal["linear", "mlp"] = "mlp", seed: int = 0) -> Probe | None:
    """A probe fitted on each half of one part and read on the other; the mean of both.

    Labels that occur once cannot be in both halves and are left out.

    Returns:
        The mean of the two; None where fewer than two labels occur twice.
    """
    x, y = _part("test", codes, labels)
    _, index, sizes = np.unique(y, return_inverse=True, return_counts=True)
    # Members of a label go to the halves by turns, in random order, so that both halves have it.
    order, place = shuffled(index, np.random.default_rng(seed))
    kept = sizes[index[order]] > 1
    if (sizes > 1).sum() < 2:
        return None
    halves = [order[kept & (place % 2 == side)] for side in (0, 1)]
    results = [probe(x[a], y[a], x[b], y[b], kind, seed) for a, b in (halves, halves[::-1])]
    return Probe(*(float(np.mean([getattr(r, name) for r in results])) for name in ("accuracy", "nats", "chance")))


def regress(
    train_codes: Array,
    train_values: Any,
    test_codes: Array,
    test_values: Any,
    kind: Literal["linear", "mlp"] = "mlp",
    seed: int = 0,
) -> float:
    """R²: the share of a number's variance on the test part that codes explain; 0 for the mean, below where worse.

    Args:
        train_codes: (N, D); codes are standardised by these.
        train_values: (N,) numbers.
        test_codes: (M, D).
        test_values: (M,).
        kind: as for `probe`.
        seed: as for `probe`.

    Raises:
        DataError: as for `probe`; or values are not finite, or do not vary.

    Example:
        >>> codes = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> round(regress(codes[:300], 3 * codes[:300, 1], codes[300:], 3 * codes[300:, 1], "linear"), 3)
        1.0
    """
    x, x_test, values = _both(train_codes, train_values, test_codes, test_values, kind)
    y, y_test = (torch.from_numpy(np.asarray(value, np.float64)) for value in values)
    if not (torch.isfinite(y).all() and torch.isfinite(y_test).all()) or min(y.std(), y_test.std()) == 0:
        raise DataError("Expected finite values that vary in both parts; got others. Leave the column out.")
    centre, scale = y.mean(), y.std()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fitted = (_linear if kind == "linear" else _mlp)(x, (y - centre) / scale, 1)
    with torch.no_grad():
        errors = fitted(x_test).squeeze(1) * scale + centre - y_test
    return 1 - float(errors.square().mean() / y_test.var(correction=0))


def cross_regress(codes: Array, values: Any, kind: Literal["linear", "mlp"] = "mlp", seed: int = 0) -> float | None:
    """R² of a probe fitted on each random half of one part and read on the other; the mean of both.

    Returns:
        None where a half has one value only.
    """
    x, y = _part("test", codes, values)
    order = np.random.default_rng(seed).permutation(len(y))
    halves = order[::2], order[1::2]
    if min(len(np.unique(y[half])) for half in halves) < 2:
        return None
    return float(np.mean([regress(x[a], y[a], x[b], y[b], kind, seed) for a, b in (halves, halves[::-1])]))


def _both(
    train_codes: Array, train_labels: Any, test_codes: Array, test_labels: Any, kind: str
) -> tuple[Tensor, Tensor, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Checked codes of both parts, standardised by the training part's, and the labels."""
    if kind not in ("linear", "mlp"):
        raise DataError(f"Expected a kind of probe by name; got {kind!r}. {nearest(kind, ['linear', 'mlp'])}")
    x, labels = _part("train", train_codes, train_labels)
    x_test, test = _part("test", test_codes, test_labels)
    if x.shape[1] != x_test.shape[1]:
        raise DataError(
            f"Expected codes of {x.shape[1]} dimensions in both parts; got {x_test.shape[1]} in the test part."
            " Take both from one level of one model."
        )
    if len(x) < 2:
        raise DataError(f"Expected at least two training codes; got {len(x)}.")
    centre, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    return (x - centre) / scale, (x_test - centre) / scale, (labels, test)


def _part(name: str, codes: Array, labels: Any) -> tuple[Tensor, np.ndarray[Any, Any]]:
    x, y = torch.as_tensor(codes).detach().cpu().double(), np.asarray(labels)
    if x.ndim != 2 or y.shape != (len(x),) or len(x) == 0:
        raise DataError(
            f"Expected {name} codes (N, D) with one label each, (N,); got {tuple(x.shape)} and {y.shape}."
            " Take codes and labels from the same rows."
        )
    if not torch.isfinite(x).all():
        raise DataError(f"Expected finite {name} codes; got NaN or infinity. Has training diverged?")
    return x, y


def _linear(x: Tensor, y: Tensor, num_labels: int) -> nn.Module:
    """Logistic or linear regression with a ridge of one half of the squared weights over the whole training part."""
    model = nn.Linear(x.shape[1], num_labels, dtype=x.dtype)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    blocks = list(_blocks(len(x), num_labels))

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = x.new_zeros(())
        for rows in blocks:
            ridge = model.weight.square().sum() / (2 * len(x)) if rows == blocks[0] else 0.0
            value = _risk(model(x[rows]), y[rows]) * (len(x[rows]) / len(x)) + ridge
            value.backward()
            total += value.detach()
        return total

    optimizer.step(closure)
    return model


def _blocks(rows: int, labels: int) -> Iterator[slice]:
    """Rows of which (rows, labels) numbers fit into memory at once."""
    size = max(1, LOGITS // labels)
    return (slice(start, start + size) for start in range(0, rows, size))


def _mlp(x: Tensor, y: Tensor, num_labels: int) -> nn.Module:
    """Two hidden layers, the weights of the best validation loss."""
    first, second, last = nn.Linear(x.shape[1], HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, num_labels)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    held, rows = torch.randperm(len(x)).tensor_split([max(1, len(x) // 10)])
    x = x.float()
    every = max(CHECK_EVERY, -(-len(rows) // BATCH))
    best, waited, kept = float("inf"), 0, [p.detach().clone() for p in model.parameters()]
    for step, batch in enumerate(islice(_batches(rows), every * MOST_CHECKS), 1):
        optimizer.zero_grad()
        _risk(model(x[batch]), y[batch]).backward()
        optimizer.step()
        if step % every:
            continue
        with torch.no_grad():
            value = _risk(model(x[held]), y[held]).item()
        if value < best:
            best, waited, kept = value, 0, [p.detach().clone() for p in model.parameters()]
        elif (waited := waited + 1) == PATIENCE:
            break
    with torch.no_grad():
        for parameter, value_kept in zip(model.parameters(), kept, strict=True):
            parameter.copy_(value_kept)
    return model.double()


def _risk(output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy for labels; for numbers, half the squared error."""
    if y.is_floating_point():
        return 0.5 * (output.squeeze(1) - y).square().mean()
    return F.cross_entropy(output, y)


def _batches(rows: Tensor) -> Iterator[Tensor]:
    """Shuffled minibatches, epoch after epoch, without end."""
    while True:
        yield from torch.split(rows[torch.randperm(len(rows))], BATCH)
