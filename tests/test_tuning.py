"""A search that needs no labels: what it measures, and that it goes on where it was stopped."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

import mlvae
from mlvae import Objective, tuning
from mlvae.likelihoods import Categorical
from mlvae.networks import Network
from mlvae.networks.mlp import mlp_decoder, mlp_encoder
from mlvae.tuning import Choice, Worth, _known, best, cut, run, search

optuna = pytest.importorskip("optuna")


def halves_shared_and_own(n: int = 240) -> mlvae.GroupedData:
    """Rows whose first half is their group's, and whose second half is their own."""
    random = np.random.default_rng(0)
    groups = np.arange(n) % 6
    shared = random.normal(size=(6, 4))[groups]
    x = np.concatenate([shared + 0.1 * random.normal(size=(n, 4)), random.normal(size=(n, 4))], 1)
    return mlvae.GroupedData.from_arrays(x.astype(np.float32), groups)


DATA = halves_shared_and_own()
SMALL = {"network": "mlp", "width": 16}


def test_worth_tells_content_in_style_from_content_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlvae.MLVAE.for_data(DATA, content_dim=4, style_dim=4, **SMALL)
    x = model.prepare(DATA.x)
    halves = {"right": (x[:, :4], x[:, 4:]), "wrong": (x[:, 4:], x[:, :4])}
    seen = {}
    for name, (content, style) in halves.items():
        exact = torch.full_like(content, 100.0)
        cast = mlvae.Evidence.votes(content.double(), exact.double())
        monkeypatch.setattr(tuning, "votes", lambda *_, cast=cast: {"content": (cast, None)})
        codes = {"content": mlvae.Normal(content, exact), "style": mlvae.Normal(style, exact)}
        monkeypatch.setattr(mlvae.MLVAE, "codes", lambda *_, codes=codes, **__: codes)
        monkeypatch.setattr(mlvae.MLVAE, "pictures", lambda *_: x)
        seen[name] = Worth.of(model, DATA)
    assert seen["right"].named > 0.9 and seen["right"].told < 0.2 and seen["right"].kept == 1
    assert seen["wrong"].named < 0.2 and seen["wrong"].told > 0.9
    assert seen["right"].value > seen["wrong"].value + 1


def test_categories_are_kept_where_they_are_named_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their codes have no order, so a wrong one is wrong by one, however far."""
    x = np.stack([np.arange(120) % 8, np.arange(120) // 8 % 3], 1)
    data = mlvae.GroupedData.from_arrays(x.astype(np.float32), np.arange(120) % 6)
    model = mlvae.MLVAE.for_data(data, likelihood=Categorical(8), **SMALL)
    seen = []
    for wrong in (1, 7):
        made = model.prepare(data.x).clone()
        made[:60:3, 0] = (made[:60:3, 0] + wrong) % 8
        monkeypatch.setattr(mlvae.MLVAE, "pictures", lambda *_, made=made: made)
        seen.append(Worth.of(model, data).kept)
    assert seen[0] == seen[1] == pytest.approx(1 - 20 / (120 - 15 + 120 - 40))


def test_a_journal_knows_options_by_their_names() -> None:
    network = Network(mlp_encoder, functools.partial(mlp_decoder, gates=1), 8)
    again = Network(mlp_encoder, functools.partial(mlp_decoder, gates=1), 8)
    assert _known(network) == _known(again) and " at 0x" not in _known(network)
    assert _known(halves_shared_and_own).endswith("test_tuning:halves_shared_and_own")
    assert _known(Categorical) == "mlvae.likelihoods.categories:Categorical" and _known("mlp") == "mlp"
    assert _known(Categorical(8)) != _known(Categorical(9))


def test_validation_is_of_whole_groups_where_there_are_many() -> None:
    fitted, valid = cut(DATA)
    assert set(fitted.groups) == set(valid.groups) and len(fitted) + len(valid) == len(DATA)
    many = mlvae.GroupedData.from_arrays(torch.randn(200, 3), np.arange(200) // 4)
    fitted, valid = cut(many)
    assert not set(fitted.groups) & set(valid.groups)


def test_the_first_run_has_the_defaults_settings() -> None:
    assert Choice().objective() == Objective()


def test_looking_does_not_change_a_run() -> None:
    fitted, valid = cut(DATA)
    looks: list[int] = []
    watched, _ = run(Choice(4, 4), fitted, valid, epochs=3, watch=lambda look, _: looks.append(look), **SMALL)
    alone, _ = run(Choice(4, 4), fitted, valid, epochs=3, **SMALL)
    assert looks == [1, 2]
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_study_goes_on_and_refuses_other_data(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = tmp_path / "study.journal"
    first = search(DATA, journal, trials=2, epochs=3, **SMALL)
    assert len(first.trials) == 2 and first.trials[0].params["told"] == Choice().told
    assert Choice().objective() == Objective()
    values = [trial.values for trial in first.trials]
    again = search(DATA, journal, trials=3, epochs=3, **SMALL)
    assert len(again.trials) == 3 and [trial.values for trial in again.trials[:2]] == values
    assert again.trials[2].params["lr"] != again.trials[1].params["lr"], "goes on, and does not begin again"
    choice = best(again)
    assert choice.content_dim in (4, 8, 16, 32, 64) and isinstance(choice.objective(), Objective)
    changed = DATA.x.clone()
    changed[7] += 1
    for other in (DATA.subset(range(200)), mlvae.GroupedData.from_arrays(changed, DATA.groups)):
        with pytest.raises(mlvae.MLVAEError, match="Name another"):
            search(other, journal, trials=3, epochs=3, **SMALL)


def test_a_poor_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    worths = iter([*[1.0] * 12, -1.0])  # three looks of each of four runs, then one of the fifth
    monkeypatch.setattr(Worth, "of", lambda *_: Worth(next(worths), 0.0, 0.0))
    study = search(DATA, tmp_path / "study.journal", trials=5, epochs=3, **SMALL)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["PRUNED"]
