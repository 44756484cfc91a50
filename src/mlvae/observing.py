"""Observations on their way into a model and out of it: on its scale, within its likelihood's domain, back again.

Each function whose first argument is the model is also a method of `MLVAE`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError
from mlvae.errors import row as named
from mlvae.likelihoods import Features, Likelihood, likelihood_for
from mlvae.schema import Covariates, Schema

if TYPE_CHECKING:
    from mlvae.data import GroupedData
    from mlvae.model import MLVAE

FITTED = 200_000
"""Observations, evenly spaced, that a likelihood and scales are fitted on."""


def fitted(data: GroupedData, likelihood: str | Likelihood | None) -> tuple[Likelihood, Schema]:
    """What a model for a data set takes observations for: the likelihood, chosen if none is given, and the schema."""
    sample = data.sample(FITTED)
    schema = data.schema.fitted(sample, data.columns)
    if len(sample) < len(data) and any(feature.unseen for feature in schema.features):
        schema = schema.seeing(data.chunks())
    if isinstance(likelihood, Likelihood):
        return likelihood, schema
    telling = _telling(data) if data.gaps or likelihood is not None else None
    chosen = likelihood_for(sample, schema, likelihood, telling)
    if data.gaps and not schema.features and isinstance(chosen, Features):
        chosen.missing = True  # as was said of arrays: what is kept out may have gaps where these have none
    return chosen, schema


def prepare(model: MLVAE, x: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Observations as the encoder takes them: floats on the model's device.

    uint8 is scaled to [0, 1], unless the likelihood is of whole numbers.

    Raises:
        DataError: another shape than the model was made for.
    """
    x = torch.as_tensor(x)
    if x.shape[1:] != model.shape:
        raise DataError(
            f"Expected observations of shape {model.shape}, so `x` of shape (N, {', '.join(map(str, model.shape))});"
            f" got {tuple(x.shape)}. Pass the shape that the model was trained on; one observation is x[None]."
        )
    like = next(model.parameters())
    scaled = x.dtype == torch.uint8 and not model.likelihood.whole and not model.schema.features
    x = x.to(like.device).to(like.dtype)
    return model.schema.apply(x.div_(255) if scaled else x)  # in place: bytes were copied


def restore(model: MLVAE, x: Tensor) -> Tensor:
    """What `prepare` did, taken back: numbers of a table in their own units, pictures in [0, 1] as they are.

    Args:
        x: (N, *shape), as `generate`, `reconstruct` and the like return it.
    """
    return model.schema.restore(x)


def check(model: MLVAE, x: Tensor, first: int = 0) -> None:
    """Raises DataError where prepared observations are not finite or outside the likelihood's domain.

    NaN is fine where the likelihood knows gaps. Rows are counted from ``first``.
    """
    # A tenth of looking at each number, and NaN where one of them is.
    if x.numel() and not all(math.isfinite(end) for end in x.aminmax()):
        finite = torch.isfinite(x)
        if model.likelihood.missing:
            finite |= torch.isnan(x)
        if not finite.all():
            row, *place = (~finite).nonzero()[0].tolist()
            where = f", column {model.schema.features[place[0]].name!r}," if model.schema.features else ""
            raise DataError(
                f"Expected finite numbers; {named(first + row)} of `x`{where} has NaN or infinity. Clean it, or"
                " train with a likelihood that knows gaps (missing=True), as it is made for data that have some."
            )
    model.likelihood.check(x)


def covariates(model: MLVAE, columns: Covariates, n: int) -> Tensor | None:
    """What encoder and decoder are told beside the observations, (N, C); None where the model takes no covariates.

    Args:
        columns: for each covariate by name (N,) values, or one value for all; further columns are passed over.
            Or the numbers (N, C) themselves.
        n: N.

    Raises:
        DataError: a covariate that the model was trained with is missing, or of another length.
    """
    if not model.schema.covariates:
        return None
    if not isinstance(columns, Tensor):
        columns = model.schema.covariate_rows({} if columns is None else columns, n)
    return columns.to(next(model.parameters()))


def _telling(data: GroupedData) -> Tensor:
    """Rows (M, *shape) that a sample may miss: the first with a gap, and that with the largest value."""
    found = data.x[:0]
    for part in data.chunks():
        rows = torch.cat([found, part])
        values = rows.flatten(1)
        gaps = values.isnan().any(1).nonzero()[:1, 0]
        largest = (
            values.nan_to_num(-torch.inf).amax(1).argmax() if values.is_floating_point() else values.amax(1).argmax()
        )
        found = rows[torch.cat([gaps, largest[None]]).unique()]
    return found
