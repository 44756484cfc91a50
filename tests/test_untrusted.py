"""Files are data, not programs: none is run, none is believed before it is bounded, all damage is an error of ours."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mlvae
from mlvae import checkpoint
from mlvae.commands.common import config_of
from mlvae.errors import CheckpointError, DataError, MLVAEError
from mlvae.explore.uploads import PIXELS as UPLOADED
from mlvae.model import MLVAE, Level
from mlvae.runs import options_of
from mlvae.store import files
from mlvae.untrusted import plain_json, plain_yaml, reading

HOUSE = Path(__file__).parents[1]
LEVELS = [Level("content", 2, by="g"), Level("style", 2)]

NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
NEVER_CALLED = {
    "eval", "exec", "compile", "torch.load", "torch.jit.load", "torch.package", "np.fromfile", "yaml.load",
    "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "os.system", "os.popen", "pd.read_pickle", "pickle.load",
    "pickle.loads",
}  # fmt: skip


def test_no_way_of_reading_can_run_what_it_reads() -> None:
    sources = sorted((HOUSE / "src").rglob("*.py"))
    assert len(sources) > 80
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                assert not {name.name.partition(".")[0] for name in node.names} & NEVER_IMPORTED, source
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in NEVER_IMPORTED, source
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in NEVER_CALLED, f"{source}: {called}"
                allowed = [ast.unparse(k.value) for k in node.keywords if k.arg in ("allow_pickle", "weights_only")]
                assert allowed in ([], ["False"]), f"{source}: {called}"
                if called in ("np.load", "numpy.load", "np.lib.format.read_array"):
                    assert allowed == ["False"], f"{source}: {called}"


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def planted(mark: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Files that run something where they are read as other libraries read them, and what reads them here."""
    evil = np.array([Evil(mark)] * 4, dtype=object)
    np.savez(folder / "a.npz", x=np.zeros((4, 2)), group=evil)
    np.savez(folder / "b.npz", x=evil, group=np.arange(4))
    np.save(folder / "c.npy", evil, allow_pickle=True)
    (folder / "run").mkdir()
    torch.save({"weights": Evil(mark)}, folder / "run" / "model.safetensors")
    torch.save({"state": Evil(mark)}, folder / "run" / "training.safetensors")
    (folder / "run" / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{mark}']\n")
    (folder / "e.parquet").write_bytes(pickle.dumps(Evil(mark)))
    table = pa.table({"x": [1.0, 2.0], "group": ["a", "b"]})
    python = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(mark)),
    }
    field = pa.field("x", pa.float64(), metadata=python)
    pq.write_table(table.cast(pa.schema([field, table.schema.field("group")])), folder / "t.parquet")
    (folder / "pictures" / "ann").mkdir(parents=True)
    (folder / "pictures" / "ann" / "1.png").write_text(
        f"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 9 9\n({mark}) (w) file\n"
    )
    return {
        "labels": lambda: mlvae.read(folder / "a.npz"),
        "observations": lambda: mlvae.read(folder / "b.npz"),
        "npy": lambda: mlvae.data.read(folder / "c.npy", groups=[0, 0, 1, 1]),
        "model": lambda: mlvae.load(folder / "run"),
        "training": lambda: options_of(folder / "run"),
        "config": lambda: config_of(str(folder / "run")),
        "evidence": lambda: files.read(folder / "e.parquet"),
        "pictures": lambda: mlvae.read(folder / "pictures"),
        "columns": lambda: mlvae.read(folder / "t.parquet").x[10],
    }


@pytest.mark.parametrize(
    "name", ["labels", "observations", "npy", "model", "training", "config", "evidence", "pictures", "columns"]
)
@pytest.mark.filterwarnings("ignore:Every group")
def test_a_malicious_file_is_refused_and_does_nothing(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    load = planted(mark, tmp_path)[name]
    if name == "columns":  # a number all the same: what the file says of its type is not looked at
        with pytest.raises(IndexError):
            load()
    else:
        with pytest.raises(MLVAEError):
            load()
    assert not mark.exists()
    np.load(tmp_path / "c.npy", allow_pickle=True)
    assert mark.exists(), "the bait works"


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlvae.untrusted.EXPANDED", 2**20)
    bomb = zipped(tmp_path / "bomb.npz", x=header("(1024, 4096)") + bytes(2**24))
    with pytest.raises(DataError, match="expand to at most 100 times"):
        mlvae.read(bomb)
    liar = zipped(tmp_path / "liar.npz", x=header("(99999999999, 9)") + bytes(8))
    with pytest.raises(DataError, match="there are"):
        mlvae.read(liar)
    kind = zipped(tmp_path / "kind.npz", x=header("(2,)", "|V99999999") + bytes(8))
    with pytest.raises(DataError, match="there are"):
        mlvae.read(kind)
    deep = zipped(tmp_path / "deep.npz", x=header("(" * 900))
    with pytest.raises(DataError, match="cannot be read"):
        mlvae.read(deep)
    fine = zipped(tmp_path / "fine.npz", x=header("(4, 1024)") + bytes(2**14), group=header("(4,)") + bytes(16))
    assert mlvae.read(fine, "group").x.shape == (4, 1024)


def test_pictures_are_bounded_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlvae.data.sources.images.PIXELS", 5000)
    (tmp_path / "ann").mkdir()
    for i in range(2):
        Image.new("L", (100, 100)).save(tmp_path / "ann" / f"{i}.png")
    with pytest.raises(DataError, match="at most 5,000 pixels"):
        mlvae.read(tmp_path, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir()), "nothing half done"
    os.mkfifo(tmp_path / "ann" / "2.png")  # reading it would wait for ever
    with pytest.raises(DataError, match="no file that can be read"):
        mlvae.read(tmp_path)
    assert UPLOADED <= 2**26


def test_a_file_of_a_data_set_lies_in_its_folder(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, 2.0], "group": ["a", "b"]})
    (tmp_path / "set").mkdir()
    with pa.OSFile(str(tmp_path / "secret.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("../secret.arrow", str(tmp_path / "secret.arrow")):
        (tmp_path / "set" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match="Do not trust it"):
            mlvae.read(tmp_path / "set")


def test_a_table_that_says_it_is_huge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant = pa.table({"x": pa.repeat(1.0, 10**6), "group": pa.repeat("a", 10**6)})
    pq.write_table(constant, tmp_path / "t.parquet", compression="zstd", row_group_size=10**6)
    monkeypatch.setattr("mlvae.data.sources.files.ROWS_A_BYTE", 10)
    with pytest.raises(DataError, match="meant to fill your memory"):
        mlvae.read(tmp_path / "t.parquet")
    monkeypatch.setattr("mlvae.data.sources.delimited.COLUMNS", 1000)
    (tmp_path / "t.csv").write_text("," * 2000 + "\n")
    with pytest.raises(DataError, match="Is it a CSV file"):
        mlvae.read(tmp_path / "t.csv")


def forged(path: Path, **changes: object) -> Path:
    """A model whose description says something else, without a hash, as a forger would leave it."""
    tensors, about = checkpoint.read(checkpoint.save(MLVAE((6,), LEVELS, width=8), path), "model")
    from safetensors.torch import save_file

    about["model"] |= changes
    save_file(tensors, path, {"mlvae": json.dumps(about)})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 10**9},
        {"shape": [10**6, 10**6], "network": "conv"},
        {"levels": [{"name": "style", "dim": 10**12}]},
        {"likelihood": "negative_binomial", "likelihood_settings": {"shape": [10**12]}},
        {"likelihood": "mlvae.model"},
        {"network": "os:system"},
        {"levels": 7},
        {"schema": {"features": [{"name": "a", "kind": "number", "colour": 1}]}},
    ],
    ids=str,
)
def test_a_description_is_not_believed(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(MLVAEError):
        mlvae.load(forged(tmp_path / "m.safetensors", **changes))


def test_every_changed_bit_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(MLVAE((6,), LEVELS, width=8), tmp_path)
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(whole), 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(CheckpointError):
            mlvae.load(path)
    assert mlvae.load(forged(tmp_path / "without.safetensors")), "files from before there were hashes are read"


def test_every_changed_bit_of_evidence_is_noticed_or_says_nothing(tmp_path: Path) -> None:
    model = MLVAE((6,), LEVELS, width=8)
    evidence = model.evidence(torch.rand(12, 6), np.arange(12) // 4)
    path = files.write(evidence, model, tmp_path / "e.parquet")
    whole = path.read_bytes()
    noticed = 0
    for at in np.random.default_rng(0).integers(0, len(whole), 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            found = files.read(path)
        except MLVAEError:
            noticed += 1
            continue
        assert torch.equal(found.levels["content"].precision, evidence.levels["content"].precision)
        assert torch.equal(found.levels["content"].information, evidence.levels["content"].information)
    assert noticed > 50


def test_plain_texts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("[" * 10**6, "{", "[" * 33 + "]" * 33):
        with pytest.raises(ValueError):
            plain_json(text)
    assert plain_json("[" * 32 + "]" * 32)
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in (laughs, "!!python/name:os.system", "- " * 40 + "x", "a: [", "\0", "a: !custom 1"):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ValueError):
            plain_yaml(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("a: [1, {b: c}]")
    assert plain_yaml(tmp_path / "c.yaml") == {"a": [1, {"b": "c"}]}
    monkeypatch.setattr("mlvae.untrusted.TEXT", 10)
    for read in (lambda: plain_yaml(tmp_path / "c.yaml"), lambda: plain_json("[1, 2, 3, 4, 5]")):
        with pytest.raises(ValueError, match="longer"):
            read()


def test_whatever_a_parser_says_is_one_error_of_ours() -> None:
    for error in (MemoryError(), RecursionError(), KeyError("a"), OverflowError("x" * 9000), OSError(28, "full")):
        said = r"^Expected a whole thing; there cannot be read \(.+\)"
        with pytest.raises(CheckpointError, match=said) as found, reading("thing", "there", CheckpointError):
            raise error
        assert len(str(found.value)) < 700
    with pytest.raises(KeyboardInterrupt), reading("thing", "there"):
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="as it was"), reading("thing", "there", CheckpointError):
        raise DataError("as it was")


def test_an_upload_that_no_decoder_understands_is_a_message() -> None:
    from mlvae.depict import Depiction
    from mlvae.explore.uploads import picture

    shown = Depiction.of(
        MLVAE((16, 16), LEVELS, width=8), mlvae.GroupedData.from_arrays(torch.rand(4, 16, 16), list("aabb"))
    )
    file = io.BytesIO()
    Image.effect_noise((20, 20), 50).save(file, "PNG")
    whole = file.getvalue()
    assert picture(whole, (16, 16), shown).shape == (16, 16)
    for at in range(0, len(whole) // 2, 9):
        with pytest.raises(DataError, match="PNG or JPEG"):
            picture(whole[:at], (16, 16), shown)


def test_the_fuzzer_finds_nothing() -> None:
    """A short run of `tools/fuzz.py`, which tries 10,000 damaged files of each kind."""
    found = subprocess.run(
        [sys.executable, HOUSE / "tools" / "fuzz.py", "--kinds", "mixed", "--count", "300", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": str(HOUSE / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert " 0 failed" in found.stdout
