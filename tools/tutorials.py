"""Runs the tutorials in place, from top to bottom, and keeps what they print and draw: `make tutorials`.

python tools/tutorials.py docs/tutorials/digits.ipynb [...]

A notebook that reads a file which is not there is left as it is, and named: the folder is DATA in the environment.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NEEDS = {"omniglot": "omniglot_28.npz", "spoken": "fsdd_logmel_48x48.npz"}
"""What tutorials read from the folder DATA."""


def run(path: Path) -> None:
    """Executes one notebook, each in a fresh folder, and writes it back without times, paths and counts of the run."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)


def main(paths: list[Path]) -> int:
    """Runs those whose data are there; the number of those that failed, which are left as they were."""
    failed = 0
    data = os.environ.get("DATA", "")
    if data:
        os.environ["DATA"] = str(Path(data).resolve())
    for path in paths:
        needed = NEEDS.get(path.stem)
        if needed and not (data and (Path(data) / needed).exists()):
            print(f"{path.name}: left as it is, without DATA/{needed}")
            continue
        try:
            run(path)
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: {error}", flush=True)
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="notebook")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not path.is_file()]:
        parser.error(f"expected notebooks; {', '.join(missing)} not found")
    sys.exit(main(arguments.paths))
