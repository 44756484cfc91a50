"""A report on a trained model: one page that can be sent, and every number in it as JSON.

findings.py    what the page shows beyond the protocol's metrics: maps, shrinking posteriors, what surprises
figures.py     charts as SVG, a function each, with the words that stand in for them
page.py        all of it put into template.html
"""

from mlvae.report.figures import require
from mlvae.report.page import write

__all__ = ["require", "write"]
