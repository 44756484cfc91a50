"""Files are whole or not there, whenever the writer dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlvae.atomic import replacing

WRITE = """
import sys
from mlvae.atomic import replacing
for i in range(10**9):
    with replacing(sys.argv[1]) as beside:
        with beside.open("wb") as file:
            for _ in range(40):
                file.write(str(i).encode().rjust(20000))
    print(i, flush=True)
"""


def test_a_writer_killed_at_random_instants_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    target, dice = tmp_path / "file", random.Random(0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(target)], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        confirmed = [int(line) for line in process.stdout.read().split()]
        process.wait()
        content = target.read_bytes()
        versions = {content[i : i + 20000].strip() for i in range(0, len(content), 20000)}
        assert len(content) == 800000 and len(versions) == 1
        assert int(versions.pop()) >= max(confirmed, default=0)


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "file") as beside:
        beside.write_text("new")
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
