"""The scikit-learn face: a transformer that learns content and style, and a classifier that names groups.

Groups come to `fit` by metadata routing; ``groups`` is asked for without a word from the user:

    sklearn.set_config(enable_metadata_routing=True)
    cross_validate(pipeline, X, y, params={"groups": groups}, cv=GroupKFold())

Observations are rows of numbers, (N, F). Without ``shape`` they are a table's columns, standardised here; with it they
are flattened arrays, such as pictures in [0, 1].
"""

from __future__ import annotations

from mlvae.sklearn.identifier import MLVAEIdentifier
from mlvae.sklearn.transformer import MLVAETransformer

__all__ = ["MLVAEIdentifier", "MLVAETransformer"]
