"""Observation models p(x | z): one small class each, all under one contract test.

A likelihood says what the encoder sees of an observation, what shape the decoder's output has, and the density in
nats. To add one: subclass `Likelihood` (or `Features`, where features are independent given z), name it in
`LIKELIHOODS`, add its line to the contract test.
"""

import torch
from torch import Tensor

from mlvae.errors import ModelError, nearest
from mlvae.likelihoods.base import Features, Likelihood, observed
from mlvae.likelihoods.bernoulli import Bernoulli
from mlvae.likelihoods.categories import Categorical, DiscretisedLogistic
from mlvae.likelihoods.counts import NegativeBinomial, Poisson
from mlvae.likelihoods.location import Laplace, Normal
from mlvae.likelihoods.mixed import Mixed
from mlvae.schema import Schema

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "DiscretisedLogistic",
    "Features",
    "Laplace",
    "Likelihood",
    "Mixed",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "by_name",
    "likelihood_for",
]

SEEN = 10_000
"""Observations, about, that starting values are taken from."""

GREY = 0.2
"""Pixels whose mean distance from the nearer of 0 and 1 is larger are grey: there Bernoulli hardly pays for detail."""

GREY_SCALE = 0.25
"""Their standard deviation. A learned one makes an image worth thousands of nats, beside which no penalty counts."""

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "discretised_logistic": DiscretisedLogistic,
    "laplace": Laplace,
    "mixed": Mixed,
    "negative_binomial": NegativeBinomial,
    "normal": Normal,
    "poisson": Poisson,
}


def by_name(name: str) -> Likelihood:
    """The likelihood of that name, where it needs no arguments.

    Raises:
        ModelError: there is none, or it needs arguments.
    """
    kind = _kind(name)
    try:
        return kind()
    except TypeError as error:
        raise ModelError(
            f"Expected a likelihood that needs no arguments; {name!r} does. Pass the object, or use MLVAE.for_data,"
            " which takes them from the data."
        ) from error


def _kind(name: str) -> type[Likelihood]:
    if name not in LIKELIHOODS:
        raise ModelError(f"Expected a likelihood by name; got {name!r}. {nearest(name, LIKELIHOODS)}")
    return LIKELIHOODS[name]


def likelihood_for(
    sample: Tensor, schema: Schema, name: str | type[Likelihood] | None = None, telling: Tensor | None = None
) -> Likelihood:
    """A likelihood made for data: its sizes and starting values are theirs.

    Where nothing is said of the columns, values in [0, 1] (uint8 is scaled to it, unless the likelihood asks for whole
    numbers) get Bernoulli where most lie near the ends and Normal with a scale of 0.25 where they are grey, all others
    Normal with one learned scale. Those two are about the mean observation (``centred``).

    Args:
        sample: (N, *shape) of the training part, as it was read.
        schema: fitted; a table's columns say what they are.
        name: of a likelihood, or its class; None chooses. A table of numbers gets Normal with a scale each, one of
            counts the negative binomial with library size, any other `Mixed`. Categories are never without gaps: new
            data may have words that training did not meet.
        telling: (M, *shape), further rows that a sample may have missed: with a gap, with the largest category.
    """
    unit = sample.dtype == torch.uint8 or not bool(((sample < 0) | (sample > 1)).any())
    sample = sample[:: max(1, len(sample) // SEEN)]
    kinds = {feature.kind for feature in schema.features}
    asked = _kind(name) if isinstance(name, str) else name
    if telling is not None and ((asked and asked.whole) or bool(telling.isnan().any())):
        sample = torch.cat([sample, telling])
    scaled = sample.dtype == torch.uint8 and not (asked and asked.whole) and not schema.features
    x = schema.apply(sample / 255 if scaled else sample.to(torch.get_default_dtype()))
    if asked is not None and not (asked is Mixed and kinds):
        return asked.for_data(x)
    if kinds == {"count"} and name is None:
        return LIKELIHOODS["negative_binomial"].for_data(x)
    if kinds:
        gaps = "category" in kinds or bool(torch.isnan(x).any())
        if kinds == {"number"} and name is None:
            return Normal("per_feature", tuple(x.shape[1:]), missing=gaps)
        return Mixed(schema.likelihood_columns(), missing=gaps)
    if not unit:
        return Normal.for_data(x)
    values = observed(x)
    if torch.minimum(values, 1 - values).mean() > GREY:
        return Normal.for_data(x, GREY_SCALE)
    return Bernoulli.for_data(x)
