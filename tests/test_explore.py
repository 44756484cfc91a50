"""The page's logic without a server, and the server's limits without a browser."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlvae
from mlvae import Level, draw
from mlvae.data import GroupedData
from mlvae.depict import Depiction
from mlvae.errors import DataError, ModelError
from mlvae.explore import rows
from mlvae.explore.session import MOST, UPLOADS, Session
from mlvae.explore.uploads import BYTES, picture


@pytest.fixture(scope="module")
def session() -> Session:
    torch.manual_seed(0)
    data = mlvae.read("digits").subset(slice(0, 300))
    return Session(
        mlvae.MLVAE.for_data(data, content_dim=3, style_dim=2, width=16), data, run="runs/d", source="digits"
    )


def png(mode: str = "L", size: tuple[int, int] = (40, 30), colour: Any = 200, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG whose head says 60,000 x 60,000."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 64


def variance(session: Session, rows: list[int]) -> float:
    value: float = session.posterior(rows)["levels"]["content"]["variance"]
    return value


def test_evidence_sharpens_and_widens_again(session: Session) -> None:
    rows = session.pick("3", count=4)
    variances = [variance(session, rows[:k]) for k in range(5)]
    assert variances[0] == 1 and variances == sorted(variances, reverse=True) and variances[4] < variances[1]
    assert variance(session, rows[:2]) == variances[2]


def test_the_python_lines_make_the_same_pictures(session: Session, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mlvae.save(session.model, "runs/d")
    a, b = session.pick("1", count=1)[0], session.pick("7", count=1)[0]
    for made in (
        session.swap(a, b),
        session.swap(a, b, ["style"]),
        session.between(a, b, 0.3),
        session.between(a, b, 0.3, ["content"]),
        session.walk(a, "style", 1, -1.5),
        session.generate(3, seed=5),
        session.generate(3, seed=5, row=a, keep="content"),
        session.expected([a, b], seed=2),
        session.expected([], seed=2),
    ):
        names: dict[str, Any] = {}
        exec(made.python, names)
        torch.testing.assert_close(names["made"].detach(), made.x, rtol=1e-4, atol=1e-5)


def test_the_python_lines_take_the_part_that_was_kept_out(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    whole, how = mlvae.read("digits"), {"by": "observation", "test": 0.1, "seed": 2}
    _, new = whole.split(**how)
    kept = Session(mlvae.MLVAE.for_data(new, width=8), new, run="runs/d", source="digits", split=how)
    mlvae.save(kept.model, "runs/d")
    names: dict[str, Any] = {}
    made = kept.swap(3, 5)
    exec(made.python, names)
    torch.testing.assert_close(names["made"].detach(), made.x, rtol=1e-4, atol=1e-5)


def test_what_a_group_is_expected_to_look_like_is_told_what_its_tray_was(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{'' if i == 5 else i % 4},{i / 3},{'uv'[i % 2]}" for i in range(24))
    (tmp_path / "t.csv").write_text(f"g,height,site\n{rows}")
    options: dict[str, Any] = {"missing": "drop", "features": "height"}
    data = mlvae.read("t.csv", by="g", covariates=("site",), **options)
    session = Session(mlvae.MLVAE.for_data(data, width=8), data, run="run", source="t.csv", reading=options)
    mlvae.save(session.model, "run")
    made = [session.expected([row], seed=2) for row in (0, 1)]
    told = [session.model.covariates({"site": [site]}, 1) for site in "uv"]
    code = session.model.evidence(data.x[[1]], covariates=told[1]).posterior("content").mean[0].float()
    torch.testing.assert_close(
        made[1].x, session.model.generate(4, seed=2, covariates=told[1].expand(4, -1), content=code)
    )
    for each in made:
        names: dict[str, Any] = {}
        exec(each.python, names)
        torch.testing.assert_close(names["made"].detach(), each.x, rtol=1e-4, atol=1e-5)


def test_both_ends_of_the_way_are_the_reconstructions(session: Session) -> None:
    a, b = session.pick("1", count=2)
    both = session.model.reconstruct(session.observations([a, b]))
    torch.testing.assert_close(session.between(a, b, 0).x[0], both[0])
    torch.testing.assert_close(session.between(a, b, 1).x[0], both[1])


def test_an_observation_is_not_compared_with_itself() -> None:
    random = torch.Generator().manual_seed(0)
    data = GroupedData.from_arrays(torch.rand(12, 8, 8, generator=random), ["alone", *["many"] * 11])
    session = Session(mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8), data)
    known = {one.group: one.probability for one in session.identify([0], new=0.5)}
    # Its only member taken out, "alone" has no evidence: nothing is known of it.
    assert known["alone"] == 0 and known["many"] > 0
    assert sum(known.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["series", "table", "levels", "covariates", "vae"])
def test_other_models(kind: str, tmp_path: Path) -> None:
    x = torch.rand(24, 3, 32) if kind == "series" else torch.rand(24, 8, 8)
    columns = {"g": np.arange(24) % 4, "h": np.arange(24) // 4 % 3, "site": np.array(["u", "v"] * 12)}
    data = GroupedData.from_arrays(x, columns=columns, by="g")
    options: dict[str, Any] = {"width": 8, "content_dim": 2, "style_dim": 2}
    if kind == "series":
        options["network"] = "series"
    elif kind == "table":
        rows = "\n".join(f"{i % 4},{i / 3},{'ab'[i % 2]}" for i in range(24))
        (tmp_path / "t.csv").write_text(f"g,height,kind\n{rows}")
        data = mlvae.read(tmp_path / "t.csv", by="g", features="height,kind")
    elif kind == "levels":
        options["levels"] = [Level("one", 2, by="g"), Level("two", 2, by="h"), Level("style", 2)]
    elif kind == "covariates":
        data = data.with_covariates("site")
    elif kind == "vae":
        options["content_dim"] = 0
    session = Session(mlvae.MLVAE.for_data(data, **options), data)
    assert session.about()["kind"] == {"series": "sequence", "table": "table"}.get(kind, "image")
    level = session.model.levels[0].name
    for made in (session.swap(0, 1), session.between(0, 1, 0.5), session.walk(0, level, 0, 1.0), session.generate(2)):
        assert session.shown.file(made.x[0])[1]
    assert session.picture(0)[0] == session.shown.media_type
    if kind == "table":
        # Prepared once, not twice: a table's numbers are standardised on the way in.
        torch.testing.assert_close(session.observations([3])[0], data.x[3])
    if session.identifies:
        assert len(session.identify([0, 4])) == 5
    else:
        assert kind == "vae"


def test_of_many_groups_some_are_told_and_others_found() -> None:
    who = np.array([f"Person {number}" for number in range(2500)])
    data = GroupedData.from_arrays(np.zeros((2500, 4), np.float32), who)
    many = Session(mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8), data)
    about = many.about()
    assert len(about["groups"]) == 1000 and about["total"] == 2500
    found = [group["name"] for group in many.groups("person 99")]
    assert found == ["Person 99", *(f"Person 99{digit}" for digit in range(10))]
    assert many.groups("Person 2")[0] == {"name": "Person 2", "members": 1} and many.groups("nobody") == []
    assert len(many.groups("7")) < 1000 == len(many.groups("PERSON"))
    with pytest.raises(DataError, match="Expected a group") as told:
        many.pick("?")
    assert str(told.value).count("Person") <= 1000


def test_mistakes_are_told(session: Session) -> None:
    for wrong in ([], [0] * (MOST + 1), [10_000], [-1]):
        with pytest.raises(DataError):
            session.observations(wrong)
    with pytest.raises(DataError, match="group of the data"):
        session.pick("eleven")
    with pytest.raises(DataError, match="below 2"):
        session.walk(0, "style", 2, 0.0)
    with pytest.raises(ModelError, match="style"):
        session.walk(0, "stile", 0, 0.0)
    with pytest.raises(DataError, match="number from"):
        session.between(0, 1, float("nan"))


def test_uploads_are_brought_to_the_models_shape(session: Session) -> None:
    for content in (png(), png("RGB", colour=(200, 200, 200)), png("RGB", colour=(200, 200, 200), kind="JPEG")):
        x = picture(content, (8, 8), session.shown)
        assert x.shape == (8, 8) and torch.allclose(x, torch.tensor(200 / 255), atol=0.01)
    assert picture(png("RGBA", colour=(0, 0, 0, 0)), (3, 8, 8), session.shown).min() == 1
    sixteen = picture(png("I;16", colour=20_000), (8, 8), session.shown)
    assert torch.allclose(sixteen, torch.tensor(20_000 / 65_535), atol=0.01), "as pictures in folders are read"
    assert picture(png(), (8, 8), Depiction("image", -1.0, 3.0)).mean() == pytest.approx(-1 + 4 * 200 / 255)
    (row,) = session.upload(png())["rows"]
    assert row == len(session.data) and session.posterior([row, 0])["count"] == 2
    assert "uploaded" in session.swap(row, 0).python
    session.added.clear()


@pytest.mark.parametrize("content", [b"", b"hello", png()[:60], bomb(), b"\0" * (BYTES + 1), b"<svg/>"], ids=range(6))
def test_bad_files_are_a_message(content: bytes, session: Session) -> None:
    with pytest.raises(DataError, match="Expected a"):
        session.upload(content)
    assert not session.added


def test_uploads_are_counted(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "added", [torch.zeros(8, 8)] * UPLOADS)
    with pytest.raises(DataError, match="at most"):
        session.add(torch.zeros(1, 8, 8))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A model of a table: two numbers and a word."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("table") / "people.csv"
    lines = [f"{i % 4},{150 + i % 7},{50 + i / 3},{'ab'[i % 2]}" for i in range(40)]
    file.write_text("\n".join(["who,height,weight,hand", *lines]))
    data = mlvae.read(file, by="who", features="height,weight,hand")
    return Session(mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8), data)


def parquet(table: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table(table), file)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


COLUMNS = {"hand": ["b", "c"], "weight": [60.5, 61.0], "height": [170, None], "note": ["x", "y"]}
AS_TEXT = b"hand;weight;height;note\nb;60.5;170;x\nc;61;;y\n"


@pytest.mark.parametrize(
    "content",
    [
        AS_TEXT, AS_TEXT.replace(b";", b","), AS_TEXT.replace(b";", b"\t"), parquet(COLUMNS),
        npz(hand=np.array(["b", "c"]), weight=np.array([60.5, 61]), height=np.array([170, np.nan]), further=np.eye(3)),
    ],
    ids=["semicolons", "commas", "tabs", "parquet", "npz"],
)  # fmt: skip
def test_rows_of_a_table_are_found_by_name(content: bytes, people: Session) -> None:
    told = people.upload(content)
    assert told == {"rows": [40, 41], "missing": 2}  # a height that is not there, a hand that training did not meet
    expected = torch.tensor([[170, 60.5, 1], [torch.nan, 61, torch.nan]])
    torch.testing.assert_close(people.observations(told["rows"]), expected, equal_nan=True)
    people.added.clear()


def test_what_is_uploaded_means_what_the_same_rows_mean_in_the_data(people: Session) -> None:
    own, *_ = people.upload(b"height,weight,hand\n153,51,b\n")["rows"]
    assert people.posterior([own]) == people.posterior([3])
    torch.testing.assert_close(people.between(own, 3, 0.5).x, people.between(3, own, 0.5).x)
    people.added.clear()


def test_a_tables_values_are_shown_in_its_own_units(people: Session) -> None:
    """Standardised once on the way in, and restored on the way out: for pictures made here, and for those of `draw`."""
    assert people.shown.words(people.model.prepare(people.observations([3]))[0]) == "height 153, weight 51, hand b"
    made = people.model.restore(people.expected([3, 7]).x)
    heights, weights = people.data.x[:, 0], people.data.x[:, 1]
    assert ((heights.min() < made[:, 0]) & (made[:, 0] < heights.max())).all()
    assert ((weights.min() < made[:, 1]) & (made[:, 1] < weights.max())).all()
    a, b = draw.reconstruct(people.model, people.data, 1)[:2, 0]
    row = int((people.model.prepare(people.data.x) - a).abs().sum(1).argmin())
    torch.testing.assert_close(people.model.restore(a[None])[0], people.data.x[row])
    torch.testing.assert_close(b, people.model.reconstruct(people.data.x[[row]])[0])
    grid = draw.swap(people.model, people.data, 2)
    given = people.model.restore(torch.cat([grid[1:, 0], grid[0, 1:]]))
    torch.testing.assert_close(grid[1, 2], people.model.swap(given[:1], given[3:])[0])


def test_arrays_are_rows_where_all_features_are_numbers(people: Session, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'hand' holds words"):
        people.upload(npy(np.zeros((2, 3))))
    (tmp_path / "t.csv").write_text("who,a,b\n" + "\n".join(f"{i % 2},{i},{i * i}" for i in range(8)))
    data = mlvae.read(tmp_path / "t.csv", by="who")
    session = Session(mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8), data)
    kept = session.observations(session.upload(npy(np.array([[1.5, 2], [3, 4]])))["rows"])
    torch.testing.assert_close(kept, torch.tensor([[1.5, 2], [3, 4]]))
    with pytest.raises(DataError, match="\\(N, 2\\), columns 'a', 'b'"):
        session.upload(npy(np.zeros((2, 3))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"height,weight\n1,2\n", "'hand' is missing"),
        (b"a,b\n1,2\n", "'height', 'weight', 'hand', in the file; got 'a', 'b'"),
        (b"height,weight,hand\ntall,2,a\n", "numbers in column 'height'"),
        (b"height,weight,hand\n1,2\n3", "as many fields as the header"),
        (b"height,height,hand\n1,2,a\n", "occurs twice"),
        (b"height,weight,hand\n1,inf,a\n", "finite numbers in column 'weight'"),
        (b"height,weight,hand\n", "has none"),
        (b"", "none of them"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "none of them"),
        (b"PK\x03\x04 and then something else", "cannot be read"),
        (parquet({"height": [1]})[:40], "whole Parquet file"),
        (npz(height=np.zeros(2), weight=np.zeros(3), hand=np.zeros(2)), "of one length"),
        (parquet({"height": [[1.0]], "weight": [2.0], "hand": ["a"]}), "cannot be read"),
        (b"height,weight,hand\n" + b"1,2,a\n" * (rows.ROWS + 1), "at most 200 rows"),
        (b",".join([b"c%d" % c for c in range(rows.COLUMNS + 1)]) + b"\n", "at most 10,000 columns"),
        (npz(height=np.zeros(rows.DECODED // 8 + 1)), "at most 64 MB"),
        (parquet({"height": np.zeros(rows.DECODED // 8 + 1)}), "at most 64 MB"),
        (npy(np.zeros(10**8 // 8, np.int8)).replace(b"(12500000,)", b"(92500000,)")[:200], "at most 64 MB"),
    ],
    ids=range(18),
)  # fmt: skip
def test_bad_tables_are_a_message(content: bytes, message: str, people: Session) -> None:
    with pytest.raises(DataError, match=message):
        people.upload(content)
    assert not people.added


@pytest.fixture(scope="module")
def motion() -> Session:
    """A model of windows, 3 channels of 16 steps."""
    x = torch.rand(12, 3, 16, generator=torch.Generator().manual_seed(0))
    data = GroupedData.from_arrays(x, np.arange(12) % 3)
    return Session(mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8, network="series"), data)


def test_sequences_in_any_of_their_files(motion: Session) -> None:
    x = np.random.default_rng(0).random((2, 3, 16)).astype(np.float32)
    steps = "\n".join(",".join(map(str, step)) for step in x[0].T)
    named = parquet({f"channel{c}": x[0, c] for c in range(3)})
    for content, expected in (
        (npy(x), x), (npy(x[0]), x[:1]), (npz(x=x, who=np.arange(2)), x), (npz(only=x[0].T), x[:1]),
        (f"a,b,c\n{steps}".encode(), x[:1]), (steps.encode(), x[:1]), (named, x[:1]),
        (parquet({"x": x.tolist()}), x),
    ):  # fmt: skip
        kept = motion.observations(motion.upload(content)["rows"])
        torch.testing.assert_close(kept, torch.from_numpy(expected))
    assert motion.shown.file(kept[0])[0] == "image/svg+xml"
    motion.added.clear()


def test_a_short_sequence_ends_in_a_gap_where_the_model_knows_gaps() -> None:
    assert rows.sequences(b"1\n2\n", (3,), True).isnan().tolist() == [[False, False, True]]
    assert rows.sequences(b"1,2\n3,4\n", (3,), True).isnan().sum() == 2  # a row an observation
    assert rows.sequences(npy(np.zeros((2, 4))), (3, 4), True).isnan().sum() == 4
    assert rows.sequences(npy(np.zeros((6, 5))), (6, 10), True, -1).isnan().sum() == 30
    with pytest.raises(DataError, match="of shape \\(6, 10\\)"):
        rows.sequences(npy(np.zeros((4, 10))), (6, 10), True, -1)
    with pytest.raises(DataError, match="of shape \\(3,\\)"):
        rows.sequences(b"1\n2\n", (3,), False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.zeros((2, 3, 17))), "got an array of shape \\(2, 3, 17\\)"),
        (npy(np.zeros((rows.ROWS + 1, 3, 16))), "at most 200 observations"),
        (npy(np.array(["a"])), "Expected numbers in the file"),
        (npz(a=np.zeros(2), b=np.zeros(2)), "an array 'x'"),
        (b"who,a,b\nann,1,2\n", "'who' holds something else"),
        (parquet({"x": [[1.0], [2.0, 3.0]]}), "one length"),
        (npy(np.full((3, 16), np.inf)), "finite"),
    ],
    ids=range(7),
)  # fmt: skip
def test_bad_sequences_are_a_message(content: bytes, message: str, motion: Session) -> None:
    with pytest.raises(DataError, match=message):
        motion.upload(content)
    assert not motion.added


def test_a_table_is_taken_by_the_server(people: Session) -> None:
    pytest.importorskip("fastapi")
    from mlvae.explore.app import app

    served = app(people)
    assert ".parquet" in asked(served, "/api/about")[1]["uploads"]["accept"]
    assert asked(served, "/api/upload", AS_TEXT)[1] == {"rows": [40, 41], "missing": 2}
    status, found = asked(served, "/api/upload", b"height,weight\n1,2\n")
    assert status == 400 and "'hand'" in found["message"] and len(people.added) == 2
    assert asked(served, "/api/picture/41")[1].startswith(b"<svg")
    assert asked(served, "/api/posterior", {"rows": [40, 41]})[1]["count"] == 2
    assert asked(served, "/api/swap", {"a": 40, "b": 3})[1]["words"][0].startswith("height 1")
    people.added.clear()


def asked(app: Any, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and answer of one request, without a socket."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    told = {
        "host": "127.0.0.1:1",
        "content-length": str(len(raw)),
        "content-type": "application/json",
        **(headers or {}),
    }
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "client": None, "server": None,
        "method": "GET" if body is None else "POST",
        "headers": [(name.encode(), value.encode()) for name, value in told.items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent)
    try:
        return sent[0]["status"], json.loads(content)
    except ValueError:
        return sent[0]["status"], content


@pytest.fixture(scope="module")
def app(session: Session) -> Any:
    pytest.importorskip("fastapi")
    from mlvae.explore.app import app

    return app(session)


def test_the_server_answers(app: Any, session: Session) -> None:
    assert asked(app, "/")[0] == 200 and asked(app, "/explore.js")[0] == 200 and asked(app, "/style.css")[0] == 200
    assert asked(app, "/session.py")[0] == 404
    assert asked(app, "/api/about")[1]["observations"] == 300
    assert asked(app, "/api/groups?part=3")[1] == session.groups("3") and session.groups("3")[0]["name"] == "3"
    a, b = asked(app, "/api/pick?group=3&count=2")[1]
    assert asked(app, f"/api/picture/{a}")[1][:4] == b"\x89PNG"
    assert asked(app, "/api/posterior", {"rows": [a, b]})[1] == session.posterior([a, b])
    for path, body in (
        ("swap", {"a": a, "b": b}), ("between", {"a": a, "b": b, "share": 0.5}), ("expected", {"rows": [a]}),
        ("walk", {"row": a, "level": "style", "dimension": 0, "value": 1}), ("generate", {"count": 2, "seed": 1}),
    ):  # fmt: skip
        status, found = asked(app, f"/api/{path}", body)
        assert (
            status == 200 and found["pictures"][0].startswith("data:image/png;base64,") and "made =" in found["python"]
        )
    assert len(asked(app, "/api/identify", {"rows": [a]})[1]) == 5


def test_only_its_own_address_is_answered(app: Any) -> None:
    for headers in (
        {"host": "evil.example"},
        {"host": "evil.example:8765"},
        {"host": ""},
        {"origin": "http://evil.example"},
    ):
        assert asked(app, "/api/about", headers=headers)[0] == 403
        assert asked(app, "/api/posterior", {"rows": [0]}, headers)[0] == 403
    for host in ("localhost:99", "127.0.0.1", "[::1]:8"):
        assert asked(app, "/api/about", headers={"host": host})[0] == 200
    assert asked(app, "/api/about", headers={"origin": "http://localhost:99"})[0] == 200


def test_what_is_too_large_or_wrong_is_refused(app: Any, session: Session) -> None:
    assert asked(app, "/api/upload", b"\0", {"content-length": str(BYTES + 1)})[0] == 413
    assert asked(app, "/api/posterior", b"{}", {"content-length": "100000"})[0] == 413
    assert asked(app, "/api/upload", b"x", {"transfer-encoding": "chunked"})[0] == 411
    status, found = asked(app, "/api/upload", b"no picture")
    assert status == 400 and "PNG or JPEG" in found["message"] and not session.added
    assert asked(app, "/api/posterior", {"rows": [0] * 1000})[0] == 422
    assert asked(app, "/api/swap", {"a": 0, "b": 10**6})[0] == 400
    status, found = asked(app, "/api/upload", png())
    assert status == 200 and found == {"rows": [300], "missing": 0}
    session.added.clear()


def test_requests_beyond_the_waiting_places_are_turned_away() -> None:
    pytest.importorskip("fastapi")
    from mlvae.explore.app import WAITING, BusyError, Gate

    gate, hold = Gate(), threading.Event()
    threads = [threading.Thread(target=gate, args=(hold.wait,)) for _ in range(WAITING)]
    for thread in threads:
        thread.start()
    while gate.places._value:  # type: ignore[attr-defined]
        pass
    with pytest.raises(BusyError):
        gate(lambda: None)
    hold.set()
    for thread in threads:
        thread.join()
    assert gate(lambda: 7) == 7


def test_what_was_sent_is_not_sent_back(app: Any) -> None:
    """Not even where it could not be: NaN is no JSON."""
    body = b'{"row": 1, "level": "<script>", "dimension": 0, "value": NaN}'
    status, found = asked(app, "/api/walk", body)
    assert status == 422 and found["message"] == "Expected other values in: body.value."
    status, found = asked(app, "/api/expected", {"rows": [1], "seed": 10**30})
    assert status == 422 and "seed" in found["message"]


def test_a_body_that_does_not_come_is_not_waited_for(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlvae.explore import app as module

    monkeypatch.setattr(module, "SECONDS", 0.05)
    headers = {"host": "127.0.0.1", "content-length": "10", "content-type": "application/json"}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "path": "/api/posterior",
        "raw_path": b"/api/posterior", "query_string": b"", "root_path": "", "client": None, "server": None,
        "method": "POST", "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408


def test_beyond_this_machine_a_token_is_asked_for(session: Session) -> None:
    pytest.importorskip("fastapi")
    from mlvae.explore.app import COOKIE, app

    open_to_others = app(session, token="secret")
    there = {"host": "192.168.1.5:8765"}
    assert asked(open_to_others, "/api/about", headers=there)[0] == 401
    assert asked(open_to_others, "/?token=guess", headers=there)[0] == 401
    assert asked(open_to_others, "/api/about?token=secret", headers=there)[0] == 401, "only the page's address takes it"
    assert asked(open_to_others, "/?token=secret", headers=there)[0] == 303
    known = {**there, "cookie": f"{COOKIE}=secret"}
    assert asked(open_to_others, "/api/about", headers=known)[0] == 200
    assert asked(open_to_others, "/api/about", headers={**there, "cookie": f"{COOKIE}=secre"})[0] == 401
    assert asked(open_to_others, "/api/about", headers={**known, "origin": "http://192.168.1.5:8765"})[0] == 200
    assert asked(open_to_others, "/api/about", headers={**known, "origin": "http://evil.example"})[0] == 403
    assert asked(open_to_others, "/api/about", headers={"host": "", "cookie": f"{COOKIE}=secret"})[0] == 403


def test_a_head_that_does_not_come_is_hung_up_on(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import time

    from mlvae.explore import serving

    monkeypatch.setattr(serving, "SECONDS", 0.3)
    listening = serving.listen("127.0.0.1", 0)
    running = serving.server(app)
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    try:
        with socket.create_connection(listening.getsockname(), 20) as slow:
            started = time.monotonic()
            slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
            assert slow.recv(100) == b"" and time.monotonic() - started > 0.25
        with socket.create_connection(listening.getsockname(), 20) as quick:
            quick.sendall(b"GET /api/about HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert quick.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        running.should_exit = True
        thread.join(20)
