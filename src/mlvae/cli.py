"""The command line: arguments in, calls out; how options are spelt and how mistakes are told."""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

from mlvae import __version__
from mlvae.commands import COMMANDS, SECTIONS
from mlvae.errors import MLVAEError, nearest

PURPOSE = "Learn what a group shares."

FEW = 3
"""Options, at most, that are named where one is abbreviated."""


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
    given, name = arguments, arguments[0]
    if not name.startswith("-") and name not in COMMANDS:
        _fail(f"Expected a command; got {name!r}. {nearest(name, COMMANDS)} See mlvae --help.")
    # Building a command's parser takes time, so only the one that is named is built.
    commands = {name: COMMANDS[name]} if name in COMMANDS else COMMANDS

    class Parser(ArgumentParser):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # Past `_spelt` an abbreviated switch would ask for a value, and a list keep its last item only.
            super().__init__(*arguments, **{**options, "allow_abbrev": False})

        def format_help(self, *arguments: Any) -> str:
            return _readable(_hyphenated(super().format_help(*arguments)), *_command(given))

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            _fail(_helpful(message, given))

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


def _hyphenated(text: str) -> str:
    """Options as they are typed, each once."""
    text = re.sub(r"--[a-z_]+", lambda option: option.group().replace("_", "-"), text)
    return (
        re.sub(r", --[a-z-]+\+ \w+", "", text).replace("[ITEM,...]", "FILE ...").replace("  --k K ", "  -k K, --k K ")
    )


def _readable(text: str, words: list[str], command: Any) -> str:
    """A command's help: its usage in one line, and options under headings where there are many."""
    usage, blank, rest = text.partition("\n\n")
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", usage)) != usage:
        usage = shorter
    if words == ["mlvae", "info"]:  # `_spelt` takes it by position
        usage, rest = f"{usage} [run]", rest.replace("  --run RUN ", "  run       ", 1)
    by_position = usage.split()[len(words) + 1 :]
    for name, heading in (SECTIONS.get(command, {}) if callable(command) else {}).items():
        rest = rest.replace(f"\n  {_option(name)} ", f"\n\n{heading}:\n  {_option(name)} ", 1)
    spelt = [*by_position, "[options]"] if callable(command) else ["[options]", *by_position]
    return f"usage: {' '.join([*words, *spelt])}{blank}{rest}"


def _command(arguments: list[str]) -> tuple[list[str], Any]:
    """The words of the command that was asked for, and its function, or a dict of commands."""
    words, found = ["mlvae"], COMMANDS
    for word in arguments:
        if not isinstance(found, dict) or word not in found:
            break
        found = found[word]
        words.append(word)
    return words, found


def _spelt(arguments: list[str]) -> list[str]:
    """Arguments as the parser spells them: underscores in options, a switch without a value is on, lists add up."""
    command = COMMANDS.get(arguments[0], {}) if arguments else {}  # its own commands, if it has any, take no lists
    several = {k for k, kind in getattr(command, "__annotations__", {}).items() if kind.startswith("list[str")}
    pairs = {k for k, kind in getattr(command, "__annotations__", {}).items() if kind.startswith("tuple")}
    switches = {k for _, f in _named(COMMANDS) for k, kind in f.__annotations__.items() if kind == "bool"}
    result, pair = [], False
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
            argument = f"--{name}{'+' * (name in several)}{equals}{_pair(value) if equals and name in pairs else value}"
            pair = name in pairs and not equals
        elif pair:
            argument, pair = _pair(argument), False
        result.append(argument)
    return result


def _pair(text: str) -> str:
    """2,8 as the parser takes it; one number is both."""
    numbers = text.strip("[]").split(",")
    return f"[{','.join(numbers * 2 if len(numbers) == 1 and numbers[0] else numbers)}]"


def _warning(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> str:
    """A warning as one line, without the place in the code that a user did not write."""
    return f"mlvae: {' '.join(str(message).split())}\n"


def _fail(message: str) -> NoReturn:
    """A user's mistake: one line, exit code 2."""
    print("mlvae: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _helpful(message: str, arguments: list[str]) -> str:
    """The parser's message in our words, about the command that was asked for."""
    words, found = _command(arguments)
    see = f"See {' '.join(words)} --help."
    options: dict[str, str] = {} if isinstance(found, dict) else found.__annotations__
    if wrong := re.search(r'arser key "(?:\w+\.)*(\w+)":.*(?:Got|Given) value: (.*)$', message, re.DOTALL):
        return f"Expected {_kind(options.get(wrong[1], ''))} for {_option(wrong[1])}; got {wrong[2]!r}. {see}"
    if empty := re.search(r"argument --(\w+)\S*: expected one argument", message):
        return f"Expected {_kind(options.get(empty[1], ''))} after {_option(empty[1])}; got nothing. {see}"
    if further := re.search(r"unrecognized arguments: ([^-].*)$", message):
        return f"Expected nothing more; got {further[1]!r}. {see}"
    if lacking := re.search(r"arguments are required: (.*)$", message):
        names = ", ".join(name.strip().split(".")[-1] for name in lacking[1].split(","))
        return f"Expected {names}; got nothing for {'them' if ',' in names else 'it'}. {see}"
    if "subcommand" in message and isinstance(found, dict):
        asked = arguments[len(words) - 1] if len(arguments) >= len(words) else ""
        known = [name for name in found if not name.startswith("_")]
        hint = nearest(asked, known) if asked else f"It is one of {', '.join(known)}."
        return f"Expected a command of {' '.join(words)}; got {repr(asked) if asked else 'none'}. {hint} {see}"
    if unknown := re.search(r"nrecognized arguments: --([\w-]+)|does not accept option '([\w.]+)'", message):
        name = (unknown[1] or unknown[2]).split(".")[-1].replace("-", "_")
        known = sorted({*options, "config", "help"} - {"return"})
        begun = [_option(each) for each in known if each.startswith(name)]
        others = [" ".join(each) for each, command in _named(COMMANDS) if name in command.__annotations__]
        if 0 < len(begun) <= FEW:
            hint = f"Did you mean {' or '.join(begun)}?"
        elif others:
            hint = f"{', '.join(others)} have it." if len(others) > 1 else f"{others[0]} has it."
        else:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {_option(close[0])}?" if close else ""
        return f"Unknown option {_option(name)}. {hint} {see}"
    return f"{message.strip().rstrip('.')}. {see}"


def _named(commands: dict[str, Any], *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command's words and its function."""
    for name, command in commands.items():
        if isinstance(command, dict):
            yield from _named(command, *before, name)
        elif callable(command):
            yield (*before, name), command


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _kind(annotation: str) -> str:
    """What an option takes, in words."""
    if choices := re.search(r"Literal\[(.*?)\]", annotation):
        return f"one of {choices[1]}".replace('"', "")
    if annotation.startswith("tuple"):
        return "two whole numbers, such as 2,8,"
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    found = [kinds[word] for word in re.findall(r"\w+", annotation) if word in kinds]
    return " or ".join(dict.fromkeys(found)) or "another value"
