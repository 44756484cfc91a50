"""Questions asked beyond the bound: does style know the group, does content name it, does one level know another's?

One a file; all are in nats, need no network and no label beyond the grouping. To add one: a file here with a function
of samples or votes and groups, its weight in `Objective`, its line in `objective._penalties`.
"""

from mlvae.penalties.identification import misidentification
from mlvae.penalties.independence import dependence, told
from mlvae.penalties.leaking import leakage

__all__ = ["dependence", "leakage", "misidentification", "told"]
