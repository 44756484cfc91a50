"""Nothing leaves the machine: no socket is opened where nobody asked for the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[1]

BLOCKED = """
import sys

asked = []

def watch(event, arguments):
    # Every way to the network that Python knows passes here: connecting, sending, asking for a name's address. A socket
    # of the machine itself (AF_UNIX) is none.
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        asked.append((event, str(arguments)))
        raise PermissionError(f"the network is closed: {event} {arguments}")

sys.addaudithook(watch)
for name in ("HF_HUB_OFFLINE", "DO_NOT_TRACK"):
    assert name not in __import__("os").environ, "nothing is switched off by hand"
"""

WORK = """
import warnings
warnings.simplefilter("ignore")
import torch
import mlvae
from mlvae.cli import main

folder = sys.argv[1]
data = mlvae.read("digits").subset(range(300))
import numpy as np
np.savez(f"{folder}/d.npz", x=data.x.numpy(), group=data.groups, split=np.arange(300) % 4 == 0)
torch.manual_seed(0)
main(["train", f"{folder}/d.npz", "--out", f"{folder}/run", "--epochs", "1", "--width", "16", "--validation", "0"])
files = ["--out", f"{folder}/c.parquet", "--evidence", f"{folder}/e.parquet"]
main(["encode", f"{folder}/run", f"{folder}/d.npz", *files])
main(["evidence", "merge", f"{folder}/e.parquet", "--out", f"{folder}/m.parquet"])
main(["evaluate", f"{folder}/run", f"{folder}/d.npz", "--quick", "--out", f"{folder}/metrics.json"])
main(["info", f"{folder}/run"])
from mlvae.hub import from_pretrained, save_pretrained
save_pretrained(mlvae.load(f"{folder}/run"), f"{folder}/hub")
from_pretrained(f"{folder}/hub")
from mlvae.explore.app import app
from mlvae.explore.session import Session
app(Session(mlvae.load(f"{folder}/run"), data))
if asked:
    sys.exit(f"{asked}")
print("nobody was called")
"""

PROOF = """
import socket
try:
    socket.create_connection(("127.0.0.1", 9))
except PermissionError:
    pass
print(len(asked), "caught")
"""


def ran(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(HOUSE / "src")}
    for name in ("HF_HUB_OFFLINE", "DO_NOT_TRACK"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + text, *arguments], env=environment, capture_output=True, text=True
    )


def test_importing_training_encoding_and_evaluating_ask_nobody(tmp_path: Path) -> None:
    found = ran(WORK, str(tmp_path))
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    assert found.stdout.endswith("nobody was called\n")


def test_the_watch_would_notice() -> None:
    assert ran(PROOF).stdout == "1 caught\n"


def test_no_address_is_in_the_package_but_in_words() -> None:
    """What could be called: the page's own address, and the name of a format."""
    known = ("http://{named}", "http://www.w3.org/")
    for source in sorted((HOUSE / "src").rglob("*")):
        if source.suffix in (".py", ".js", ".html", ".css"):
            text = source.read_text(encoding="utf-8")
            for at in (i for i in range(len(text)) if text.startswith(("http://", "https://"), i)):
                assert text.startswith(known, at), f"{source}: {text[at : at + 60]}"
