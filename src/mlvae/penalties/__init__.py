"""Questions asked beyond the bound: does style know the group, does content name it, does one level know another's?

One a file; all are in nats and need no label beyond the grouping, and only the adversary is a network. One of your own
is a function of a `Question` with a name in `PENALTIES`, weighed by `Objective(further=...)`.
"""

from mlvae.penalties.adversary import Adversaries, Adversary
from mlvae.penalties.asking import BUILT_IN, Plan, ask
from mlvae.penalties.further import PENALTIES, Question, answer
from mlvae.penalties.identification import misidentification
from mlvae.penalties.independence import dependence, told
from mlvae.penalties.leaking import leakage

__all__ = [
    "BUILT_IN", "PENALTIES", "Adversaries", "Adversary", "Plan", "Question", "answer", "ask", "dependence", "leakage",
    "misidentification", "told",
]  # fmt: skip
