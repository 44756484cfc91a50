"""What a trained model is worth, on data it never saw, with the controls that keep the numbers honest.

levels.py         several shared levels: what each tells of each, and of groups never seen
disentanglement.py  whether single dimensions follow single factors, from plain arrays
probes.py         what codes tell about labels and numbers: accuracy, information in nats, R²
few_shot.py       naming groups never seen, by Bayes factor
verification.py   one group or two, known or new
curve.py          what more observations of a group add
calibration.py    whether posteriors are as narrow as they say
judge.py          a classifier of real observations, which says what a made picture shows
swaps.py          pictures with content from one observation and style from another
generation.py     coverage and density of samples
amortisation.py   what summing votes loses against fitting a posterior
controls.py       what numbers must be seen beside: untrained, a plain VAE, shuffled labels
subject.py        a model and its data, encoded once
measures.py       one function a question, to numbers under their names
bounds.py         the bounds and what stands beside them, likewise
protocol.py       the whole protocol as one flat dictionary
diagnosis.py      what these numbers say is wrong, and what to try
report.py         that dictionary as a short table
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mlvae.evaluate.controls import Controls
from mlvae.evaluate.diagnosis import diagnose
from mlvae.evaluate.disentanglement import Disentanglement, disentanglement
from mlvae.evaluate.few_shot import few_shot, pixel_few_shot
from mlvae.evaluate.probes import probe, regress
from mlvae.evaluate.protocol import evaluate
from mlvae.evaluate.report import table

__all__ = [
    "Controls",
    "Disentanglement",
    "diagnose",
    "disentanglement",
    "evaluate",
    "few_shot",
    "pixel_few_shot",
    "probe",
    "regress",
    "table",
]


class _Callable(ModuleType):
    # Importing this package sets `mlvae.evaluate` to the module; the call `mlvae.evaluate(...)` must work all the same.
    def __call__(self, *args: Any, **options: Any) -> dict[str, float]:
        return evaluate(*args, **options)


sys.modules[__name__].__class__ = _Callable
