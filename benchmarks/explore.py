"""How long a slider of `mlvae explore` waits for its picture: python benchmarks/explore.py runs/faces faces.npz.

Walks and interpolations take turns over HTTP on this machine, from request to the last byte; one client, warmed up.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import threading
import time
import urllib.request

import torch
import uvicorn

import mlvae
from mlvae.explore.app import app
from mlvae.explore.session import Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--by")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = mlvae.load(options.run)
    data = mlvae.read(options.data, by=options.by, like=model)
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app(Session(model, data)), log_level="error"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()

    def wait(path: str, body: dict[str, object]) -> float:
        request = urllib.request.Request(
            f"{address}/api/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        started = time.perf_counter()
        with urllib.request.urlopen(request) as answer:
            answer.read()
        return 1000 * (time.perf_counter() - started)

    waits: dict[str, list[float]] = {"walk": [], "between": []}
    level = model.levels[-1].name
    for step in range(-5, options.steps):
        share = abs(step) / options.steps
        found = {
            "walk": wait("walk", {"row": 0, "level": level, "dimension": 0, "value": 6 * share - 3}),
            "between": wait("between", {"a": 0, "b": 1, "share": share}),
        }
        for name, value in found.items():
            if step >= 0:
                waits[name].append(value)
    server.should_exit = True
    thread.join(10)
    for name, values in waits.items():
        high = sorted(values)[int(0.95 * len(values))]
        print(f"{name}: median {statistics.median(values):.1f} ms, 95 % below {high:.1f} ms, {len(values)} steps")


if __name__ == "__main__":
    main()
