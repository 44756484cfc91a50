"""Parts of batches, in memory and read from disk ahead of their step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mlvae import MLVAE, GroupedData, Level
from mlvae.data import LevelSampler, read
from mlvae.data.stored import Stored, ahead
from mlvae.errors import DataError
from mlvae.ranks import Ranks
from mlvae.resident import Resident, fits


def model() -> MLVAE:
    return MLVAE((3,), [Level("content", 2, by="group"), Level("style", 2)], width=8)


def on_disk(folder: Path) -> GroupedData:
    x = np.random.default_rng(0).random((12, 3), np.float32)
    np.save(folder / "x.npy", x)
    return read(folder / "x.npy", groups=np.arange(12) // 3, in_memory=False)


def test_items_made_ahead_come_in_order_from_another_thread() -> None:
    threads: set[int] = set()

    def items() -> Iterator[int]:
        for number in range(5):
            threads.add(threading.get_ident())
            yield number

    assert list(ahead(items())) == [0, 1, 2, 3, 4]
    assert threads and threading.get_ident() not in threads


def test_an_error_comes_in_its_items_place_and_no_thread_is_left() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DataError("gone")

    before, made = threading.active_count(), ahead(items())
    assert next(made) == 1
    with pytest.raises(DataError, match="gone"):
        next(made)
    broken_off = ahead(iter(range(100)))
    next(broken_off)
    broken_off.close()
    assert threading.active_count() == before


def test_parts_on_disk_come_with_their_rows_and_others_without(tmp_path: Path) -> None:
    there = on_disk(tmp_path)
    assert isinstance(there.x, Stored)
    here = GroupedData.from_arrays(there.x[:], there.column("group"))
    for data, held in ((there, False), (here, True)):
        resident = Resident(model(), data)
        parts = list(resident.parts(resident.sampler(2, 3, False, 0).epoch(0)))
        assert sum(len(part.rows) for part in parts) == 12
        for part in parts:
            assert (part.x is None) == held and part.whole == len(part.rows) and not part.shared
            assert torch.equal(resident.batch(model(), part).x, here.x[part.rows])


@pytest.mark.parametrize("groups", [1, 4])
def test_processes_read_their_own_rows_only(tmp_path: Path, groups: int) -> None:
    resident = Resident(model(), on_disk(tmp_path))
    batches = list(resident.sampler(groups, 3, False, 0).epoch(0))
    both = [list(resident.parts(iter(batches), Ranks(rank, 2))) for rank in (0, 1)]
    for (rows, _), one, other in zip(batches, *both, strict=True):
        assert one.whole == other.whole == len(rows)
        if groups == 1:  # too few to share: each does it all
            assert not one.shared and torch.equal(one.rows, rows) and torch.equal(other.rows, rows)
        else:
            assert one.shared and sorted([*one.rows.tolist(), *other.rows.tolist()]) == sorted(rows.tolist())
        for part in (one, other):
            assert part.x is not None and len(part.x) == len(part.rows)


def test_what_does_not_fit_a_gpu_stays_and_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(40, 6)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (x.nbytes * 2, x.nbytes * 4))
    assert not fits(x, torch.device("cuda")) and fits(x[:20], torch.device("cuda")) and fits(x, torch.device("cpu"))
    data = GroupedData.from_arrays(torch.rand(40, 6), np.arange(40) // 5)
    model = MLVAE.for_data(data, content_dim=2, style_dim=2, width=4)
    resident = Resident(model, data)
    sampler = resident.sampler(4, 2, False, 0)
    assert resident.here
    monkeypatch.setattr("mlvae.resident.fits", lambda *_: False)
    resident.to(torch.device("meta"))
    assert not resident.here and resident.x.device.type == "cpu"
    for part in resident.parts(sampler.epoch(0)):
        assert torch.equal(part.x, data.x[part.rows])


def test_of_one_person_a_country_people_still_speak_for_countries() -> None:
    country, person = np.repeat(np.arange(3), 12), np.repeat(np.arange(9), 4)
    data = GroupedData.from_arrays(
        torch.rand(36, 2), columns={"country": country, "person": person, "row": np.arange(36)}, by="country"
    )
    levels = [Level("country", 2, by="country"), Level("person", 2, by="person"), Level("style", 2)]
    model = MLVAE.for_data(data, levels=levels, width=4)
    whole = Resident(model, data)
    part = Resident(model, data.subset(np.isin(person, (0, 3, 6))), whole.nested)
    assert part.nested == whole.nested == {("person", "country")}
    sampler = part.sampler(4, (2, 4), False, 0)
    assert isinstance(sampler, LevelSampler) and sampler.nested == whole.nested
    batch = part.batch(model, next(part.parts(sampler.epoch(0))))
    assert batch.witnesses("country").num_groups == len(batch.ids["person"].unique())
