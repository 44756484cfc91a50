"""What a notebook shows of data, evidence and posteriors."""

from __future__ import annotations

import numpy as np
import torch

from mlvae import MLVAE, GroupedData, Level, Normal
from mlvae.notebook import MOST, table


def test_rows_are_few_and_text_is_text() -> None:
    shown = table("a & b", ["x"], ([f"<i>{n}"] for n in range(100)), 100)
    assert shown.count("<td>") == MOST and "and 92 more" in shown
    assert "a &amp; b" in shown and "<i>" not in shown


def test_data() -> None:
    data = GroupedData.from_arrays(torch.zeros(4, 2), ["<b>", "ann", "ann", "<b>"], columns={"age": [1, 2, 3, 4]})
    shown = data._repr_html_()
    assert "group (grouping)" in shown and "1, 2, 3, 4" in shown and "&lt;b&gt;" in shown and "<b>" not in shown


def test_evidence_and_posteriors() -> None:
    model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
    evidence = model.evidence(torch.randn(5, 4), np.array(["ann", "bob", "ann", "ann", "bob"]))
    assert repr(evidence) == "GroupEvidence(content: 5 votes on 2 groups)"
    shown = evidence._repr_html_()
    assert "<td>ann</td><td>3</td>" in shown and "<td>bob</td><td>2</td>" in shown
    variance = evidence.posterior().variance.mean(1)[0].item()
    assert f"<td>{variance:.3g}</td>" in shown
    assert "unnamed" in model.evidence(torch.randn(5, 4))._repr_html_()


def test_a_posterior_says_how_sure_it_is() -> None:
    posterior = Normal(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 1.0]]))
    assert repr(posterior) == "Normal((1, 2), mean variance 0.625)"
    shown = posterior._repr_html_()
    assert "1.00 ± 0.50" in shown and "0.818" in shown
    assert "<tbody></tbody>" in Normal.standard(0, 2)._repr_html_()


def test_evidence_without_a_prior_and_without_votes_has_no_posterior() -> None:
    model = MLVAE((4,), [Level("content", 2, by="person", readout="product"), Level("style", 2)], likelihood="normal")
    evidence = model.evidence(torch.randn(2, 4), ["ann", "bob"])
    assert "<td>ann</td><td>0</td><td>none</td>" in (evidence - evidence)._repr_html_()
