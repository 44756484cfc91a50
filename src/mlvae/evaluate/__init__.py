"""What a trained model is worth, on data it never saw, with the controls that keep the numbers honest.

probes.py     what codes tell about labels: accuracy, and information in nats
few_shot.py   naming groups never seen, by Bayes factor
protocol.py   the whole protocol as one flat dictionary, an untrained control beside it
report.py     that dictionary as a short table
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mlvae.evaluate.few_shot import few_shot, pixel_few_shot
from mlvae.evaluate.probes import probe
from mlvae.evaluate.protocol import evaluate
from mlvae.evaluate.report import table

__all__ = ["evaluate", "few_shot", "pixel_few_shot", "probe", "table"]


class _Callable(ModuleType):
    # Importing this package sets `mlvae.evaluate` to the module; the call `mlvae.evaluate(...)` must work all the same.
    def __call__(self, *args: Any, **options: Any) -> dict[str, float]:
        return evaluate(*args, **options)


sys.modules[__name__].__class__ = _Callable
