"""The commands, one function each: its arguments are the options, its docstring the help.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from typing import Any

from mlvae.commands.about import info
from mlvae.commands.codes import draw, encode
from mlvae.commands.demo import demo
from mlvae.commands.evidence import EVIDENCE
from mlvae.commands.export import export
from mlvae.commands.look import look
from mlvae.commands.measure import measure
from mlvae.commands.show import serve, tell
from mlvae.commands.train import train

# Not called `evaluate`: the parser would look that name up in the package, and import torch for --help.
COMMANDS: dict[str, Any] = {
    "demo": demo, "inspect": look, "train": train, "encode": encode, "draw": draw, "evaluate": measure,
    "report": tell, "explore": serve, "export": export, "info": info,
    "evidence": {"_help": "Add evidence on disk, take it back, and ask who is who.", **EVIDENCE},
}  # fmt: skip

SECTIONS: dict[Any, dict[str, str]] = {
    train: {
        "level": "the model", "objective": "what is asked of it", "groups": "batches and steps",
        "missing": "reading the data",
    },
}  # fmt: skip
"""Headings in a command's help, by the first option under each."""
