"""The page's server: addresses, limits, and whom it answers. What it answers is `Session`'s."""

from __future__ import annotations

import asyncio
import base64
import secrets
import threading
from collections.abc import Callable
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from mlvae.errors import MLVAEError
from mlvae.explore.session import MOST, Made, Session
from mlvae.explore.uploads import BYTES

WAITING = 64
"""Requests that may wait for the model; what comes beyond is turned away."""

BODY = 2**16
"""Bytes of a request that is no upload."""

SECONDS = 20.0
"""That a client may take to send a request's body."""

COOKIE = "mlvae"

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
    seed: int = Field(default=0, ge=0, le=2**31)
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


def app(
    session: Session, hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]"), token: str | None = None
) -> FastAPI:
    """The page over a session.

    Args:
        session: what it shows.
        hosts: names, without a port, that the Host header may have. Another one is refused: a page from elsewhere that
            points its own name here must not be able to read the data.
        token: what a browser must show once, as in ``/?token=...``, to be answered at all; then any host is. It is for
            a page that other machines can reach.
    """
    served = FastAPI(title="mlvae explore", docs_url=None, redoc_url=None)
    gate = Gate()

    def told(made: Made) -> dict[str, Any]:
        shown = [session.shown.file(x) for x in made.x]
        uris = [f"data:{kind};base64,{base64.b64encode(content).decode()}" for kind, content in shown]
        return {"pictures": uris, "words": [session.shown.words(x) for x in made.x], "python": made.python}

    @served.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Any]) -> Response:
        host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
        came_from = _name(origin.split("//")[-1])
        known = _name(host) in hosts if token is None else bool(host)
        if not known or (origin and came_from not in (hosts if token is None else (_name(host),))):
            return JSONResponse({"message": "This page answers its own address only."}, 403, HEADERS)
        if token is not None and not _same(request.cookies.get(COOKIE, ""), token):
            if request.url.path == "/" and _same(request.query_params.get("token", ""), token):
                # Away from the address bar at once; other sites' pages do not send the cookie.
                entered = RedirectResponse("./", 303, HEADERS)
                entered.set_cookie(COOKIE, token, httponly=True, samesite="strict")
                return entered
            return JSONResponse(
                {"message": "Open the address, with its token, that mlvae explore printed."}, 401, HEADERS
            )
        bound = BYTES if request.url.path == "/api/upload" else BODY
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (not length.isdecimal() or "transfer-encoding" in request.headers):
            return JSONResponse({"message": "Expected a request of known length."}, 411, HEADERS)
        if int(length) > bound:
            return JSONResponse(
                {"message": f"Expected at most {bound / 2**20:.3g} MB; got more. Shrink it."}, 413, HEADERS
            )
        if request.method == "POST":
            try:
                async with asyncio.timeout(SECONDS):
                    await request.body()
            except TimeoutError:
                return JSONResponse({"message": "Expected the whole request sooner. Send it again."}, 408, HEADERS)
        response: Response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @served.exception_handler(MLVAEError)
    async def mistake(request: Request, error: MLVAEError) -> Response:
        return JSONResponse({"message": str(error)}, 400)

    @served.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> Response:
        # FastAPI would send back what came, which need not be anything that can be sent.
        places = sorted({".".join(map(str, problem["loc"])) for problem in error.errors()})[:5]
        return JSONResponse({"message": f"Expected other values in: {', '.join(places)}."}, 422)

    @served.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return JSONResponse({"message": "The model is busy. Try again in a moment."}, 503)

    @served.get("/api/about")
    def about() -> dict[str, Any]:
        return session.about()

    @served.get("/api/groups")
    def groups(part: str = "") -> list[dict[str, Any]]:
        return session.groups(part)

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
    async def upload(request: Request) -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        content = await request.body()
        return await run_in_threadpool(lambda: gate(lambda: session.upload(content)))

    @served.get("/")
    @served.get("/{name}")
    def file(name: str = "") -> Response:
        if name not in FILES:
            return JSONResponse({"message": "There is no such page."}, 404)
        called, kind = FILES[name]
        source = resources.files("mlvae.explore").joinpath("page", called).read_text(encoding="utf-8")
        return Response(source, media_type=kind)

    return served


def _same(shown: str, token: str) -> bool:
    return secrets.compare_digest(shown.encode(), token.encode())


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
