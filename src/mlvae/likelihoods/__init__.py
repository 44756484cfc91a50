"""Observation models p(x | z): one small class each, all under one contract test.

A likelihood says what the encoder sees of an observation, what shape the decoder's output has, and the density in nats. To
add one: subclass `Likelihood` (or `Features`, where features are independent given z), name it in `LIKELIHOODS`, add
its line to the contract test.
"""

from mlvae.likelihoods.base import Features, Likelihood
from mlvae.likelihoods.bernoulli import Bernoulli
from mlvae.likelihoods.categories import Categorical, DiscretisedLogistic
from mlvae.likelihoods.counts import NegativeBinomial, Poisson
from mlvae.likelihoods.location import Laplace, Normal
from mlvae.likelihoods.mixed import Mixed

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
]

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
