"""How arguments are spelt and how mistakes are told: between what a user types and what the parser knows."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from mlvae.errors import nearest

Commands = Mapping[str, Any]


def hyphenated(text: str) -> str:
    """Options as they are typed."""
    return re.sub(r"--[a-z_]+", lambda option: option.group().replace("_", "-"), text)


def spelt(commands: Commands, arguments: list[str]) -> list[str]:
    """Arguments as the parser spells them: underscores in options, and a switch without a value is on."""
    switches = {k for f in commands.values() for k, kind in f.__annotations__.items() if kind == "bool"}
    result = []
    if arguments[:1] == ["info"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        arguments = ["info", "--run", *arguments[1:]]  # the parser takes only what is required by position
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name in switches and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
            argument = f"--{name}{equals}{value}"
        result.append(argument)
    return result


def fail(message: str) -> NoReturn:
    """A user's mistake: one line, exit code 2."""
    print("mlvae: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def helpful(commands: Commands, message: str) -> str:
    """The parser's message with the nearest option, where one was unknown."""
    unknown = re.search(r"nrecognized arguments: --([\w-]+)|does not accept option '([\w.]+)'", message)
    if not unknown:
        return f"{message.strip().rstrip('.')}. See mlvae --help."
    name = (unknown.group(1) or unknown.group(2)).split(".")[-1]
    parameters: set[str] = set()
    for command in commands.values():
        parameters |= set(command.__annotations__) - {"return"}
    hint = nearest(name.replace("-", "_"), sorted(parameters))
    hint = hint if hint.startswith("Did") else "See mlvae --help."
    return f"Unknown option {name!r}. " + (hint.replace("_", "-") if unknown.group(1) else hint)
