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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae import decoding, inference
from mlvae.batch import GroupBatch
from mlvae.calibration import Calibration
from mlvae.errors import DataError, ModelError, nearest
from mlvae.errors import row as named
from mlvae.evidence import READOUTS, Evidence
from mlvae.grouping import Grouping
from mlvae.levels import Level, check_groups, checked
from mlvae.likelihoods import Features, Likelihood, by_name, likelihood_for
from mlvae.networks import LAYOUTS, NETWORKS, Network, beside, default_network, joined
from mlvae.networks.trial import check_decoder, features_of, warn_of_batch_norm
from mlvae.normal import Normal
from mlvae.population import Population
from mlvae.schema import Covariates, Schema

if TYPE_CHECKING:
    from mlvae.data import GroupedData

FITTED = 200_000
"""Observations, evenly spaced, that a likelihood and scales are fitted on."""

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
        **options: Any,
    ) -> Self:
        """The two-level model for a data set: ``content`` shared by its groups, ``style`` an observation's own.

        Other ``levels``, coarse to fine, take their place; the data must be able to tell them apart.

        Without another word the likelihood is, for data in [0, 1] (and for uint8, which is scaled to it), Bernoulli
        where most values lie near the ends and Normal with a scale of 0.25 where they are grey, for a table's columns
        each column's own (see `likelihood_for`), and for the rest Normal with one learned scale. ``content_dim=0``
        leaves only style: a plain VAE.
        """
        sample = data.sample(FITTED)
        schema = data.schema.fitted(sample, data.columns)
        if len(sample) < len(data) and any(feature.unseen for feature in schema.features):
            schema = schema.seeing(data.chunks())
        chosen = options.pop("likelihood", None)
        if not isinstance(chosen, Likelihood):
            chosen = likelihood_for(sample, schema, chosen, _telling(data) if data.gaps or chosen is not None else None)
            if data.gaps and not schema.features and isinstance(chosen, Features):
                chosen.missing = True  # as was said of arrays: what is kept out may have gaps where these have none
        if levels is not None:
            check_groups(
                levels, {level.name: Grouping.from_ids(data.codes(by)) for level in levels if (by := level.by)}
            )
            return cls(data.shape, levels, likelihood=chosen, schema=schema, **options)
        content = [Level("content", content_dim, by=data.grouping_column, readout=readout)] if content_dim else []
        given = ("content",) if style_given_content and content else ()
        levels = [*content, Level("style", style_dim, readout=readout, given=given)]
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

    def prepare(self, x: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Observations as the encoder takes them: floats on the model's device.

        uint8 is scaled to [0, 1], unless the likelihood is of whole numbers.

        Raises:
            DataError: another shape than the model was made for.
        """
        x = torch.as_tensor(x)
        if x.shape[1:] != self.shape:
            raise DataError(
                f"Expected observations of shape {self.shape}, so `x` of shape (N, {', '.join(map(str, self.shape))});"
                f" got {tuple(x.shape)}. Pass the shape that the model was trained on; one observation is x[None]."
            )
        like = next(self.parameters())
        scaled = x.dtype == torch.uint8 and not self.likelihood.whole and not self.schema.features
        x = x.to(like.device).to(like.dtype)
        return self.schema.apply(x.div_(255) if scaled else x)  # in place: bytes were copied

    def restore(self, x: Tensor) -> Tensor:
        """What `prepare` did, taken back: numbers of a table in their own units, pictures in [0, 1] as they are.

        Args:
            x: (N, *shape), as `generate`, `reconstruct` and the like return it.
        """
        return self.schema.restore(x)

    def check(self, x: Tensor, first: int = 0) -> None:
        """Raises DataError where prepared observations are not finite or outside the likelihood's domain.

        NaN is fine where the likelihood knows gaps. Rows are counted from ``first``.
        """
        # A tenth of looking at each number, and NaN where one of them is.
        if x.numel() and not all(math.isfinite(end) for end in x.aminmax()):
            finite = torch.isfinite(x)
            if self.likelihood.missing:
                finite |= torch.isnan(x)
            if not finite.all():
                row, *place = (~finite).nonzero()[0].tolist()
                where = f", column {self.schema.features[place[0]].name!r}," if self.schema.features else ""
                raise DataError(
                    f"Expected finite numbers; {named(first + row)} of `x`{where} has NaN or infinity. Clean it, or"
                    " train with a likelihood that knows gaps (missing=True), as it is made for data that have some."
                )
        self.likelihood.check(x)

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

    def covariates(self, columns: Covariates, n: int) -> Tensor | None:
        """What encoder and decoder are told beside the observations, (N, C); None where the model takes no covariates.

        Args:
            columns: for each covariate by name (N,) values, or one value for all; further columns are passed over.
                Or the numbers (N, C) themselves.
            n: N.

        Raises:
            DataError: a covariate that the model was trained with is missing, or of another length.
        """
        if not self.schema.covariates:
            return None
        if not isinstance(columns, Tensor):
            columns = self.schema.covariate_rows({} if columns is None else columns, n)
        return columns.to(next(self.parameters()))

    def _known(self, covariates: Tensor | None) -> Tensor:
        if covariates is None:
            names = ", ".join(repr(feature.name) for feature in self.schema.covariates)
            raise DataError(
                f"Expected the covariates that the model was trained with ({names}); got none."
                " Pass covariates=data.columns."
            )
        return covariates

    # What a trained model is for: each is one function of inference.py or decoding.py, where it can be read.
    evidence = inference.evidence
    score = inference.score
    codes = inference.codes
    pictures = decoding.pictures
    reconstruct = decoding.reconstruct
    swap = decoding.swap
    interpolate = decoding.interpolate
    generate = decoding.generate


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


def _exact(output: Tensor) -> Tensor:
    """What a network that may compute in half precision made, for densities and evidence: float32 at least."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
