"""Puts the page under load: many clients on loopback, and beside them some that dawdle, flood and lie.

    python tools/load.py --clients 50 --seconds 120

The server runs in a process of its own. Every answer to a client must be right and none an error; every hostile request
must be refused with the status that says why; the server's memory and open files must stay where they were after
the first fifth of the time. Exit code 1 where anything is not so.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

GROWTH = 24 * 2**20
"""Bytes that the server may grow by after it has warmed up."""


def serve() -> None:
    """The child: a small model of digits, until its standard input closes."""
    import torch

    import mlvae
    from mlvae.explore.app import app
    from mlvae.explore.serving import listen, server
    from mlvae.explore.session import Session

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = mlvae.read("digits").subset(range(400))
    session = Session(mlvae.MLVAE.for_data(data, content_dim=4, style_dim=3, width=16), data)
    listening = listen("127.0.0.1", 0)
    running = server(app(session))

    def stop() -> None:
        sys.stdin.read()
        running.should_exit = True

    threading.Thread(target=stop, daemon=True).start()
    print(listening.getsockname()[1], flush=True)
    running.run(sockets=[listening])


def request(dice: random.Random) -> tuple[str, str, Any]:
    a, b = dice.randrange(400), dice.randrange(400)
    return dice.choice(
        [
            ("GET", "/", None),
            ("GET", "/api/about", None),
            ("GET", f"/api/pick?group={dice.randrange(10)}&start=0&count=6", None),
            ("GET", f"/api/picture/{a}", None),
            ("POST", "/api/posterior", {"rows": [a, b]}),
            ("POST", "/api/expected", {"rows": [a], "seed": 1}),
            ("POST", "/api/identify", {"rows": [a, b]}),
            ("POST", "/api/swap", {"a": a, "b": b}),
            ("POST", "/api/between", {"a": a, "b": b, "share": dice.random()}),
            ("POST", "/api/walk", {"row": a, "level": "style", "dimension": 1, "value": 0.5}),
            ("POST", "/api/generate", {"count": 4, "seed": 3}),
        ]
    )


class Counts:
    """What all clients saw."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seconds: list[float] = []
        self.wrong: collections.Counter[str] = collections.Counter()
        self.refused: collections.Counter[str] = collections.Counter()

    def add(self, seconds: float) -> None:
        with self.lock:
            self.seconds.append(seconds)

    def fail(self, what: str) -> None:
        with self.lock:
            self.wrong[what] += 1

    def refuse(self, what: str) -> None:
        with self.lock:
            self.refused[what] += 1


def client(port: int, seed: int, end: float, counts: Counts) -> None:
    dice = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < end:
        method, path, body = request(dice)
        started = time.monotonic()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200 or not content:
                counts.fail(f"{method} {path.partition('?')[0].rstrip('0123456789')}: {answer.status}")
            counts.add(time.monotonic() - started)
        except (OSError, http.client.HTTPException) as error:
            counts.fail(f"{type(error).__name__}: {error}")
            connection.close()
    connection.close()


HOSTILE: list[tuple[str, str, str, bytes, dict[str, str], set[int]]] = [
    ("another host", "GET", "/api/about", b"", {"Host": "evil.example"}, {403}),
    ("another site", "POST", "/api/posterior", b"{}", {"Origin": "http://evil.example"}, {403}),
    ("huge upload", "POST", "/api/upload", b"", {"Content-Length": str(10**12)}, {413}),
    ("huge request", "POST", "/api/posterior", b"x" * 70_000, {}, {413}),
    ("length unknown", "POST", "/api/posterior", b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}, {411}),
    ("no JSON", "POST", "/api/posterior", b"[[[[", {}, {422}),
    ("deep JSON", "POST", "/api/posterior", b"[" * 60_000, {}, {400, 422}),
    ("wrong types", "POST", "/api/swap", b'{"a": "x", "b": []}', {}, {422}),
    ("rows beyond", "POST", "/api/swap", b'{"a": 99999999999999999999, "b": -5}', {}, {400, 422}),
    ("many rows", "POST", "/api/posterior", json.dumps({"rows": [1] * 9000}).encode(), {}, {422}),
    ("a seed beyond", "POST", "/api/expected", b'{"rows": [1], "seed": 1e30}', {}, {400, 422}),
    ("no number", "POST", "/api/walk", b'{"row":1,"level":"style","dimension":0,"value":NaN}', {}, {400, 422}),
    ("far away", "POST", "/api/walk", b'{"row":1,"level":"style","dimension":0,"value":1e300}', {}, {200, 400, 422}),
    ("no level", "POST", "/api/walk", b'{"row":1,"level":"x","dimension":-9,"value":1}', {}, {400, 422}),
    ("no dimension", "POST", "/api/walk", b'{"row":1,"level":"style","dimension":99999,"value":1}', {}, {400, 422}),
    ("no count", "POST", "/api/generate", b'{"count": -1}', {}, {400, 422}),
    ("large count", "POST", "/api/generate", b'{"count": 1000000000}', {}, {400, 422}),
    ("no picture", "POST", "/api/upload", b"GIF89a" + b"\0" * 500, {}, {400}),
    ("no such page", "GET", "/../../etc/passwd", b"", {}, {404}),
    ("no such group", "GET", "/api/pick?group=%00%ff", b"", {}, {400}),
    ("no such row", "GET", "/api/picture/99999999999999999999", b"", {}, {400, 422}),
]


def hostile(port: int, end: float, counts: Counts) -> None:
    """Each wrong request in turn, over a connection of its own."""
    number = 0
    while time.monotonic() < end:
        name, method, path, body, headers, expected = HOSTILE[number % len(HOSTILE)]
        number += 1
        given = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "Content-Length": str(len(body))}
        given |= headers
        if "Transfer-Encoding" in headers:
            del given["Content-Length"]
        head = "".join(f"{key}: {value}\r\n" for key, value in given.items())
        try:
            with socket.create_connection(("127.0.0.1", port), 60) as raw:
                raw.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
                said = raw.recv(65536).split(b" ", 2)
            status = int(said[1]) if len(said) > 1 else 0
        except OSError as error:
            counts.fail(f"{name}: {error}")
            continue
        if status in expected:
            counts.refuse(name)
        else:
            counts.fail(f"{name}: {status}, not {sorted(expected)}")
        time.sleep(0.05)


def slow(port: int, end: float, counts: Counts, body: bool) -> None:
    """A request that comes a byte a second: the server must hang up, or say that it waits no longer."""
    while time.monotonic() < end - 25:
        head = f"POST /api/posterior HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 5000\r\n"
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 60) as raw:
            raw.sendall((head + ("\r\n" if body else "X-A: ")).encode())
            raw.settimeout(1)
            while time.monotonic() - started < 25:
                try:
                    raw.sendall(b"x")
                    if raw.recv(1000) is not None:
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                counts.fail(f"slow {'body' if body else 'head'}: kept for 25 s")
                continue
        counts.refuse(f"slow {'body' if body else 'head'}")


def held(process: int) -> tuple[int, int]:
    """Resident bytes and open files of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{process}/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve()
    child = subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    port, counts = int(child.stdout.readline()), Counts()
    started = time.monotonic()
    end = started + asked.seconds
    threads = [threading.Thread(target=client, args=(port, seed, end, counts)) for seed in range(asked.clients)]
    threads.append(threading.Thread(target=hostile, args=(port, end, counts)))
    threads += [threading.Thread(target=slow, args=(port, end, counts, body)) for body in (False, True)]
    for thread in threads:
        thread.start()
    time.sleep(asked.seconds / 5)
    before = held(child.pid)
    for thread in threads:
        thread.join()
    time.sleep(1)
    after = held(child.pid)
    child.stdin.close()
    child.wait()
    seconds = sorted(counts.seconds)
    grown, opened = after[0] - before[0], after[1] - before[1]
    print(
        f"{asked.clients} clients, {asked.seconds:g} s: {len(seconds):,} answers, {sum(counts.wrong.values())} wrong,"
        f" median {seconds[len(seconds) // 2] * 1e3:.0f} ms, 99 % within {seconds[len(seconds) * 99 // 100] * 1e3:.0f}"
    )
    print(f"refused {sum(counts.refused.values())} hostile requests of {len(counts.refused)} kinds")
    print(f"memory {before[0] / 2**20:.0f} to {after[0] / 2**20:.0f} MiB, open files {before[1]} to {after[1]}")
    for what, count in counts.wrong.most_common(20):
        print(f"  {count} x {what}")
    sys.exit(bool(counts.wrong) or grown > GROWTH or opened > 2)


if __name__ == "__main__":
    main()
