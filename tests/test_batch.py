from __future__ import annotations

import pytest
import torch

from mlvae import MLVAE, GroupBatch, Level, elbo
from mlvae.bound import importance_weighted_bound
from mlvae.errors import DataError, ModelError
from mlvae.evidence import Evidence


def test_levels_not_named_give_each_observation_its_own_group() -> None:
    batch = GroupBatch.of(torch.zeros(3, 2), {"content": ["x", "x", "a"]})
    assert batch.grouping("content").index.tolist() == [1, 1, 0]
    assert batch.ids["content"].tolist() == [1, 1, 0]
    assert batch.grouping("style").singletons
    assert batch.grouping("style").num_groups == len(batch) == 3


def test_ids_may_be_tensors_and_levels_may_cross() -> None:
    batch = GroupBatch.of(torch.zeros(3, 2), {"speaker": torch.tensor([5, 5, 1]), "word": [0, 1, 1]})
    assert batch.grouping("speaker").index.tolist() == [1, 1, 0]
    assert batch.grouping("word").sizes.tolist() == [1, 2]


def test_groups_of_a_batch_may_be_parts_of_groups_of_the_data() -> None:
    batch = GroupBatch.of(torch.rand(4, 2), {"content": [0, 0, 1, 2]}, ids={"content": ["ann", "ann", "ann", "bob"]})
    assert batch.groupings["content"].num_groups == 3 and batch.ids["content"].tolist() == [0, 0, 0, 1]
    with pytest.raises(ModelError, match="by level"):
        GroupBatch.of(torch.rand(3, 2), [0, 0, 1])


def test_a_level_that_is_not_there_is_no_level() -> None:
    model = MLVAE((2,), [Level("content", 2, by="person"), Level("style", 2)], width=4)
    batch = GroupBatch.of(torch.rand(4, 2), {"contnet": [0, 0, 1, 1]})
    for call in (elbo, importance_weighted_bound):
        with pytest.raises(ModelError, match="Did you mean 'content'"):
            call(model, batch)


def test_moves_everything_it_carries() -> None:
    batch = GroupBatch.of(torch.zeros(2, 1), {"content": [0, 0]})
    batch = GroupBatch(batch.x, batch.groupings, batch.ids, {"content": torch.tensor([9, 9])}).to("meta")
    tensors = [batch.x, batch.groupings["content"].index, batch.ids["content"], batch.totals["content"]]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.grouping("style").index.device.type == "meta"


def test_nobody_is_a_witness_beside_himself() -> None:
    """Ann is in two sub-groups of one country, as she has many pictures: they are one witness of it all the same."""
    batch = GroupBatch.of(
        torch.rand(6, 2),
        {"country": [0] * 6, "person": [0, 0, 1, 1, 2, 2]},
        ids={"country": [0] * 6, "person": ["ann"] * 4 + ["bob"] * 2},
    )
    assert batch.witnesses("country").index.tolist() == [0, 0, 0, 0, 1, 1]
    one = torch.nn.functional.one_hot(batch.ids["person"], 2).double()
    votes = Evidence(one, one, torch.ones(6, dtype=torch.int64))
    assert batch.others("country", votes).precision.tolist() == [[0, 2]] * 4 + [[4, 0]] * 2
    with pytest.raises(ModelError, match="Did you mean 'person'"):
        GroupBatch.of(torch.rand(2, 2), {"person": [0, 1]}, ids={"persn": [0, 0]})


@pytest.mark.parametrize(("labels", "message"), [([1, 1, float("nan")], "without one"), ([1, 1], r"shape \(3,\)")])
def test_labels_that_are_missing_are_refused(labels: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GroupBatch.of(torch.rand(3, 2), {"content": labels})


def test_levels_are_nested_as_the_data_set_has_them() -> None:
    x = torch.rand(4, 2)
    crossed = GroupBatch.of(
        x, {"speaker": [0, 0, 1, 1], "word": [0, 1, 2, 3]}, ids={"speaker": [0, 0, 1, 1], "word": [5, 6, 5, 6]}
    )
    assert not crossed.nested
    nested = GroupBatch.of(
        x, {"country": [0, 0, 1, 1], "person": [0, 0, 1, 1]}, ids={"country": [0, 0, 0, 0], "person": [0, 0, 1, 1]}
    )
    assert nested.nested == {("person", "country")}
