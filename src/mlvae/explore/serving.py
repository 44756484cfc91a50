"""The page on a socket: few connections at a time, none that dawdles."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 128
"""Open at a time; what comes beyond is turned away."""

SECONDS = 10.0
"""That a client may take to send the head of a request."""


class _Impatient(H11Protocol):
    """HTTP that hangs up where the head of a request does not come: connections are few."""

    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
        super().connection_lost(error)

    def _wait(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        elif not answering and self.waiting is None:
            self.waiting = self.loop.call_later(SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        self.waiting = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def server(app: Any) -> uvicorn.Server:
    """A server of the page; `run(sockets=[...])` serves it."""
    return uvicorn.Server(
        uvicorn.Config(app, http=_Impatient, ws="none", log_level="warning", limit_concurrency=CONNECTIONS)
    )


def loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there.

    Example:
        >>> loopback("127.0.0.1"), loopback("localhost"), loopback("::1"), loopback("0.0.0.0"), loopback("example.org")
        (True, True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket at that address; raises OSError where there can be none."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
