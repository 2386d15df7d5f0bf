"""Build the parser of the command line from a table of commands and the options classes of the package.

An options class is a dataclass beside the function that it serves. The metadata of its fields are keywords of
`add_argument`, as `transformers.HfArgumentParser` has them, `aliases` included, and `flag` for another spelling than
the field's name. Flags, spellings and defaults are made here, because HfArgumentParser gives every flag an optional
value, which swallows a positional argument behind it, lists each option in two spellings, and shows None as a default.
A parser takes any beginning of a flag that belongs to one flag alone, so that `--timestep` is `--timesteps`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints


class Command(NamedTuple):
    """Hold one command.

    Attributes
    ----------
    about : str
        What it does, in one sentence.
    example : str
        A command line that runs.
    run : callable
        Called with all arguments by name. Options that were not given are left out, and have the default of their
        options class.
    arguments : mapping of str to dict
        Arguments that belong to no options class, with their keywords of `add_argument`.
    options : str
        The options class as MODULE:CLASS, relative to the package; it is imported when its command is chosen. Its
        module imports no library of models, so that wrong values are said at once.
    without : tuple of str
        Fields of the options class that the command does not offer.
    aliases : tuple of str
        Other names of the command.
    """

    about: str
    example: str
    run: Callable[..., None]
    arguments: Mapping[str, dict[str, Any]] = {}
    options: str = ""
    without: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def parse(
    commands: Mapping[str, Command], arguments: Sequence[str], prog: str = "bridgework", about: str = ""
) -> tuple[Callable[..., None], dict[str, Any]]:
    """Return what is to be run, and the arguments that it is called with.

    Parameters
    ----------
    commands : mapping of str to Command
        The commands by name.
    arguments : sequence of str
        The command line, without the name of the program.
    prog, about : str, optional
        The name of the program and what it does.

    Returns
    -------
    run : callable
        As of the chosen command.
    given : dict
        Its arguments by name.

    Raises
    ------
    SystemExit
        Help was asked for (status 0), or an argument is wrong (status 2).
    """
    parser = argparse.ArgumentParser(prog=prog, description=about, epilog=f"'{prog} COMMAND --help' shows an example.")
    options: list[str] = []
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, command in commands.items():
        sub = subparsers.add_parser(
            name,
            help=command.about,
            description=command.about,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            aliases=command.aliases,
        )
        sub.set_defaults(run=command.run)
        if arguments and arguments[0] in (name, *command.aliases):
            for argument, settings in command.arguments.items():
                sub.add_argument(argument, **settings | {"help": _help(settings)})
            if command.options:
                add_options(sub, _class(command.options), command.without)
            options = [option for action in sub._actions for option in action.option_strings]
    found, extra = parser.parse_known_args(arguments)
    if extra:
        near = get_close_matches(extra[0], options, 1)
        said = f"; the nearest option is {near[0]}" if near else ""
        remedy = f"leave them out, or see '{prog} {arguments[0]} --help'{said}"
        parser.error(f"unrecognized arguments: {' '.join(extra)}: {remedy}")
    given = vars(found)
    return given.pop("run"), given


def add_options(parser: argparse.ArgumentParser, options: type, without: Sequence[str] = ()) -> None:
    """Add an option to a parser for every field of an options class.

    Parameters
    ----------
    parser : ArgumentParser
        The parser. An option that is not given is left out of the namespace.
    options : type
        A dataclass with `help` in the metadata of its fields.
    without : sequence of str, optional
        Fields that are left out.
    """
    types = get_type_hints(options)
    for field in fields(options):
        if field.name in without:
            continue
        settings: dict[str, Any] = {"default": field.default}
        if types[field.name] is bool:
            settings["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
        else:
            settings["type"] = _scalar(types[field.name])
        settings |= field.metadata
        settings |= {"help": _help(settings), "default": argparse.SUPPRESS}
        settings.pop("allowed", None)  # which `check_options` reads
        aliases = settings.pop("aliases", ())
        flag = settings.pop("flag", f"--{field.name.replace('_', '-')}")
        parser.add_argument(flag, *aliases, dest=field.name, **settings)


def _class(path: str) -> type:
    module, name = path.split(":")
    return getattr(import_module(f".{module}", __package__), name)


def _scalar(kind: Any) -> Any:
    """Return the type of one value: float for `float | None` and for `Sequence[float]`."""
    while inner := [part for part in get_args(kind) if part is not NoneType]:
        kind = inner[0]
    return kind


def _help(settings: Mapping[str, Any]) -> str:
    """Return an argument's help with its default, unless the help itself says what the default is."""
    text = settings["help"]
    default = settings.get("default", False if settings.get("action") == "store_true" else None)
    if default is None or "(default: " in text:
        return text
    if isinstance(default, bool):
        shown = "on" if default else "off"
    elif isinstance(default, tuple):
        shown = " ".join(map(str, default)) or "none"
    else:
        shown = str(default).removeprefix("torch.")
    return f"{text} (default: {shown})"


def layer_of(text: str) -> str | int | float:
    """Read a layer as `LayerFeatures.at_layer` takes it: a number, a relative depth, or a name."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
