"""A classifier that names groups by evidence, and learns of new ones by adding to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from mlvae.errors import ModelError, nearest
from mlvae.evidence import Evidence
from mlvae.group_evidence import GroupEvidence
from mlvae.model import MLVAE
from mlvae.sklearn.rows import Array, in_precision_of, shaped
from mlvae.sklearn.transformer import MLVAETransformer

SCORES = 2**20
"""Probabilities that `predict` holds at a time: 8 MiB."""


class MLVAEIdentifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # likewise
    """Names the group of observations by exact Bayes factors against a gallery of evidence; groups may be new.

    Args:
        encoder: what understands observations: a trained `MLVAE` or a fitted `MLVAETransformer` in scikit-learn's
            `FrozenEstimator`, which stay as they are; or an `MLVAETransformer`, a copy of which `fit` trains with the
            gallery's labels as groups. None takes an `MLVAETransformer` as it comes.
        new: prior probability that an observation is of none of the gallery's groups.
        unknown: what `predict` calls those, where ``new`` is above zero; of the labels' type.
        level: whose groups; None takes the first level that groups share.

    Attributes:
        model_: the `MLVAE` in use.
        gallery_: evidence on every group; it adds.
        classes_: labels, sorted, ``unknown`` among them where ``new`` is above zero.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, digit = load_digits(return_X_y=True)
        >>> encoder = MLVAETransformer(4, 4, shape=(8, 8), width=16, epochs=1, random_state=0)
        >>> who = MLVAEIdentifier(encoder).fit(X[:500] / 16, digit[:500])
        >>> who = who.partial_fit(X[500:600] / 16, digit[500:600])          # more evidence, no training
        >>> who.predict_proba(X[600:604] / 16).shape
        (4, 10)
    """

    def __init__(self, encoder: Any = None, *, new: float = 0.0, unknown: Any = -1, level: str | None = None) -> None:
        self.encoder = encoder
        self.new = new
        self.unknown = unknown
        self.level = level

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Makes the gallery; trains first where ``encoder`` is not trained.

        Args:
            X: (N, F).
            y: (N,) labels of the groups.
        """
        X, y = self._pairs(X, y, reset=True)  # noqa: N806
        self.model_ = self._encoder(X, y)
        self._level()  # told before observations are encoded
        self.gallery_ = self._evidence(X, y)
        self._name()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:  # noqa: N803
        """Adds evidence to the gallery, on groups it has or new ones; nothing is trained, unless it is the first call.

        Args:
            X: (N, F).
            y: (N,) labels.
            classes: further labels, which stand in the gallery without evidence until some comes.
        """
        if not hasattr(self, "gallery_"):
            self.fit(X, y)
        else:
            X, y = self._pairs(X, y, reset=False)  # noqa: N806
            self.gallery_ = self.gallery_ + self._evidence(X, y)
        if classes is not None:
            labels = np.unique(classes)
            levels = {name: Evidence.empty(len(labels), one.dim) for name, one in self.gallery_.levels.items()}
            empty = GroupEvidence(levels, self.gallery_.readouts, dict.fromkeys(levels, labels))
            self.gallery_ = self.gallery_ + empty
        self._name()
        return self

    def predict_proba(self, X: Any, pool: Any = None) -> Array:  # noqa: N803
        """Probabilities of every group in `classes_`, (N, K).

        Args:
            X: (N, F).
            pool: (N,) labels of observations known to be of one group, which are named by their summed evidence; None
                names each alone.
        """
        asked, place = self._asked(X, pool)
        rows: Array = self._probabilities(asked)[place]
        return rows

    def predict(self, X: Any, pool: Any = None) -> Array:  # noqa: N803
        """The likeliest group of each observation, or ``unknown``: (N,)."""
        asked, place = self._asked(X, pool)
        level, step = self._level(), max(1, SCORES // len(self.classes_))
        # Probabilities of all observations and groups at once may be more than memory holds.
        best = [
            self._probabilities(replace(asked, levels={level: part})).argmax(1)
            for part in (asked.levels[level][start : start + step] for start in range(0, len(asked.count(level)), step))
        ]
        named: Array = self.classes_[np.concatenate(best)[place]]
        return named

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _encoder(self, X: Array, y: Array) -> MLVAE:  # noqa: N803
        from sklearn.frozen import FrozenEstimator

        given = MLVAETransformer() if self.encoder is None else self.encoder
        if isinstance(given, MLVAE):
            return given
        if isinstance(given, FrozenEstimator) and isinstance(getattr(given, "model_", None), MLVAE):
            model: MLVAE = given.model_
            return model
        if not isinstance(given, MLVAETransformer):
            raise ModelError(
                f"Expected `encoder` to be an MLVAE, an MLVAETransformer or FrozenEstimator(fitted transformer); got"
                f" {type(given).__name__}."
            )
        self._level(["content"])  # which is what it trains
        trained: MLVAE = clone(given).fit(X, groups=y).model_
        return trained

    def _pairs(self, X: Any, y: Any, reset: bool) -> tuple[Array, Array]:  # noqa: N803
        from sklearn.utils.multiclass import check_classification_targets

        X, y = validate_data(  # noqa: N806
            self, X, y, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", reset=reset
        )
        y = column_or_1d(y)
        check_classification_targets(y)
        return X, y

    def _asked(self, X: Any, pool: Any) -> tuple[GroupEvidence, Array]:  # noqa: N803
        """The evidence of each pool, and (N,) which of them an observation is in."""
        check_is_fitted(self, "gallery_")
        self._level()  # told before observations are encoded
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", reset=False)  # noqa: N806
        pool = np.arange(len(X)) if pool is None else np.asarray(pool)
        return self._evidence(X, pool), np.unique(pool, return_inverse=True)[1]

    def _probabilities(self, asked: GroupEvidence) -> Array:
        """Of every group in `classes_`, a row for each that is asked."""
        found = asked.identify(self.gallery_, self._level(), new=self.new).numpy()
        columns: Array = found[:, self._order] if self.new > 0 else found[:, :-1]
        return columns

    def _evidence(self, X: Array, labels: Array) -> GroupEvidence:  # noqa: N803
        x, model = shaped(X, self.model_.shape), in_precision_of(X, self.model_)
        return model.evidence(x, dict.fromkeys((level.name for level in self.model_.group_levels), labels))

    def _level(self, known: Sequence[str] = ()) -> str:
        known = known or [level.name for level in self.model_.group_levels]
        if self.level is not None and self.level not in known:
            raise ModelError(
                f"Expected `level` as one that groups share in this model; got {self.level!r}."
                f" {nearest(str(self.level), known)}"
            )
        return self.level or known[0]

    def _name(self) -> None:
        labels = np.asarray(self.gallery_.groups[self._level()])
        if not self.new > 0:
            self.classes_ = labels
            return
        unknown = np.asarray([self.unknown])
        if labels.dtype.kind == "u":  # of which -1 is none
            labels = labels.astype(np.int64)
        if (unknown.dtype.kind in "US") != (labels.dtype.kind in "USO") or self.unknown in labels:
            raise ModelError(
                f"Expected `unknown` to be a label of the type of {labels[0]!r} that no group has; got"
                f" {self.unknown!r}. For example unknown='none' beside names."
            )
        self.classes_, self._order = np.unique(np.concatenate([labels, unknown.astype(labels.dtype.type)]), True)
