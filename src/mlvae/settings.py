"""Named settings: what `--objective` means for the model and for its learning, in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlvae.asked import Objective, several
from mlvae.data import GroupedData
from mlvae.errors import ModelError, nearest
from mlvae.model import MLVAE


@dataclass(frozen=True)
class Setting:
    """A model and the objective that it is trained with.

    Args:
        asks: makes the objective for the largest number of groups of any level (`several`).
        readout: of every level.
        shared: whether there is a content level at all.
        validation: share of the training part kept out, for calibration and early stopping.
    """

    asks: Callable[[int], Objective]
    readout: str = "product_with_prior"
    shared: bool = True
    validation: float = 0.0

    def objective(self, model: MLVAE, data: GroupedData) -> Objective:
        """What the model is asked when it learns from these data."""
        return self.asks(several(data.codes(level.by) for level in model.levels if level.by))

    def model(self, data: GroupedData, *, content_dim: int = 16, style_dim: int = 16, **options: Any) -> MLVAE:
        """The model of this setting; a plain VAE has all the dimensions in its one level."""
        if not self.shared and options.get("levels"):
            raise ModelError(
                "Expected no `levels` for a plain VAE, which has one; got some. Drop them, or the objective."
            )
        if not self.shared:
            content_dim, style_dim = 0, content_dim + style_dim
        return MLVAE.for_data(data, content_dim=content_dim, style_dim=style_dim, readout=self.readout, **options)


SETTINGS: dict[str, Setting] = {
    "default": Setting(Objective.for_groups, validation=0.05),
    # Bouchacourt et al. 2018: product of normals, all evidence, one weight for every KL, no penalty.
    "paper": Setting(lambda groups: Objective.plain(), readout="product"),
    "vae": Setting(lambda groups: Objective.plain(), shared=False),
}


def setting(name: str) -> Setting:
    """The setting of that name.

    Raises:
        ModelError: there is none; the nearest name is suggested.
    """
    if name not in SETTINGS:
        raise ModelError(f"Expected an objective by name; got {name!r}. {nearest(name, SETTINGS)}")
    return SETTINGS[name]
