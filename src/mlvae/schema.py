"""How rows become observations, and what of it was fitted on the training part: it travels with the model.

A table's columns are features of a kind; numbers are standardised, categories coded by a vocabulary. Known covariates
are features of the same kinds, given to encoder and decoder. Images have a size and a mode. `Schema.fitted` takes what
it needs from training data; `MLVAE.prepare` applies it, `MLVAE.restore` takes it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError, nearest

Covariates = Mapping[str, Any] | Tensor | None
"""Known covariates by name, or as the numbers that `Schema.covariate_rows` makes of them."""

KINDS = ("number", "count", "binary", "category")


@dataclass(frozen=True)
class Feature:
    """One column as numbers.

    Args:
        name: of the column.
        kind: "number" (standardised), "count" (whole numbers from 0), "binary" (0 or 1) or "category".
        categories: the vocabulary, in the order of the codes; those that training did not see count as missing.
        mean: of a number, and of a binary covariate, in the training part.
        scale: likewise, its standard deviation.
        unseen: codes that no row of the training part had.
    """

    name: str
    kind: str = "number"
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    unseen: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(
                f"Expected the kind of column {self.name!r}; got {self.kind!r}. {nearest(self.kind, KINDS)}"
            )

    def fitted(self, values: Tensor) -> Feature:
        """The same with what training values (N,) say; NaN is passed over."""
        values = values[~torch.isnan(values)].double()
        if self.kind == "category":
            unseen = sorted(set(range(len(self.categories))) - set(values.long().unique().tolist()))
            return replace(self, unseen=tuple(unseen))
        if self.kind != "number" or not len(values):
            return self
        scale = values.std(correction=0).item()
        return replace(self, mean=values.mean().item(), scale=scale if scale > 0 else 1.0)

    def codes(self, values: Any) -> np.ndarray[Any, Any]:
        """(N,) float32 of raw values: NaN where one is missing, or in no vocabulary.

        Example:
            >>> Feature("site", "category", ("A", "B")).codes(["B", None, "C"])
            array([ 1., nan, nan], dtype=float32)
        """
        if self.kind != "category":
            try:
                numbers = np.asarray(values)
                if numbers.dtype == object:
                    numbers = np.array([np.nan if value is None else value for value in numbers.tolist()], object)
                return numbers.astype(np.float32)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"Expected numbers in column {self.name!r}; {error}. Correct them, or name the column"
                    f" {self.name}:category."
                ) from error
        place = {category: code for code, category in enumerate(self.categories)}
        return np.array([place.get(label(value), np.nan) for value in np.asarray(values).tolist()], np.float32)

    @property
    def dim(self) -> int:
        """How many numbers it is as a covariate."""
        return len(self.categories) if self.kind == "category" else 1


def label(value: Any) -> str:
    """A category's name as vocabularies keep it: whole numbers as such, whatever type a file gave them.

    Example:
        >>> label("ann"), label(3), label(3.0)
        ('ann', '3', '3')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True)
class Schema:
    """How rows become observations.

    Args:
        features: the columns of a table, in the order of an observation's numbers; none where observations are arrays.
        covariates: what is known of each observation beside it, given to encoder and decoder.
        image_size: height and width that pictures were brought to.
        image_mode: "L" (grey) or "RGB".
        image_converted: transparency, 16 bits and CMYK are brought to the mode, as was asked for in training.
    """

    features: tuple[Feature, ...] = ()
    covariates: tuple[Feature, ...] = ()
    image_size: tuple[int, int] | None = None
    image_mode: str | None = None
    image_converted: bool = False

    def fitted(self, x: Tensor, columns: Mapping[str, Any]) -> Schema:
        """The same with means, scales and known categories of training data (N, F) and their columns."""
        features = tuple(feature.fitted(x[:, place]) for place, feature in enumerate(self.features))
        covariates = []
        for feature in self.covariates:
            values = torch.from_numpy(feature.codes(_column(columns, feature.name)))
            feature = feature.fitted(values)
            if feature.kind == "binary":  # what is missing is neither yes nor no
                feature = replace(feature, mean=values.double().nanmean().nan_to_num(0.0).item())
            covariates.append(feature)
        return replace(self, features=features, covariates=tuple(covariates))

    def seeing(self, rows: Iterable[Tensor]) -> Schema:
        """The same with the categories of further training rows (n, F) known: a sample misses rare ones."""
        unseen = {place: set(feature.unseen) for place, feature in enumerate(self.features) if feature.unseen}
        for part in rows:
            for place, codes in unseen.items():
                codes -= set(part[:, place].unique().tolist())
        features = [
            replace(feature, unseen=tuple(sorted(unseen[place]))) if place in unseen else feature
            for place, feature in enumerate(self.features)
        ]
        return replace(self, features=tuple(features))

    @cached_property
    def _scaling(self) -> tuple[Tensor, Tensor]:
        means, scales = ([getattr(feature, name) for feature in self.features] for name in ("mean", "scale"))
        return torch.tensor(means, dtype=torch.float64), torch.tensor(scales, dtype=torch.float64)

    @cached_property
    def _unseen(self) -> dict[int, Tensor]:
        """By the place of a feature, the codes that no row of the training part had."""
        return {
            place: torch.tensor(feature.unseen, dtype=torch.float64)
            for place, feature in enumerate(self.features)
            if feature.unseen
        }

    @cached_property
    def numbers(self) -> Tensor:
        """(F,) bool, which features are numbers, that lie between others."""
        return torch.tensor([feature.kind == "number" for feature in self.features])

    def apply(self, x: Tensor) -> Tensor:
        """Floats (N, F) as the likelihood takes them: numbers standardised, categories unseen in training as gaps."""
        if not self.features:
            return x
        mean, scale = self._scaling
        x = (x - mean.to(x, non_blocking=True)) / scale.to(x, non_blocking=True)
        for place, codes in self._unseen.items():
            strange = torch.isin(x[:, place], codes.to(x, non_blocking=True))
            x[:, place] = x[:, place].masked_fill(strange, torch.nan)
        return x

    def restore(self, x: Tensor) -> Tensor:
        """The reverse of `apply`, but for gaps."""
        if not self.features:
            return x
        mean, scale = self._scaling
        return x * scale.to(x) + mean.to(x)

    @property
    def covariate_dim(self) -> int:
        """C, how many numbers encoder and decoder are given for each observation."""
        return sum(feature.dim for feature in self.covariates)

    def covariate_rows(self, columns: Mapping[str, Any], n: int) -> Tensor:
        """Known covariates as numbers (N, C): categories one-hot, numbers standardised.

        A category that training did not see is all zeros, a missing number the training mean.

        Args:
            columns: for each covariate (N,) values, or one value for all rows.
            n: N.

        Raises:
            DataError: a covariate is not among the columns, has another length, or is infinite.
        """
        parts = []
        for feature in self.covariates:
            values = np.asarray(_column(columns, feature.name))
            values = np.full(n, values) if values.ndim == 0 else values
            if values.shape != (n,):
                raise DataError(f"Expected covariate {feature.name!r} of shape ({n},); got {values.shape}.")
            codes = torch.from_numpy(feature.codes(values))
            if torch.isinf(codes).any():
                raise DataError(
                    f"Expected finite numbers as covariate {feature.name!r}; got infinity. Correct them, or leave them"
                    " out (NaN)."
                )
            if feature.kind == "category":
                codes = torch.where(torch.isnan(codes), -1.0, codes).long()
                hot = codes[:, None] == torch.arange(feature.dim)
                hot[:, list(feature.unseen)] = False
                parts.append(hot.float())
            else:
                parts.append(((codes - feature.mean) / feature.scale).nan_to_num(0.0)[:, None])
        return torch.cat(parts, 1)

    def table(self, x: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """Observations (N, F) in the data's units as columns by name: categories by their words, gaps None or NaN."""
        columns: dict[str, np.ndarray[Any, Any]] = {}
        for feature, values in zip(self.features, x.detach().cpu().double().unbind(1), strict=True):
            if feature.kind == "category":
                # NaN, and the second answer that a likelihood of one word has, are no words.
                known = dict(enumerate(feature.categories))
                columns[feature.name] = np.array([known.get(code) for code in values.tolist()], dtype=object)
            else:
                columns[feature.name] = values.numpy()
        return columns

    def likelihood_columns(self) -> list[str | int]:
        """What `Mixed` is told of each feature."""
        names = {"number": "normal", "count": "negative_binomial", "binary": "bernoulli"}
        return [max(2, len(f.categories)) if f.kind == "category" else names[f.kind] for f in self.features]

    def description(self) -> dict[str, Any]:
        """As JSON values, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_description(cls, saved: Mapping[str, Any]) -> Self:
        """The reverse of `description`."""
        values = dict(saved)
        for name in ("features", "covariates"):
            values[name] = tuple(feature_from(saved) for saved in values.get(name, ()))
        if size := values.get("image_size"):
            values["image_size"] = tuple(size)
        return cls(**values)


def feature_from(saved: Mapping[str, Any]) -> Feature:
    """A feature from JSON, which knows lists where a feature has tuples."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    return Feature(**values)


def vocabulary(values: Sequence[Any] | np.ndarray[Any, Any]) -> tuple[str, ...]:
    """The categories that occur, sorted, without what is missing."""
    return tuple(
        sorted({label(value) for value in np.asarray(values).tolist() if value is not None and value == value})
    )


def as_feature(name: str, values: np.ndarray[Any, Any]) -> Feature:
    """A column as a feature: numbers as they are, 0 and 1 (or booleans) as binary, words by their vocabulary.

    Raises:
        DataError: dates or times.

    Example:
        >>> as_feature("age", np.array([31.5, 20.0])).kind, as_feature("smokes", np.array([True, False])).kind
        ('number', 'binary')
    """
    if values.dtype == object:  # numbers with None among them
        there = [value for value in values.tolist() if value is not None and value == value]
        if there and all(isinstance(value, (int, float, np.number)) for value in there):
            values = np.array(there)
    kind = values.dtype.kind
    if kind in "mM":
        raise DataError(
            f"Expected numbers or words in column {name!r}; got {values.dtype}. Turn times into numbers first (hours"
            f" since"
            " a start, hour of the day), or leave the column out of the features and split by it."
        )
    if kind in "biuf":
        known = values[~np.isnan(values)] if kind == "f" else values
        return Feature(name, "binary" if np.isin(known, (0, 1)).all() else "number")
    return Feature(name, "category", vocabulary(values))


def _column(columns: Mapping[str, Any], name: str) -> Any:
    if name not in columns:
        raise DataError(
            f"Expected the covariate {name!r}, which the model was trained with, among the columns. "
            + nearest(name, columns)
        )
    return columns[name]
