"""From a source to batches of row numbers: GroupedData, the sources it is read from, and the samplers."""

from mlvae.data.grouped import GroupedData
from mlvae.data.level_sampler import LevelSampler
from mlvae.data.sampler import GroupSampler
from mlvae.data.sequences import padded
from mlvae.data.sources import read

__all__ = ["GroupSampler", "GroupedData", "LevelSampler", "padded", "read"]
