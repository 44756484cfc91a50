"""A look at data before training."""

from mlvae.inspection.findings import Inspection, inspect
from mlvae.inspection.picture import save_picture

__all__ = ["Inspection", "inspect", "save_picture"]
