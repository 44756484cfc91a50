"""Tables whose columns are of different kinds: each column its own likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from mlvae.errors import ModelError, nearest
from mlvae.likelihoods.base import Features, Likelihood, has_gaps
from mlvae.likelihoods.bernoulli import Bernoulli
from mlvae.likelihoods.categories import Categorical
from mlvae.likelihoods.counts import NegativeBinomial, Poisson
from mlvae.likelihoods.location import Laplace, Normal

KINDS = ("normal", "laplace", "bernoulli", "poisson", "negative_binomial", "categorical")


class Mixed(Likelihood):
    """Each feature of a vector has a likelihood of its own.

    Args:
        columns: for each of the F features "normal", "laplace" (each with a learned scale), "bernoulli", "poisson",
            "negative_binomial", or the number of categories of a categorical one.
        missing: NaN means "not observed".

    Example:
        >>> mixed = Mixed(["normal", 3, "bernoulli"])
        >>> mixed.output_shape((3,)), mixed.input_shape((3,))        # a location, three logits, one logit
        ((5,), (5,))
    """

    def __init__(self, columns: Sequence[str | int], missing: bool = False) -> None:
        super().__init__()
        self.missing = missing
        self.columns = list(columns)
        places: dict[str, list[int]] = {}
        for place, kind in enumerate(self.columns):
            if isinstance(kind, str) and kind not in KINDS[:-1]:
                raise ModelError(
                    f"Expected a likelihood of one column, or a number of categories; got {kind!r}."
                    f" {nearest(kind, KINDS[:-1])}"
                )
            # Columns of one kind share a module; categories differ in number, so each has its own.
            places.setdefault(kind if isinstance(kind, str) else f"categorical_{place}", []).append(place)
        if not places:
            raise ModelError("Expected at least one column; got none.")
        self.places = list(places.values())
        self.parts = nn.ModuleDict({name: self._part(name, where) for name, where in places.items()})
        self.sizes = [math.prod(self._of(part).output_shape((len(where),))) for part, where in self._pairs()]
        # Lists of columns would be sent to a GPU anew each time, and waited for.
        for number, where in enumerate(self.places):
            self.register_buffer(f"columns_{number}", torch.tensor(where), persistent=False)
        order = torch.tensor([place for where in self.places for place in where]).argsort()
        self.register_buffer("order", order, persistent=False)

    @classmethod
    def for_data(cls, x: Tensor) -> Self:
        return cls(["normal"] * x.shape[1], missing=has_gaps(x))

    def _part(self, name: str, where: list[int]) -> Features:
        shape = (len(where),)
        if name.startswith("categorical"):
            return Categorical(int(self.columns[where[0]]), missing=self.missing)
        if name == "negative_binomial":
            return NegativeBinomial(shape, missing=self.missing)
        if name in ("normal", "laplace"):
            scattered = Normal if name == "normal" else Laplace
            return scattered("per_feature", shape, missing=self.missing)
        return Bernoulli(missing=self.missing) if name == "bernoulli" else Poisson(missing=self.missing)

    def _pairs(self) -> list[tuple[nn.Module, list[int]]]:
        return list(zip(self.parts.values(), self.places, strict=True))

    @staticmethod
    def _of(part: nn.Module) -> Features:
        assert isinstance(part, Features)
        return part

    def _columns(self, x: Tensor) -> list[tuple[Features, Tensor]]:
        """Each part, and the columns (N, F) that it stands for."""
        return [
            (self._of(part), x.index_select(1, self.get_buffer(f"columns_{number}")))
            for number, part in enumerate(self.parts.values())
        ]

    def _shares(self, output: Tensor) -> list[tuple[Features, Tensor]]:
        """Each part, and its share of the decoder's output."""
        result = []
        for (module, where), share in zip(self._pairs(), output.split(self.sizes, 1), strict=True):
            part = self._of(module)
            result.append((part, share.unflatten(1, part.output_shape((len(where),)))))
        return result

    def check(self, x: Tensor) -> None:
        for part, values in self._columns(x):
            part.check(values)

    def input_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self._fits(shape)
        return (sum(math.prod(self._of(part).input_shape((len(where),))) for part, where in self._pairs()),)

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat([part.embed(values).flatten(1) for part, values in self._columns(x)], 1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self._fits(shape)
        return (sum(self.sizes),)

    def _fits(self, shape: tuple[int, ...]) -> None:
        if shape != (len(self.columns),):
            raise ModelError(f"Expected observations of {len(self.columns)} columns; got the shape {shape}.")

    def unordered(self, shape: tuple[int, ...]) -> Tensor:
        self._fits(shape)
        return torch.tensor([not isinstance(kind, str) for kind in self.columns])

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        pairs = zip(self._columns(x), self._shares(output), strict=True)
        return torch.stack([part.log_prob(values, share) for (part, values), (_, share) in pairs]).sum(0)

    def mean(self, output: Tensor) -> Tensor:
        return self._gathered([part.mean(share) for part, share in self._shares(output)])

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self._gathered([part.sample(share, generator) for part, share in self._shares(output)])

    def _gathered(self, values: list[Tensor]) -> Tensor:
        """Parts in the order of the columns."""
        return torch.cat(values, 1).index_select(1, self.get_buffer("order"))

    def settings(self) -> dict[str, Any]:
        return {"columns": self.columns, **({"missing": True} if self.missing else {})}
