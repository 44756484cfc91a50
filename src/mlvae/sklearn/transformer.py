"""A transformer that learns content and style."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from mlvae.data import GroupedData
from mlvae.errors import DataError, ModelError
from mlvae.model import MLVAE
from mlvae.schema import Feature, Schema
from mlvae.settings import setting
from mlvae.sklearn.rows import Array, in_precision_of, shaped
from mlvae.training import fit

OUTPUTS = {"content": ("content",), "style": ("style",), "both": ("content", "style")}

SCORED = 1024
"""Observations whose bound is estimated at a time."""

SAMPLES = 16
"""Samples of an observation's codes that its bound is the mean of."""


class MLVAETransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """Learns what groups share (content) apart from what is each observation's own (style).

    Args:
        content_dim: dimensions that a group shares.
        style_dim: dimensions of an observation's own.
        output: what `transform` returns: posterior means of "content", "style" or "both".
        shape: of one observation, where rows are flattened arrays; None takes the columns for numbers of a table.
        network: as for `MLVAE`.
        width: likewise.
        likelihood: likewise; None chooses by the data.
        objective: "default", "paper" or "vae" (which has no content).
        independence: weight of what style tells of the group; None takes the objective's, as for the next three.
        identification: weight of naming the group from content.
        content_kl: weight of content's KL.
        style_kl: weight of style's KL.
        epochs: passes over the data; None takes as many as make 4,000 steps.
        lr: the highest learning rate.
        random_state: of weights, order and noise.
        device: "auto", "cpu", "cuda", "mps".
        verbose: show a bar.

    Attributes:
        model_: the trained `MLVAE`.
        history_: what `fit` did.
        n_features_in_: F.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, digit = load_digits(return_X_y=True)
        >>> codes = MLVAETransformer(4, 4, shape=(8, 8), width=16, epochs=1, random_state=0)
        >>> codes.fit(X / 16, groups=digit).transform(X[:3] / 16).shape
        (3, 4)
        >>> codes.get_feature_names_out()
        array(['content_0', 'content_1', 'content_2', 'content_3'], dtype=object)
    """

    # Groups are what this estimator learns from, so it asks for them; what pools at `transform` is another question,
    # and has another name: training codes pooled by group beside test codes that are not would mislead what comes next.
    __metadata_request__fit = {"groups": True}  # noqa: RUF012 (scikit-learn reads it so)

    def __init__(
        self,
        content_dim: int = 16,
        style_dim: int = 16,
        *,
        output: Literal["content", "style", "both"] = "content",
        shape: Sequence[int] | None = None,
        network: str | None = None,
        width: int | None = None,
        likelihood: str | None = None,
        objective: str = "default",
        independence: float | None = None,
        identification: float | None = None,
        content_kl: float | None = None,
        style_kl: float | None = None,
        epochs: int | None = None,
        lr: float = 2e-3,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.content_dim = content_dim
        self.style_dim = style_dim
        self.output = output
        self.shape = shape
        self.network = network
        self.width = width
        self.likelihood = likelihood
        self.objective = objective
        self.independence = independence
        self.identification = identification
        self.content_kl = content_kl
        self.style_kl = style_kl
        self.epochs = epochs
        self.lr = lr
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:  # noqa: N803
        """Trains on observations and their groups.

        Args:
            X: (N, F) numbers; NaN is a value that was not observed.
            y: not looked at.
            groups: (N,) labels. Without them every observation is its own group, and a warning says so.

        Raises:
            DataError: `groups` of another length, or data outside the likelihood's domain.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", ensure_min_samples=2)  # noqa: N806
        self._levels()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        x = X.astype(np.float32)
        schema = None
        if self.shape is None:
            names = getattr(self, "feature_names_in_", [f"x{place}" for place in range(x.shape[1])])
            schema = Schema(tuple(Feature(str(name)) for name in names))
        else:
            x = shaped(x, tuple(self.shape))
        if groups is None:
            warnings.warn(
                "Expected `groups`, a label for each observation; got none, so each is its own group and content"
                " cannot be told from style. Pass fit(X, groups=...); with metadata routing, params={'groups': ...}.",
                UserWarning,
                stacklevel=2,
            )
            groups = np.arange(len(x))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Every group of", UserWarning)
            data = GroupedData.from_arrays(x, np.asarray(groups), name="X", gaps=bool(np.isnan(x).any()), schema=schema)
        chosen = setting(self.objective)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = chosen.model(
                data, content_dim=self.content_dim, style_dim=self.style_dim, network=self.network, width=self.width,
                likelihood=self.likelihood,
            )  # fmt: skip
        objective = chosen.objective(model, data).changed(
            independence=self.independence, identification=self.identification, content=self.content_kl,
            style=self.style_kl,
        )  # fmt: skip
        self.history_ = fit(
            model, data, objective=objective, epochs=self.epochs, lr=self.lr, seed=seed, device=self.device,
            progress=self.verbose,
        )  # fmt: skip
        self.model_ = model
        return self

    def fit_transform(self, X: Any, y: Any = None, groups: Any = None, pool: Any = None) -> Array:  # noqa: N803
        """`fit`, then `transform`."""
        return self.fit(X, y, groups=groups).transform(X, pool=pool)

    def transform(self, X: Any, pool: Any = None) -> Array:  # noqa: N803
        """Codes of observations, whose groups may be new.

        Args:
            X: (N, F).
            pool: (N,) labels of observations that are understood together, by their summed evidence; None understands
                each alone.

        Returns:
            (N, D), posterior means of the levels that `output` names.
        """
        X = self._validated(X)  # noqa: N806
        codes = in_precision_of(X, self.model_).codes(shaped(X, self.model_.shape), pool)
        return np.concatenate([codes[name].mean.cpu().numpy() for name in self._levels()], 1).astype(X.dtype)

    def inverse_transform(self, X: Any) -> Array:  # noqa: N803
        """What the model expects to see for codes, in the data's own units, (N, F).

        Args:
            X: (N, D), as `transform` returns them; a level that `output` leaves out is the prior's mean, zero.
        """
        check_is_fitted(self, "model_")
        codes = np.asarray(X)
        dims = [self.model_.level(name).dim for name in self._levels()]
        if codes.ndim != 2 or codes.shape[1] != sum(dims):
            raise DataError(f"Expected codes of shape (N, {sum(dims)}); got {codes.shape}. Pass what transform made.")
        like = next(self.model_.parameters())
        parts = dict(zip(self._levels(), torch.as_tensor(codes).to(like).split(dims, 1), strict=True))
        rest = {level.name: like.new_zeros(len(codes), level.dim) for level in self.model_.levels}
        x = self.model_.restore(self.model_.pictures({**rest, **parts})).flatten(1).cpu().numpy()
        return x.astype(codes.dtype if codes.dtype.kind == "f" else np.float64)

    def score_samples(self, X: Any) -> Array:  # noqa: N803
        """A lower bound on log p(x) of each observation alone, in nats and the data's own units, (N,).

        From samples of its codes whose noise is the same for every observation and call: scores compare.
        """
        X = self._validated(X)  # noqa: N806
        model = in_precision_of(X, self.model_)
        bound = np.concatenate([_bound(model, X[start : start + SCORED]) for start in range(0, len(X), SCORED)])
        # Densities of standardised columns, brought back to the columns' units: folds scale differently.
        scales = np.array([feature.scale for feature in self.model_.schema.features])
        return bound - (np.log(scales) * ~np.isnan(X)).sum(1) if len(scales) else bound

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """The mean of `score_samples`: nats an observation, without any grouping."""
        return float(self.score_samples(X).mean())

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """The names of what `transform` returns: content_0, ..., style_0, ..."""
        check_is_fitted(self, "model_")
        _check_feature_names_in(self, input_features)
        names = [f"{name}_{place}" for name in self._levels() for place in range(self.model_.level(name).dim)]
        return np.array(names, dtype=object)

    def _levels(self) -> tuple[str, ...]:
        if self.output not in OUTPUTS:
            raise ModelError(f"Expected `output` to be 'content', 'style' or 'both'; got {self.output!r}.")
        return OUTPUTS[self.output]

    def _validated(self, X: Any) -> Array:  # noqa: N803
        check_is_fitted(self, "model_")
        checked: Array = validate_data(
            self, X, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", reset=False
        )
        return checked

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


@torch.no_grad()
def _bound(model: MLVAE, X: Array) -> Array:  # noqa: N803
    """E log p(x | z) - KL of each row alone, in nats on the model's scale, (N,)."""
    x = model.prepare(shaped(X, model.shape))
    codes = model.codes(shaped(X, model.shape))
    bound = -torch.stack([code.kl() for code in codes.values()]).sum(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(SAMPLES):
        sample = {
            name: code.mean + torch.randn(code.mean.shape[1], generator=generator).to(code.mean) / code.precision.sqrt()
            for name, code in codes.items()
        }
        bound = bound + model.likelihood.log_prob(x, model.decode(sample)) / SAMPLES
    values: Array = bound.double().cpu().numpy()
    return values
