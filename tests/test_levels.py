from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import mlvae.steps
from mlvae import MLVAE, GroupedData, Level, fit
from mlvae.errors import DataError, ModelError

COLUMNS = {
    "speaker": np.repeat([0, 1, 2, 3], 6),
    "word": np.tile(["a", "b", "c"], 8),
    "take": np.arange(24),
    "room": np.zeros(24, int),
    "name": np.repeat(["ann", "bob", "cy", "di"], 6),
    "country": np.repeat(["uk", "us"], 12),
}


def data() -> GroupedData:
    return GroupedData.from_arrays(torch.rand(24, 5), columns=COLUMNS, by="speaker")


@pytest.mark.parametrize(
    "text", ["", "speaker", "speaker:", "speaker:x:y", ":8", "a b:8", "speaker:8:", "a:8:b:c", "a:-1"]
)
def test_texts_that_are_no_level_are_named(text: str) -> None:
    with pytest.raises(ModelError, match="name:dimensions:column"):
        Level.parse(text)


def test_texts_that_are() -> None:
    assert Level.parse("speaker:16:group") == Level("speaker", 16, "group")
    assert Level.parse("person:4:country,person", "product") == Level("person", 4, ("country", "person"), "product")
    assert Level.parse("style:8") == Level("style", 8)


def test_a_model_of_any_levels_for_data() -> None:
    levels = [Level("speaker", 3, by="speaker"), Level("word", 2, by="word"), Level("style", 2)]
    model = MLVAE.for_data(data(), levels=levels)
    assert model.levels == tuple(levels) and model.shape == (5,)
    MLVAE.for_data(data(), levels=[Level("cell", 3, by=("speaker", "word")), Level("style", 2)])
    MLVAE.for_data(data(), levels=[Level("style", 2)])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([Level("take", 2, by="take")], "level 'take' .* each of its 24 groups has one"),
        ([Level("room", 2, by="room")], "constant"),
        ([Level("a", 2, by="speaker"), Level("b", 2, by="speaker")], "'a' .* and level 'b' .* the same"),
        ([Level("a", 2, by="speaker"), Level("b", 2, by="name")], "the same"),
        ([Level("a", 2, by="speaker"), Level("b", 2, by=("country", "name"))], "the same"),
        ([Level("a", 2, by="speeker")], "Did you mean 'speaker'"),
    ],
)
def test_levels_that_the_data_cannot_tell_apart_are_refused(levels: list[Level], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MLVAE.for_data(data(), levels=levels)


def test_training_on_crossed_and_nested_levels_repeats_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = [Level("country", 2, by="country"), Level("speaker", 2, by="speaker"), Level("word", 2, by="word"),
              Level("style", 2)]  # fmt: skip

    def run(name: str, epochs: int, resume: bool = False) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = MLVAE.for_data(data(), levels=levels, width=8)
        fit(model, data(), tmp_path / name, epochs=epochs, groups=3, members=(2, 3), progress=False, resume=resume)
        return model.state_dict()

    whole, again = run("a", 3), run("b", 3)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    step, count = mlvae.steps.Step.forward, []

    def interrupted(self: object, *arguments: object) -> object:
        count.append(1)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(mlvae.steps.Step, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("c", 3)
    monkeypatch.undo()
    resumed = run("c", 3, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(DataError, match="resample"):
        fit(MLVAE.for_data(data(), levels=levels), data(), epochs=1, resample=True, progress=False)


def test_what_groups_share_is_not_given_what_is_an_observations_own() -> None:
    with pytest.raises(ModelError, match="'content' is given 'style', which is each observation's own"):
        MLVAE((4,), [Level("style", 2), Level("content", 2, by="g", given=("style",))])


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (Level("training", 2, by="g"), "'training' is taken by what PyTorch's modules have"),
        (Level("values", 2, by="g"), "'values' is taken"),
        (Level("two words", 2, by="g"), "a word as a level's name"),
        (Level("person", 2, by=()), r"`by` of level 'person' to name a column; got \(\). Write by=None"),
        (Level("person", 2, by=""), "to name a column; got ''"),
        (Level("person", 2, by=("g", "")), "to name a column"),
    ],
)
def test_names_and_columns_that_cannot_be_are_refused(level: Level, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        MLVAE((4,), [level, Level("style", 2)])
