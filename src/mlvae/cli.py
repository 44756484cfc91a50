"""The command line: arguments in, calls out; how options are spelt and how mistakes are told."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import warnings
from typing import Any, NoReturn

from mlvae import __version__
from mlvae.commands import COMMANDS
from mlvae.errors import MLVAEError, nearest

PURPOSE = "Learn what a group shares."


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; a user's mistake is one line and exit code 2."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> None:
    if arguments in ([], ["-h"], ["--help"]):
        print(_overview())
        return
    if arguments == ["--version"]:
        print(f"mlvae {__version__}")
        return
    from jsonargparse import ArgumentParser, auto_cli

    warnings.formatwarning = _warning
    name = arguments[0]
    if not name.startswith("-") and name not in COMMANDS:
        _fail(f"Expected a command; got {name!r}. {nearest(name, COMMANDS)} See mlvae --help.")
    # Building a command's parser takes time, so only the one that is named is built.
    commands = {name: COMMANDS[name]} if name in COMMANDS else COMMANDS

    class Parser(ArgumentParser):
        def format_help(self, *arguments: Any) -> str:
            return _hyphenated(super().format_help(*arguments))

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            _fail(_helpful(message))

    try:
        auto_cli(commands, args=_spelt(arguments), parser_class=Parser, prog="mlvae", description=PURPOSE)
    except MLVAEError as error:
        _fail(str(error))
    except KeyboardInterrupt as stop:
        print(str(stop) or "Stopped.", file=sys.stderr)
        sys.exit(130)


def _overview() -> str:
    """The commands in a line or two each, as `mlvae --help` shows them."""
    lines = ["usage: mlvae COMMAND [options]", "", PURPOSE, "", "commands:"]
    for name, command in COMMANDS.items():
        text = command["_help"] if isinstance(command, dict) else (command.__doc__ or "").strip().splitlines()[0]
        what, _, example = text.partition(" Example: ")
        lines += [f"  {name:10}{what}", *([f"{'':14}{example}"] if example else [])]
    return "\n".join([*lines, "", "Options of a command: mlvae COMMAND --help"])


def functions(commands: dict[str, Any]) -> list[Any]:
    """The functions of all commands, those of a command's own commands included."""
    found: list[Any] = []
    for command in commands.values():
        found += functions(command) if isinstance(command, dict) else [command] if callable(command) else []
    return found


def _hyphenated(text: str) -> str:
    """Options as they are typed."""
    return re.sub(r"--[a-z_]+", lambda option: option.group().replace("_", "-"), text)


def _spelt(arguments: list[str]) -> list[str]:
    """Arguments as the parser spells them: underscores in options, a switch without a value is on, lists add up."""
    command = COMMANDS.get(arguments[0], {}) if arguments else {}  # its own commands, if it has any, take no lists
    several = {k for k, kind in getattr(command, "__annotations__", {}).items() if kind.startswith("list[str")}
    switches = {k for f in functions(COMMANDS) for k, kind in f.__annotations__.items() if kind == "bool"}
    result = []
    if arguments[:1] == ["info"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        arguments = ["info", "--run", *arguments[1:]]  # the parser takes only what is required by position
    if arguments[:2] == ["evidence", "merge"]:  # it takes one list by position
        files = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[2:]))
        if files:
            arguments = [*arguments[:2], json.dumps(files), *arguments[2 + len(files) :]]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "-k":
            argument = "--k"
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name in switches and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
            # What may be given several times adds up: --level a --level b.
            argument = f"--{name}{'+' * (name in several)}{equals}{value}"
        result.append(argument)
    return result


def _warning(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> str:
    """A warning as one line, without the place in the code that a user did not write."""
    return f"mlvae: {' '.join(str(message).split())}\n"


def _fail(message: str) -> NoReturn:
    """A user's mistake: one line, exit code 2."""
    print("mlvae: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _helpful(message: str) -> str:
    """The parser's message with the nearest option, where one was unknown."""
    unknown = re.search(r"nrecognized arguments: --([\w-]+)|does not accept option '([\w.]+)'", message)
    if not unknown:
        return f"{message.strip().rstrip('.')}. See mlvae --help."
    name = (unknown.group(1) or unknown.group(2)).split(".")[-1]
    parameters: set[str] = set()
    for command in functions(COMMANDS):
        parameters |= set(command.__annotations__) - {"return"}
    hint = nearest(name.replace("-", "_"), sorted(parameters))
    hint = hint if hint.startswith("Did") else "See mlvae --help."
    return f"Unknown option {name!r}. " + (hint.replace("_", "-") if unknown.group(1) else hint)
