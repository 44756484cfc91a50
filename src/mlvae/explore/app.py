"""The page's server: addresses, limits, and whom it answers. What it answers is `Session`'s."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from mlvae.errors import DataError, MLVAEError
from mlvae.explore.session import MOST, Made, Session
from mlvae.explore.uploads import BYTES, observation

WAITING = 16
"""Requests that may wait for the model; what comes beyond is turned away."""

BODY = 2**16
"""Bytes of a request that is no upload."""

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FILES = {
    "": ("index.html", "text/html"),
    "style.css": ("style.css", "text/css"),
    "explore.js": ("explore.js", "text/javascript"),
}
T = TypeVar("T")


class Tray(BaseModel):
    rows: list[int] = Field(default=[], max_length=MOST)
    seed: int = 0
    new: float = Field(default=0.1, ge=0, le=1)


class Pair(BaseModel):
    a: int
    b: int
    share: float = Field(default=0.5, allow_inf_nan=False)
    levels: list[str] | None = Field(default=None, max_length=MOST)


class Step(BaseModel):
    row: int
    level: str
    dimension: int
    value: float = Field(allow_inf_nan=False)


class New(BaseModel):
    count: int = 8
    seed: int = Field(default=0, ge=0, le=2**31)
    row: int | None = None
    keep: str | None = None


class Gate:
    """One request at a time has the model; few wait."""

    def __init__(self) -> None:
        self.places = threading.BoundedSemaphore(WAITING)
        self.model = threading.Lock()

    def __call__(self, work: Callable[[], T]) -> T:
        if not self.places.acquire(blocking=False):
            raise BusyError
        try:
            with self.model:
                return work()
        finally:
            self.places.release()


class BusyError(Exception):
    """Too many requests wait."""


def app(session: Session, hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")) -> FastAPI:
    """The page over a session.

    Args:
        session: what it shows.
        hosts: names, without a port, that the Host header may have. Another one is refused: a page from elsewhere that
            points its own name here must not be able to read the data.
    """
    served = FastAPI(title="mlvae explore", docs_url=None, redoc_url=None)
    gate = Gate()

    def told(made: Made) -> dict[str, Any]:
        shown = [session.shown.file(x) for x in made.x]
        uris = [f"data:{kind};base64,{base64.b64encode(content).decode()}" for kind, content in shown]
        return {"pictures": uris, "python": made.python}

    @served.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Any]) -> Response:
        origin = request.headers.get("origin", "")
        ours = _name(request.headers.get("host", "")) in hosts and (
            not origin or _name(origin.split("//")[-1]) in hosts
        )
        if not ours:
            return JSONResponse({"message": "This page answers its own address only."}, 403, HEADERS)
        bound = BYTES if request.url.path == "/api/upload" else BODY
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (not length.isdecimal() or "transfer-encoding" in request.headers):
            return JSONResponse({"message": "Expected a request of known length."}, 411, HEADERS)
        if int(length) > bound:
            return JSONResponse(
                {"message": f"Expected at most {bound / 2**20:.3g} MB; got more. Shrink it."}, 413, HEADERS
            )
        response: Response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @served.exception_handler(MLVAEError)
    async def mistake(request: Request, error: MLVAEError) -> Response:
        return JSONResponse({"message": str(error)}, 400)

    @served.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return JSONResponse({"message": "The model is busy. Try again in a moment."}, 503)

    @served.get("/api/about")
    def about() -> dict[str, Any]:
        return session.about()

    @served.get("/api/pick")
    def pick(group: str, start: int = 0, count: int = 12) -> list[int]:
        return session.pick(group, max(0, start), max(1, count))

    @served.get("/api/picture/{row}")
    def picture(row: int) -> Response:
        kind, content = gate(lambda: session.picture(row))
        return Response(content, media_type=kind)

    @served.post("/api/posterior")
    def posterior(tray: Tray) -> dict[str, Any]:
        return gate(lambda: session.posterior(tray.rows))

    @served.post("/api/expected")
    def expected(tray: Tray) -> dict[str, Any]:
        return gate(lambda: told(session.expected(tray.rows, seed=tray.seed)))

    @served.post("/api/identify")
    def identify(tray: Tray) -> list[dict[str, Any]]:
        return [vars(known) for known in gate(lambda: session.identify(tray.rows, tray.new))]

    @served.post("/api/swap")
    def swap(pair: Pair) -> dict[str, Any]:
        return gate(lambda: told(session.swap(pair.a, pair.b, pair.levels)))

    @served.post("/api/between")
    def between(pair: Pair) -> dict[str, Any]:
        return gate(lambda: told(session.between(pair.a, pair.b, pair.share, pair.levels)))

    @served.post("/api/walk")
    def walk(step: Step) -> dict[str, Any]:
        return gate(lambda: told(session.walk(step.row, step.level, step.dimension, step.value)))

    @served.post("/api/generate")
    def generate(new: New) -> dict[str, Any]:
        return gate(lambda: told(session.generate(new.count, new.seed, new.row, new.keep)))

    @served.post("/api/upload")
    async def upload(request: Request) -> dict[str, int]:
        content = await request.body()
        if not session.uploads:
            raise DataError("Expected a model of pictures without covariates to upload to; this one is another.")
        from starlette.concurrency import run_in_threadpool

        def take() -> int:
            return gate(lambda: session.add(observation(content, session.model.shape, session.shown)))

        return {"row": await run_in_threadpool(take)}

    @served.get("/")
    @served.get("/{name}")
    def file(name: str = "") -> Response:
        if name not in FILES:
            return JSONResponse({"message": "There is no such page."}, 404)
        called, kind = FILES[name]
        source = resources.files("mlvae.explore").joinpath("page", called).read_text(encoding="utf-8")
        return Response(source, media_type=kind)

    return served


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
