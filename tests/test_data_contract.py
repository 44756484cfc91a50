"""Every source, one contract: the same observations and groups, whatever they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlvae
from mlvae.data import GroupedData, read
from mlvae.data.stored import Stored

N, D = 24, 4
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32).round(3)
GROUP = np.array([f"g{i % 6}" for i in range(N)])
SITE = np.array(["A", "B", "C"])[np.arange(N) % 3]
PICTURES = np.random.default_rng(1).integers(0, 256, (N, 12, 10), dtype=np.uint8)


def _table() -> dict[str, Any]:
    return {**{f"x{i}": X[:, i] for i in range(D)}, "group": GROUP, "site": SITE}


def _npz(folder: Path) -> Any:
    np.savez(folder / "data.npz", x=X, group=GROUP, site=SITE)
    return folder / "data.npz"


def _npy(folder: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.save(folder / "data.npy", X)
    pq.write_table(pa.table({"group": GROUP, "site": SITE}), folder / "data.parquet")
    return folder / "data.npy"


def _csv(folder: Path, parts: int = 1) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    for part, rows in enumerate(np.array_split(np.arange(N), parts)):
        csv.write_csv(pa.table({k: v[rows] for k, v in _table().items()}), folder / f"part-{part}.csv")
    return folder / "part-0.csv"


def _parquet(folder: Path, parts: int = 1) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part, rows in enumerate(np.array_split(np.arange(N), parts)):
        table = {k: v[rows] for k, v in _table().items()}
        if part:  # another order of the columns is no matter
            table = dict(reversed(table.items()))
        pq.write_table(pa.table(table), folder / f"part-{part}.parquet")
    return folder / "part-0.parquet"


def _several(write: Callable[[Path, int], Any], pattern: str | None) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        write(folder, 3)
        return str(folder / pattern) if pattern else folder

    return make


def _embeddings(folder: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D)
    pq.write_table(pa.table({"embedding": vectors, "group": GROUP, "site": SITE}), folder / "codes.parquet")
    return folder / "codes.parquet"


def _pandas(_: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(_table())


def _arrow(_: Path) -> Any:
    import pyarrow as pa

    return pa.table(_table())


def _huggingface(_: Path) -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict(_table())


def _huggingface_rows(folder: Path) -> Any:
    """A selection of rows that the library keeps beside the table."""
    whole = {name: np.concatenate([values, values[:5]]) for name, values in _table().items()}
    return pytest.importorskip("datasets").Dataset.from_dict(whole).select(range(N))


def _huggingface_saved(folder: Path) -> Any:
    _huggingface(folder).save_to_disk(folder / "saved")
    return folder / "saved"


class _Items(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, place: int) -> Any:
        return torch.from_numpy(X[place]), str(GROUP[place])


SOURCES: dict[str, Callable[[Path], Any]] = {
    "npz": _npz,
    "npy": _npy,
    "csv": _csv,
    "csv-pattern": _several(_csv, "part-*.csv"),
    "csv-folder": _several(_csv, None),
    "parquet": _parquet,
    "parquet-pattern": _several(_parquet, "part-*.parquet"),
    "parquet-folder": _several(_parquet, None),
    "embeddings": _embeddings,
    "pandas": _pandas,
    "arrow": _arrow,
    "huggingface": _huggingface,
    "huggingface-rows": _huggingface_rows,
    "huggingface-saved": _huggingface_saved,
    "torch": lambda _: _Items(),
}
UNNAMED: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: X,
    "tensor": lambda _: torch.from_numpy(X),
    "lists": lambda _: X.tolist(),
    "mapped": lambda folder: np.load(_npy(folder), mmap_mode="r"),
    "npy-alone": lambda folder: (np.save(folder / "alone.npy", X), folder / "alone.npy")[1],
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_gives_the_same_data(name: str, tmp_path: Path) -> None:
    data = read(SOURCES[name](tmp_path), by="group")
    assert isinstance(data, GroupedData) and data.by == "group" and data.num_groups == 6
    np.testing.assert_allclose(data.sample(N).numpy(), X, atol=1e-6)
    assert data.groups.tolist() == GROUP.tolist()
    if name != "torch":
        assert data.column("site").tolist() == SITE.tolist()


@pytest.mark.parametrize("name", UNNAMED)
def test_data_without_columns_take_groups(name: str, tmp_path: Path) -> None:
    data = read(UNNAMED[name](tmp_path), by="person", groups=GROUP)
    assert data.by == "person" and data.groups.tolist() == GROUP.tolist()
    np.testing.assert_allclose(data.sample(N).numpy(), X, atol=1e-6)


ON_DISK = ["npy", "csv", "csv-folder", "parquet", "parquet-folder", "huggingface-saved"]


@pytest.mark.parametrize("name", ON_DISK)
def test_what_stays_on_disk_is_the_same_and_trains_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    there = read(source, by="group", cache=tmp_path / "kept", in_memory=False)
    here = read(source, by="group")
    assert isinstance(there.x, Stored) and not isinstance(here.x, Stored)
    assert torch.equal(there.x[:], here.x) and torch.equal(there.x[[5, 0, 5]], here.x[[5, 0, 5]])
    ours, theirs = here.split(test=0.3), there.split(test=0.3)
    for a, b in zip(ours, theirs, strict=True):
        assert isinstance(b.x, Stored) and torch.equal(a.x, b.x[:]) and repr(a) == repr(b)
    losses = []
    for train in (ours[0], theirs[0]):
        torch.manual_seed(0)
        model = mlvae.MLVAE.for_data(train, content_dim=2, style_dim=2, width=8)
        losses.append(mlvae.fit(model, train, epochs=1, progress=False).epochs[0]["loss"])
    assert losses[0] == losses[1]


def test_a_large_table_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlvae.data.sources import tables

    source = _parquet(tmp_path)
    first = read(source, by="group", in_memory=False)
    made = list((tmp_path / ".mlvae").iterdir())
    monkeypatch.setattr(tables, "_blocks", lambda *_: pytest.fail("made again"))
    again = read(source, by="group", in_memory=False)
    assert torch.equal(first.x[:], again.x[:]) and list((tmp_path / ".mlvae").iterdir()) == made


# --- pictures


def _folder(root: Path, nested: bool = False) -> Path:
    from PIL import Image

    for i in range(N):
        place = root / (f"country{i % 2}/{GROUP[i]}" if nested else GROUP[i])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURES[i]).save(place / f"{i:03}.png")
    return root


@pytest.mark.parametrize("block", [256, 5])
def test_a_folder_a_group(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlvae.data.sources.images.BLOCK", block)
    data = read(_folder(tmp_path / "faces"))
    assert data.name == "faces" and data.by == "group" and data.shape == (12, 10) and data.x.dtype == torch.uint8
    order = [int(name[:3]) for name in data.column("file")]
    assert sorted(order) == list(range(N))
    assert np.array_equal(data.x.numpy(), PICTURES[order]) and data.groups.tolist() == GROUP[order].tolist()


def test_nested_folders_are_nested_columns(tmp_path: Path) -> None:
    root = _folder(tmp_path / "faces", nested=True)
    data = read(root)
    assert data.num_groups == 6 and set(data.columns) == {"folder1", "group", "file"}
    assert data.column("group")[0] == "country0/g0" and data.column("folder1")[0] == "country0"
    named = read(root, by="person", folders=("country", "person"))
    assert named.by == "person" and len(named.codes(("country", "person")).unique()) == 6


def test_pictures_are_decoded_once_and_may_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlvae.data.sources import images

    root = _folder(tmp_path / "faces")
    small = read(root, size=8, cache=tmp_path / "kept")
    assert small.shape == (8, 8) and len(list((tmp_path / "kept").iterdir())) == 1
    monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("decoded again"))
    again = read(root, size=8, cache=tmp_path / "kept", in_memory=False)
    assert isinstance(again.x, Stored) and torch.equal(again.x[:], small.x)


def test_colours_and_new_pictures_come_as_the_model_knows_them(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(8):
        (tmp_path / f"all/p{i % 4}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([PICTURES[i]] * 3, -1)).save(tmp_path / f"all/p{i % 4}/{i}.jpg")
    data = read(tmp_path / "all")
    assert data.shape == (3, 12, 10)
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    grey = read(_folder(tmp_path / "faces"), like=mlvae.load(mlvae.save(model, tmp_path / "run")))
    assert grey.shape == (3, 12, 10) and torch.equal(grey.x[:, 0], grey.x[:, 2])


def _encoded() -> dict[str, Any]:
    import io

    from PIL import Image

    def encoded(i: int) -> dict[str, Any]:
        stream = io.BytesIO()
        Image.fromarray(PICTURES[i]).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    return {"image": [encoded(i) for i in range(N)], "person": GROUP}


def test_pictures_in_a_table_are_decoded_once_and_may_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlvae.data.sources import images, raw

    pq.write_table(pa.table(_encoded()), tmp_path / "faces.parquet")
    there = read(tmp_path / "faces.parquet", by="person", cache=tmp_path / "kept", in_memory=False)
    assert isinstance(there.x, Stored) and np.array_equal(there.x[:].numpy(), PICTURES)
    monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("decoded again"))
    here = read(tmp_path / "faces.parquet", by="person", cache=tmp_path / "kept")
    assert isinstance(here.x, torch.Tensor) and torch.equal(here.x, there.x[:])
    monkeypatch.setattr(raw, "IN_MEMORY", PICTURES.nbytes - 1)
    assert isinstance(read(tmp_path / "faces.parquet", by="person", cache=tmp_path / "kept").x, Stored)
    with pytest.raises(mlvae.MLVAEError, match="got one in memory"):
        read(pa.table(_encoded()), by="person", in_memory=False)


def test_pictures_in_a_huggingface_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict(_encoded())
    table = table.cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    for source in (table, tmp_path / "saved"):
        data = read(source, by="person")
        assert np.array_equal(data.x.numpy(), PICTURES) and data.groups.tolist() == GROUP.tolist()


def test_a_source_of_ones_own_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_source.py").write_text(
        "import numpy as np, mlvae\n"
        "def faces():\n    return mlvae.GroupedData.from_arrays(np.ones((4, 3)), [0, 0, 1, 1])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(read("my_source:faces")) == 4
    with pytest.raises(mlvae.MLVAEError, match="PYTHONPATH"):
        read("my_source:nowhere")
