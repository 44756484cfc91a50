"""The Multi-Level VAE: observations vote on every level's latent, votes of a group are summed, the sum is decoded.

    z_l,g ~ N(0, I)                              for each level l and each of its groups g
    x_i   ~ p(x | z_1,g1(i), ..., z_L,gL(i))     one decoder, one likelihood
    q(z_l,g | X_g) ∝ Π_{i in g} t_l(x_i)         times the prior, under the default readout

Reference: Bouchacourt, Tomioka, Nowozin 2018, "Multi-Level Variational Autoencoder", arXiv:1705.08841.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae import decoding, inference, observing
from mlvae.batch import GroupBatch
from mlvae.calibration import Calibration
from mlvae.errors import DataError, ModelError, nearest
from mlvae.evidence import READOUTS, Evidence
from mlvae.grouping import Grouping
from mlvae.levels import Level, check_groups, checked
from mlvae.likelihoods import Likelihood, by_name
from mlvae.networks import LAYOUTS, NETWORKS, Network, beside, default_network, joined
from mlvae.networks.trial import check_decoder, features_of, warn_of_batch_norm
from mlvae.normal import Normal
from mlvae.population import Population
from mlvae.schema import Schema

if TYPE_CHECKING:
    from mlvae.data import GroupedData

OWN = "own"
"""What a network that has no name here is called."""

LOG_PRECISION_BOUND = math.log(1e4)
"""One vote's precision lies between 1e-4 and 1e4, approached smoothly: never zero, never infinite."""


@dataclass(frozen=True, eq=False)
class Latent:
    """What one level makes of a batch of N observations in G groups."""

    votes: Evidence  # (N, D), one an observation
    evidence: Evidence  # (G, D), the votes of each group, summed
    posterior: Normal  # (G, D), read out of all of it
    sample: Tensor  # (N, D), the code that each observation is decoded with
    others: Evidence | None = None  # (N, D), without the observation's own witness, where the sample is drawn from that


class MLVAE(nn.Module):
    """The model: an encoder, a head a level, a decoder, a likelihood.

    Args:
        shape: of one observation.
        levels: coarse to fine; a level's ``given`` names earlier ones.
        network: "mlp", "conv", a `Network` of one's own, or None to choose from the shape.
        width: of the network; None takes the network's own.
        likelihood: "bernoulli", "normal", or a `Likelihood`.
        encoder: any module from (N, *shape), or what the likelihood shows it of an observation, to (N, F), in place of
            the network's.
        decoder: any module from (N, ΣD + C) to the likelihood's (N, *output_shape), in place of the network's.
        schema: how rows become observations, and which covariates (C numbers) encoder and decoder are given; fitted.
        layout: of networks and heads. 1 and 2 are those of models saved before, and for loading them.

    Raises:
        ModelError: levels, network or likelihood do not fit together.

    Example:
        >>> model = MLVAE((8, 8), [Level("content", 4, by="person"), Level("style", 3)])
        >>> evidence = model.evidence(torch.rand(5, 8, 8))        # five observations of one group
        >>> evidence.posterior("content").mean.shape
        torch.Size([1, 4])
        >>> model.generate(2, content=evidence.posterior("content").mean).shape
        torch.Size([2, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: Sequence[Level],
        *,
        network: str | Network | None = None,
        width: int | None = None,
        likelihood: str | Likelihood = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        schema: Schema | None = None,
        layout: Literal[1, 2, 3] = 3,
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ModelError(f"Expected layout 1, 2 or 3; got {layout!r}. A newer mlvae made it: update or retrain.")
        self.layout = layout
        self.shape = tuple(int(s) for s in shape)
        self.schema = schema or Schema()
        if not isinstance(likelihood, (str, Likelihood)):
            raise ModelError(f"Expected a likelihood by name, or a Likelihood; got {type(likelihood).__name__}.")
        self.likelihood = likelihood if isinstance(likelihood, Likelihood) else by_name(likelihood)
        self.levels = checked(levels)
        self.network = OWN if isinstance(network, Network) else network or default_network(self.shape)
        if self.network not in (OWN, *NETWORKS):
            raise ModelError(f"Expected a network by name; got {network!r}. {nearest(self.network, NETWORKS)}")
        pair = network if isinstance(network, Network) else LAYOUTS[layout][self.network]
        self.pair = pair
        if width is not None and width < 1 and width != pair.width:
            raise ModelError(f"Expected a width of at least 1; got {width}. Leave it out for the network's own.")
        self.width = pair.width if width is None else width
        self.replaced = {"encoder": encoder is not None, "decoder": decoder is not None}

        known = self.schema.covariate_dim
        seen = beside(self.likelihood.input_shape(self.shape), known)
        self.encoder = encoder or pair.encoder(seen, self.width)
        features = features_of(self.encoder, seen)
        dims = {level.name: level.dim for level in self.levels}
        self.heads = nn.ModuleDict(
            {
                level.name: nn.Linear(features + sum(dims[name] for name in level.given), 2 * level.dim)
                for level in self.levels
            }
        )
        self.calibrations = nn.ModuleDict({level.name: Calibration(level.dim) for level in self.group_levels})
        self.populations = nn.ModuleDict({level.name: Population(level.dim) for level in self.group_levels})
        made = self.likelihood.output_shape(self.shape)
        codes = sum(dims.values()) + known
        self.decoder = decoder or pair.decoder(made, self.width, codes)
        check_decoder(self.decoder, codes, made)
        warn_of_batch_norm(self.encoder, self.decoder)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Weights from before there were calibrations have at most a temperature; few have a population."""
        for level in self.group_levels:
            if f"{prefix}heads.{level.name}.weight" in state_dict:  # else nothing is said of the level
                place = f"{prefix}populations.{level.name}."
                self.population(level.name).expect(state_dict, place, next(self.parameters()))
        for level in self.levels:
            temperature = state_dict.pop(f"{prefix}temperature_{level.name}", None)
            if level.by is not None:
                for name, value in Calibration(level.dim).named_buffers():
                    state_dict.setdefault(f"{prefix}calibrations.{level.name}.{name}", value)
                if temperature is not None:
                    state_dict[f"{prefix}calibrations.{level.name}.temperature"] = temperature
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @classmethod
    def for_data(
        cls,
        data: GroupedData,
        *,
        content_dim: int = 16,
        style_dim: int = 16,
        readout: str = "product_with_prior",
        style_given_content: bool = False,
        levels: Sequence[Level] | None = None,
        likelihood: str | Likelihood | None = None,
        **options: Any,
    ) -> Self:
        """The two-level model for a data set: ``content`` shared by its groups, ``style`` an observation's own.

        Other ``levels``, coarse to fine, take their place; the data must be able to tell them apart.

        Without another word the likelihood is, for data in [0, 1] (and for uint8, which is scaled to it), Bernoulli
        where most values lie near the ends and Normal with a scale of 0.25 where they are grey, for a table's columns
        each column's own (see `likelihood_for`), and for the rest Normal with one learned scale. ``content_dim=0``
        leaves only style: a plain VAE.
        """
        chosen, schema = observing.fitted(data, likelihood)
        if levels is None:
            content = [Level("content", content_dim, by=data.grouping_column, readout=readout)] if content_dim else []
            given = ("content",) if style_given_content and content else ()
            levels = [*content, Level("style", style_dim, readout=readout, given=given)]
        else:
            groups = {level.name: Grouping.from_ids(data.codes(level.by)) for level in levels if level.by}
            check_groups(levels, groups)
        return cls(data.shape, levels, likelihood=chosen, schema=schema, **options)

    def level(self, name: str) -> Level:
        """The level of that name.

        Raises:
            ModelError: there is none; the nearest name is suggested.
        """
        known = {level.name: level for level in self.levels}
        if name not in known:
            raise ModelError(f"Expected the name of a level of this model; got {name!r}. {nearest(name, known)}")
        return known[name]

    @property
    def group_levels(self) -> tuple[Level, ...]:
        """The levels that groups share, in order."""
        return tuple(level for level in self.levels if level.by is not None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def votes(self, level: str, features: Tensor, given: Sequence[Tensor] = ()) -> Evidence:
        """Each observation's vote on one level's latent.

        Args:
            level: its name.
            features: (N, F), the encoder's output.
            given: samples (N, D) of the levels that this one's head sees, in the order of `Level.given`.

        Returns:
            N votes; of precisions between 1e-4 and 1e4, until the level is calibrated.
        """
        return self.believed(level, self.said(level, features, given))

    def said(self, level: str, features: Tensor, given: Sequence[Tensor] = ()) -> Tensor:
        """What a level's head says of each observation, (N, 2 D): means, and log precisions without a bound.

        The mean is the vote's where groups share the level, and that of the posterior where the observation is alone.
        """
        if given:
            codes = zip(self.level(level).given, given, strict=True)
            features = torch.cat([features, *(self._latent(name, sample) for name, sample in codes)], -1)
        said: Tensor = self.heads[level](features)
        return said

    def said_alone(self, features: Tensor) -> dict[str, Tensor]:
        """What the heads that see no other level say, each (N, 2 D) as `said`: one product for all of them."""
        heads = {level.name: cast(nn.Linear, self.heads[level.name]) for level in self.levels if not level.given}
        weight = torch.cat([head.weight for head in heads.values()])
        bias = torch.cat([head.bias for head in heads.values()])
        said = F.linear(features, weight, bias).split([head.out_features for head in heads.values()], -1)
        return dict(zip(heads, said, strict=True))

    def believed(self, level: str, said: Tensor) -> Evidence:
        """What a level's head says as votes: precisions bounded, and calibrated where groups share the level."""
        mean, raw = _exact(said).chunk(2, -1)
        log_precision = LOG_PRECISION_BOUND * torch.tanh(raw / LOG_PRECISION_BOUND)
        if level not in self.calibrations:
            # What is said is the mean of the posterior. Were it the vote's, the prior would all but hide it where the
            # precision is low, and a dimension that holds little would hardly come to hold more.
            votes = Evidence.votes(mean, torch.exp(log_precision))
            if self.layout == 1 or self.level(level).readout != "product_with_prior":
                return votes
            return replace(votes, information=mean + votes.information)
        return self.calibration(level).votes(mean, log_precision)

    def calibration(self, level: str) -> Calibration:
        """How far the votes on a shared level are to be believed; as the network says, until `calibrate` fits it.

        Raises:
            ModelError: no shared level of that name.
        """
        if level not in self.calibrations:
            raise ModelError(
                f"Expected the name of a level that groups share; got {level!r}. {nearest(level, self.calibrations)}"
            )
        calibration = self.calibrations[level]
        assert isinstance(calibration, Calibration)
        return calibration

    def population(self, level: str) -> Population:
        """Where the groups of a shared level lie; N(0, I), until training has ended with groups kept out.

        Raises:
            ModelError: no shared level of that name.
        """
        self.calibration(level)
        population = self.populations[level]
        assert isinstance(population, Population)
        return population

    def _latent(self, level: str, code: Tensor) -> Tensor:
        return self.calibration(level).latent(code) if level in self.calibrations else code

    def encode(
        self,
        batch: GroupBatch,
        *,
        draw: Literal["group", "observation", "mean"] = "group",
        evidence: Literal["all", "held_out"] = "all",
        generator: torch.Generator | None = None,
    ) -> dict[str, Latent]:
        """From observations to every level's votes, summed evidence, posterior and sample.

        Args:
            batch: observations as `prepare` gives them, and their groupings.
            draw: one sample a group, or one an observation (the paper allows both), or the posterior mean.
            evidence: what the code of an observation may know: ``all`` members of its group (the paper), or
                ``held_out``, all but itself (itself where it is alone), drawn per observation. Where a level is nested
                in this one, all but its group of that: a country is known from the *other* people in it.
            generator: of the noise.

        Raises:
            ModelError: the batch groups by what is no level; the nearest name is suggested.
        """
        for name in batch.groupings:
            self.level(name)
        features = self.features(batch.x, batch.covariates)
        alone = self.said_alone(features)
        latents: dict[str, Latent] = {}
        for level in self.levels:
            grouping = batch.grouping(level.name)
            given = [latents[name].sample for name in level.given]
            votes = self.votes(level.name, features, given) if given else self.believed(level.name, alone[level.name])
            total = votes.sum(grouping)
            readout = READOUTS[level.readout]
            posterior = readout(total)
            others = None
            if evidence == "held_out" and not grouping.singletons:
                others = batch.others(level.name, votes)
                seen = readout(others)
                sample = seen.mean if draw == "mean" else seen.rsample(generator)
            elif draw == "observation":
                sample = posterior[grouping.index].rsample(generator)
            else:
                sample = grouping.expand(posterior.mean if draw == "mean" else posterior.rsample(generator))
            latents[level.name] = Latent(votes, total, posterior, sample, others)
        return latents

    def decode(self, codes: Mapping[str, Tensor], covariates: Tensor | None = None) -> Tensor:
        """The likelihood's output for codes (N, D) of every level and known covariates (N, C): (N, *output_shape)."""
        parts = [self._latent(level.name, codes[level.name]) for level in self.levels]
        if self.schema.covariates:
            parts.append(self._known(covariates))
        return _exact(self.decoder(torch.cat(parts, -1)))

    def features(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """The encoder's output (N, F) for prepared observations and known covariates (N, C)."""
        seen = self.likelihood.embed(x)
        if self.schema.covariates:
            seen = joined(seen, self._known(covariates))
        features: Tensor = self.encoder(seen)
        return features

    def _known(self, covariates: Tensor | None) -> Tensor:
        if covariates is None:
            names = ", ".join(repr(feature.name) for feature in self.schema.covariates)
            raise DataError(
                f"Expected the covariates that the model was trained with ({names}); got none."
                " Pass covariates=data.columns."
            )
        return covariates

    # What goes in and out, and what a trained model is for: each is one function of a file where it can be read.
    prepare = observing.prepare
    check = observing.check
    restore = observing.restore
    covariates = observing.covariates
    evidence = inference.evidence
    score = inference.score
    codes = inference.codes
    pictures = decoding.pictures
    reconstruct = decoding.reconstruct
    swap = decoding.swap
    interpolate = decoding.interpolate
    generate = decoding.generate


def _exact(output: Tensor) -> Tensor:
    """What a network that may compute in half precision made, for densities and evidence: float32 at least."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
