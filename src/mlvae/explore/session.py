"""What the page can do with a trained model: plain calls of `inference`, with the Python lines that do the same."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.data import GroupedData
from mlvae.depict import Depiction
from mlvae.errors import DataError, nearest
from mlvae.explore.uploads import observations
from mlvae.model import MLVAE
from mlvae.normal import Normal

MOST = 64
"""Observations of a tray, or of a sheet."""

UPLOADS = 200
"""Uploaded observations that a session holds."""

GALLERY = 50
"""Members, at most, that speak for each known group."""

SPEAKING = 100_000
"""And for all of them together, but for one each."""

LISTED = 1000
"""Groups that the page is told of at a time; others are found by a part of their name."""


@dataclass(frozen=True, eq=False)
class Made:
    """Pictures that the model made: (N, *shape) on its own scale, and the Python lines that make them again."""

    x: Tensor
    python: str


@dataclass(frozen=True)
class Known:
    """A group of the data, or None for "none of these", and how likely it is that one."""

    group: str | None
    probability: float


class Session:
    """A trained model and the data that it is explored with.

    Observations are named by their row in the data; those that came by upload go on counting after the last row.

    Args:
        model: trained.
        data: what is picked from, and whose groups are known.
        run: how the Python lines name the run.
        source: how they name the data.
        split: the arguments of `GroupedData.split` whose second part these data are; None where they are all of it.
        reading: further arguments of `mlvae.read` that they were read with.
    """

    def __init__(
        self,
        model: MLVAE,
        data: GroupedData,
        *,
        run: str = "run",
        source: str = "data",
        split: Mapping[str, Any] | None = None,
        reading: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.model = model.eval()
        self.data = data
        self.run, self.source, self.split, self.reading = run, source, split, reading
        self.shown = Depiction.of(model, data)
        levels = model.group_levels
        self.by = (levels[0].by if levels else None) or data.by
        self.labels: np.ndarray[Any, Any] = data.column(self.by) if self.by else np.zeros(len(data), int)
        self.names, group, sizes = np.unique(self.labels, return_inverse=True, return_counts=True)
        self.added: list[Tensor] = []
        order = np.random.default_rng(0).permutation(len(data))
        order = order[np.argsort(group[order], kind="stable")]
        self.members = dict(zip(map(str, self.names), np.split(order, np.cumsum(sizes)[:-1]), strict=True))
        self._gallery: Any = None

    def about(self) -> dict[str, Any]:
        """What the page is told at the start."""
        return {
            "data": self.data.name,
            "by": self.by if self.by is None or isinstance(self.by, str) else " and ".join(self.by),
            "observations": len(self.data),
            "groups": self.groups(),
            "total": len(self.members),
            "levels": [{"name": v.name, "dim": v.dim, "shared": v.by is not None} for v in self.model.levels],
            "kind": self.shown.kind,
            "uploads": self.uploads,
            "suffix": self.shown.suffix,
            "identifies": self.identifies,
        }

    @property
    def uploads(self) -> dict[str, str] | None:
        """What the page says of observations of the user's own; None where it takes none: they have no covariates."""
        if self.model.schema.covariates:
            return None
        if self.shown.kind == "image":
            note = "Cut at the middle to the model's proportions, and resized."
            return {"what": "Your own pictures (PNG, JPEG)", "accept": "image/png,image/jpeg", "note": note}
        rows = {"what": "Your own rows (CSV, Parquet, .npz, .npy)", "accept": ".csv,.tsv,.parquet,.npz,.npy"}
        if self.shown.kind == "table":
            names = ", ".join(self.shown.names[:12]) + (", …" if len(self.shown.names) > 12 else "")
            return {**rows, "note": f"A row an observation, columns by name: {names}."}
        size = " x ".join(map(str, self.model.shape))
        many = "a row an observation" if len(self.model.shape) == 1 else "a row a step, a column a channel"
        return {**rows, "note": f"Arrays of {size} numbers, alone or one after another; in a table {many}."}

    @property
    def identifies(self) -> bool:
        """Whether a Bayes factor says which group a tray is of."""
        levels = self.model.group_levels
        return bool(levels) and levels[0].readout == "product_with_prior"

    def groups(self, part: str = "") -> list[dict[str, Any]]:
        """The first groups in whose names a text occurs, in capitals or not; before them the one that it names."""
        names = (name for name in self.members if part.lower() in name.lower() and name != part)
        found = islice(chain([part] if part in self.members else [], names), LISTED)
        return [{"name": name, "members": len(self.members[name])} for name in found]

    def pick(self, group: str, start: int = 0, count: int = 12) -> list[int]:
        """Rows of some members of a group, in a fixed random order.

        Raises:
            DataError: no such group.
        """
        if group not in self.members:
            raise DataError(
                f"Expected a group of the data; got {group!r}. {nearest(group, islice(self.members, LISTED))}"
            )
        return [int(row) for row in self.members[group][start : start + min(count, MOST)]]

    def upload(self, content: bytes) -> dict[str, Any]:
        """Takes a file of the user's own: the numbers of its observations, and how many of their values are missing.

        Raises:
            DataError: it is too large, damaged or not what the model takes, or there are too many.
        """
        if self.uploads is None:
            raise DataError("Expected a model without covariates to upload to; this one has some. Pick from its data.")
        rows = self.add(observations(content, self.model, self.shown))
        taken = torch.stack(self.added[-len(rows) :])
        return {"rows": rows, "missing": int(torch.isnan(taken).sum())}

    def add(self, x: Tensor) -> list[int]:
        """Takes observations (N, *shape) on, all or none; returns their numbers. They are kept in memory only.

        Raises:
            DataError: there are too many, or the model does not take them.
        """
        if len(self.added) + len(x) > UPLOADS:
            raise DataError(
                f"Expected at most {UPLOADS} uploads; got {len(x)} after {len(self.added)}. Start the page again to go"
                " on."
            )
        x = self.model.prepare(x)
        self.model.check(x)
        first = len(self.data) + len(self.added)
        self.added.extend(x)
        return list(range(first, first + len(x)))

    def observations(self, rows: Sequence[int]) -> Tensor:
        """(N, *shape) of rows: floats in the data's own units.

        Raises:
            DataError: there is none, too many, or one does not exist.
        """
        if not 0 < len(rows) <= MOST:
            raise DataError(f"Expected 1 to {MOST} observations; got {len(rows)}. Pick some, or fewer.")
        known = len(self.data)
        if wrong := [row for row in rows if not 0 <= row < known + len(self.added)]:
            raise DataError(f"Expected rows below {known + len(self.added)}; got {wrong[0]}. Pick it again.")
        # Uploads are floats and data may be bytes: prepared, they are alike; restored, they can be prepared again.
        x = [self.model.prepare(self.data.x[[row]])[0] if row < known else self.added[row - known] for row in rows]
        return self.model.restore(torch.stack(x))

    def picture(self, row: int) -> tuple[str, bytes]:
        """One observation to look at: its type and bytes."""
        return self.shown.file(self.model.prepare(self.observations([row]))[0].cpu())

    def posterior(self, rows: Sequence[int]) -> dict[str, Any]:
        """What the tray's observations, taken as one group, say about each shared level.

        Args:
            rows: none gives the prior.

        Returns:
            The number of votes and, by level, mean and standard deviation of each dimension and the mean variance.
        """
        found: dict[str, Any] = {"count": len(rows), "levels": {}}
        for name, normal in self._posteriors(rows).items():
            found["levels"][name] = {
                "mean": normal.mean[0].tolist(),
                "sd": normal.variance[0].sqrt().tolist(),
                "variance": normal.variance.mean().item(),
                "kl": normal.kl()[0].item(),
            }
        return found

    def expected(self, rows: Sequence[int], count: int = 4, seed: int = 0) -> Made:
        """New observations of the tray's group, its levels at their posterior means, the rest drawn."""
        fixed = {name: normal.mean[0].float() for name, normal in self._posteriors(rows).items()}
        codes = (
            "evidence = model.evidence(x, covariates=known)",
            "codes = {level.name: evidence.posterior(level.name).mean[0].float() for level in model.group_levels}",
        )
        prior = ("codes = {level.name: [0.0] * level.dim for level in model.group_levels}",)
        return Made(
            self.model.generate(count, seed=seed, covariates=self._told([*rows, 0][:1] * count), **fixed).cpu(),
            self._python(
                rows,
                *(codes if rows and self.model.group_levels else prior),
                f"made = model.generate({count}, seed={seed}, covariates=told.expand({count}, -1), **codes)",
            ),
        )

    def swap(self, a: int, b: int, levels: Sequence[str] | None = None) -> Made:
        """What ``a`` is, in the manner of ``b``."""
        x = self.observations([a, b])
        told = self._told([a]), self._told([b])
        made = self.model.swap(x[:1], x[1:], levels, told)
        chosen = "" if levels is None else f", levels={list(levels)}"
        return Made(
            made.cpu(),
            self._python([a, b], f"made = model.swap(x[:1], x[1:]{chosen}, covariates=(known[:1], known[1:]))"),
        )

    def between(self, a: int, b: int, share: float, levels: Sequence[str] | None = None) -> Made:
        """A point on the way from ``a`` (0) to ``b`` (1)."""
        share = _within(share, 0, 1)
        x = self.observations([a, b])
        codes = self.model.codes(x, covariates=self._told([a, b]))
        moving = (
            [level.name for level in self.model.levels]
            if levels is None
            else [self.model.level(n).name for n in levels]
        )
        means = {}
        for name, code in codes.items():
            first, last = code.mean[:1], code.mean[1:] if name in moving else code.mean[:1]
            means[name] = first + share * (last - first)
        made = self.model.pictures(means, self._told([a]))
        return Made(
            made.cpu(),
            self._python(
                [a, b],
                "codes = model.codes(x, covariates=known)",
                f"moving, share = {moving}, {share!r}",
                "path = {n: c.mean[:1] + share * (n in moving) * (c.mean[1:] - c.mean[:1]) for n, c in codes.items()}",
                "made = model.pictures(path, told)",
            ),
        )

    def walk(self, row: int, level: str, dimension: int, value: float) -> Made:
        """The observation with one dimension of one level set to a value; the prior's standard deviation is 1."""
        chosen = self.model.level(level)
        if not 0 <= dimension < chosen.dim:
            raise DataError(f"Expected a dimension of {level!r} below {chosen.dim}; got {dimension}.")
        value = _within(value, -6, 6)
        codes = {
            k: code.mean.clone()
            for k, code in self.model.codes(self.observations([row]), None, self._told([row])).items()
        }
        codes[level][:, dimension] = value
        made = self.model.pictures(codes, self._told([row]))
        return Made(
            made.cpu(),
            self._python(
                [row],
                "codes = {name: code.mean.clone() for name, code in model.codes(x, covariates=known).items()}",
                f"codes[{level!r}][:, {dimension}] = {value!r}",
                "made = model.pictures(codes, told)",
            ),
        )

    def generate(self, count: int = 8, seed: int = 0, row: int | None = None, keep: str | None = None) -> Made:
        """New observations; with ``row`` and ``keep``, with that level's code of that observation."""
        if not 0 < count <= MOST:
            raise DataError(f"Expected 1 to {MOST} pictures; got {count}.")
        if row is None or keep is None:
            made = self.model.generate(count, seed=seed, covariates=self._told([0] * count))
            return Made(
                made.cpu(),
                self._python([], f"made = model.generate({count}, seed={seed}, covariates=told.expand({count}, -1))"),
            )
        level = self.model.level(keep).name
        code = self.model.codes(self.observations([row]), None, self._told([row]))[level].mean
        made = self.model.generate(count, seed=seed, covariates=self._told([row] * count), **{level: code})
        return Made(
            made.cpu(),
            self._python(
                [row],
                f"code = model.codes(x, covariates=known)[{level!r}].mean",
                f"made = model.generate({count}, seed={seed}, covariates=told.expand({count}, -1), {level}=code)",
            ),
        )

    def identify(self, rows: Sequence[int], new: float = 0.1, count: int = 5) -> list[Known]:
        """The groups that the tray is likeliest of, or "none of these"; exact, by Bayes factor.

        A tray's own rows are taken out of their groups first, so that no observation is compared with itself.

        Raises:
            DataError: the model or the data have no groups to tell apart.
        """
        if not self.identifies:
            raise DataError("Expected groups and evidence under a prior to compare; this model has none.")
        level = self.model.group_levels[0].name
        tray = self.model.evidence(self.observations(rows), covariates=self._told(rows))
        gallery, places = self._evidence_of_groups()
        own = [row for row in set(rows) if row in places]
        if own:
            gallery = gallery - self._named(own)
        chances = tray.identify(gallery, level, new=new)[0]
        names = [*(gallery.groups[level].tolist()), None]
        best = chances.argsort(descending=True)[:count].tolist()
        return [Known(names[place], chances[place].item()) for place in best]

    def _evidence_of_groups(self) -> tuple[Any, frozenset[int]]:
        if self._gallery is None:
            most = max(1, min(GALLERY, SPEAKING // len(self.members)))
            rows = np.concatenate([members[:most] for members in self.members.values()])
            self._gallery = self._named(rows.tolist()), frozenset(rows.tolist())
        return self._gallery[0], self._gallery[1]

    def _named(self, rows: Sequence[int]) -> Any:
        """The evidence of rows of the data on their groups, by name."""
        names = {
            level.name: self.data.column(level.by)[list(rows)].astype(str)
            for level in self.model.group_levels
            if level.by
        }
        return self.model.evidence(self.data.x[torch.tensor(rows)], names, self._told(rows))

    def _posteriors(self, rows: Sequence[int]) -> dict[str, Normal]:
        levels = self.model.group_levels
        if not rows:
            return {level.name: Normal.standard(1, level.dim) for level in levels}
        if not levels:
            return {}
        evidence = self.model.evidence(self.observations(rows), covariates=self._told(rows))
        return {level.name: evidence.posterior(level.name) for level in levels}

    def _told(self, rows: Sequence[int]) -> Tensor | None:
        """Covariates of rows, where the model takes some."""
        if not self.model.schema.covariates:
            return None
        # No uploads here: a model with covariates takes none.
        columns = {name: values[list(rows)] for name, values in self.data.columns.items()}
        return self.model.covariates(columns, len(rows))

    def _python(self, rows: Sequence[int], *lines: str) -> str:
        """The lines in full: they read the run and the data, and leave what was made in `made`."""
        covariates = bool(self.model.schema.covariates)
        head = ["import mlvae", "", f"model = mlvae.load({self.run!r})"]
        if rows or covariates:
            by = "" if self.data.by is None else f", by={self.data.by!r}"
            more = "".join(f", {name}={value!r}" for name, value in self.reading.items())
            head.append(f"data = mlvae.read({self.source!r}{by}, like=model{more})")
            if self.split is not None:
                how = ", ".join(f"{name}={value!r}" for name, value in self.split.items())
                head.append(f"_, data = data.split({how})")
        if any(row >= len(self.data) for row in rows):
            head.append("# rows past the end of the data were uploaded: put your own in their place")
        if rows:
            head.append(f"x = data.x[{list(rows)}]")
        if covariates:
            head.append(f"known = model.covariates(data.subset({list(rows) or [0]}).columns, {len(rows) or 1})")
            head.append("told = known[:1]")
        body = "\n".join(lines)
        if not covariates:
            body = re.sub(r", (covariates=)?(\(known[^()]*\)|known\b|told\b(\.expand\([^()]*\))?)", "", body)
        return "\n".join([*head, "", body, ""])


def _within(value: float, low: float, high: float) -> float:
    if not math.isfinite(value):
        raise DataError(f"Expected a number from {low} to {high}; got {value}.")
    return min(max(value, low), high)
