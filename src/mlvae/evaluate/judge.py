"""A judge: a small classifier of real observations, which later says what a made picture shows.

It learns from the training part only and knows nothing of the model that it judges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.errors import DataError
from mlvae.labels import among
from mlvae.networks import NETWORKS, default_network

WIDTHS = {"conv": 16, "mlp": 128}
STEPS = 1200
BATCH = 128
LEARNING_RATE = 3e-3
SHIFT = 2
"""Pixels that a training image moves at most, up or down and sideways."""
CHUNK = 1000
"""Observations judged at a time."""

Array = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier of observations to the labels that it was fitted on; it lives on the CPU.

    Args:
        names: (C,) labels in sorted order.
        encoder: (N, *shape) to features (N, F).
        head: features to logits (N, C).
        shape: of one observation.
        prepare: from observations as they were read to the scale of made ones.

    Example:
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> judge = Judge.fit(x, np.where(x[:, 0] > 0, "right", "left"), seed=0, steps=50)
        >>> judge.name(torch.tensor([[-2.0, 0.0], [2.0, 0.0]])).tolist()
        ['left', 'right']
    """

    names: np.ndarray[Any, Any]
    encoder: nn.Module
    head: nn.Module
    shape: tuple[int, ...]
    prepare: Callable[[Tensor], Tensor]

    @classmethod
    def fit(
        cls,
        x: Array,
        labels: Any,
        seed: int = 0,
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
        steps: int = STEPS,
    ) -> Judge:
        """Learns labels from observations of the training part.

        Args:
            x: (N, *shape). Images are shifted by up to 2 pixels, so that a made picture need not be in its place to
                the pixel.
            labels: (N,), of any sortable type.
            seed: of weights, batches and shifts. The same seed gives the same judge.
            prepare: brings observations to the scale of those that will be judged: `MLVAE.prepare` of the model that
                makes them. None scales uint8 to [0, 1] and takes floats as they are.
            steps: of 128 observations.

        Raises:
            DataError: labels and observations differ in number, or there are not two labels.
        """
        x, y = torch.as_tensor(x), np.asarray(labels)
        _one_label_each(x, y)
        names, index = np.unique(y, return_inverse=True)
        if len(names) < 2:
            raise DataError(f"Expected at least two labels to tell apart; got {len(names)}. Pass another grouping.")
        prepare = prepare or _floats
        shape = tuple(x.shape[1:])
        network = default_network(shape)
        targets = torch.from_numpy(index)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = NETWORKS[network].encoder(shape, WIDTHS[network])
            with torch.no_grad():
                features = encoder(torch.zeros(1, *shape)).shape[1]
            head = nn.Linear(features, len(names))
            parameters = [*encoder.parameters(), *head.parameters()]
            optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            epochs = -(-steps * BATCH // len(x))
            order = torch.cat([torch.randperm(len(x)) for _ in range(epochs)])[: steps * BATCH]
            for rows in order.split(BATCH):
                batch = _floats(prepare(x[rows.to(x.device)]))
                batch = shifted(batch) if network == "conv" else batch
                optimizer.zero_grad()
                F.cross_entropy(head(encoder(batch)), targets[rows]).backward()
                optimizer.step()
                schedule.step()
        for parameter in parameters:
            parameter.requires_grad_(False)
        return cls(names, encoder, head, shape, prepare)

    @torch.no_grad()
    def features(self, x: Array) -> Tensor:
        """What the judge sees in observations (N, *shape) before it names them, (N, F): a space for `generation`.

        As all that it names, they are made ones, or prepared.

        Raises:
            DataError: another shape than the judge was fitted on.
        """
        x = torch.as_tensor(x)
        if x.shape[1:] != self.shape:
            raise DataError(
                f"Expected observations of shape {self.shape}, which the judge was fitted on; got"
                f" {tuple(x.shape[1:])}. Fit the judge on the data that the model was trained on."
            )
        return torch.cat([self.encoder(_floats(chunk)) for chunk in x.split(CHUNK)])

    @torch.no_grad()
    def probabilities(self, x: Array) -> Tensor:
        """(N, C), of each label in the order of ``names``."""
        return torch.softmax(self.head(self.features(x)), 1)

    def name(self, x: Array) -> np.ndarray[Any, Any]:
        """(N,), the likeliest label of each observation."""
        named: np.ndarray[Any, Any] = self.names[self.probabilities(x).argmax(1).numpy()]
        return named

    def accuracy(self, x: Array, labels: Any) -> float:
        """The share of observations (N, *shape), as they were read, whose label (N,) is the judge's.

        Raises:
            DataError: labels and observations differ in number, or a label is none of ``names``.
        """
        x, y = torch.as_tensor(x), np.asarray(labels)
        _one_label_each(x, y)
        self.knows(y)
        named = np.concatenate([self.name(self.prepare(chunk)) for chunk in x.split(CHUNK)])
        return float((named == y).mean())

    def knows(self, labels: Any) -> None:
        """Raises DataError where a label is none of ``names``: a judge can only name what it was shown."""
        y = np.asarray(labels)
        if not (known := among(y, self.names)).all():
            raise DataError(
                f"Expected labels that the judge was fitted on; got {y[~known].tolist()[0]!r}."
                " Fit it on a part with every group, or leave out groups that training never saw."
            )


def shifted(x: Tensor, most: int = SHIFT) -> Tensor:
    """Images (N, ..., H, W), each moved by up to ``most`` pixels either way; border pixels fill the gap."""
    by = torch.randint(-most, most + 1, (2, len(x), 1))
    rows, columns = ((torch.arange(n) + d).clamp(0, n - 1) for n, d in zip(x.shape[-2:], by, strict=True))
    each = torch.arange(len(x))[:, None, None]
    moved = x.movedim((-2, -1), (1, 2))[each, rows[:, :, None], columns[:, None, :]]
    return moved.movedim((1, 2), (-2, -1))


def _floats(x: Tensor) -> Tensor:
    return x.cpu().float() / 255 if x.dtype == torch.uint8 else x.cpu().float()


def _one_label_each(x: Tensor, labels: np.ndarray[Any, Any]) -> None:
    if labels.shape != (len(x),) or len(x) == 0:
        raise DataError(
            f"Expected one label for each of {len(x)} observations, and some of them; got {labels.shape}."
            " Take both from the same rows."
        )
