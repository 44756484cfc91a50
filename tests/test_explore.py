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
from mlvae import Level
from mlvae.data import GroupedData
from mlvae.depict import Depiction
from mlvae.errors import DataError, ModelError
from mlvae.explore.session import MOST, UPLOADS, Session
from mlvae.explore.uploads import BYTES, observation


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
    ):
        names: dict[str, Any] = {}
        exec(made.python, names)
        torch.testing.assert_close(names["made"].detach(), made.x, rtol=1e-4, atol=1e-5)


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
    # Its only member taken out, "alone" has no evidence: it is as likely as none of these, but for their priors.
    assert known["alone"] == pytest.approx(known[None] / 2, rel=1e-6)
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
        x = observation(content, (8, 8), session.shown)
        assert x.shape == (8, 8) and torch.allclose(x, torch.tensor(200 / 255), atol=0.01)
    assert observation(png("RGBA", colour=(0, 0, 0, 0)), (3, 8, 8), session.shown).min() == 1
    assert observation(png(), (8, 8), Depiction("image", -1.0, 3.0)).mean() == pytest.approx(-1 + 4 * 200 / 255)
    row = session.add(observation(png(), (8, 8), session.shown))
    assert row == len(session.data) and session.posterior([row, 0])["count"] == 2
    assert "uploaded" in session.swap(row, 0).python
    session.added.clear()


@pytest.mark.parametrize("content", [b"", b"hello", png()[:60], bomb(), b"\0" * (BYTES + 1), b"<svg/>"], ids=range(6))
def test_bad_files_are_a_message(content: bytes, session: Session) -> None:
    with pytest.raises(DataError, match="Expected a"):
        observation(content, (8, 8), session.shown)


def test_uploads_are_counted(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "added", [torch.zeros(8, 8)] * UPLOADS)
    with pytest.raises(DataError, match="at most"):
        session.add(torch.zeros(8, 8))


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
    assert status == 200 and found["row"] == 300
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
