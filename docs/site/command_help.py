"""Write the help of every command, as `bridgework COMMAND --help` prints it."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout, suppress
from unittest.mock import patch

from ...__main__ import COMMANDS
from ...command_line import parse

WIDTH = "100"  # columns of the help


def help_of(name: str) -> str:
    """Return what a command prints for --help."""
    printed = io.StringIO()
    with patch.dict(os.environ, COLUMNS=WIDTH), redirect_stdout(printed), suppress(SystemExit):
        parse(COMMANDS, [name, "--help"])
    return printed.getvalue()


def command_list(_: str) -> str:
    """Return a section for each command."""
    sections = [f"## {name}\n\n{command.about}\n\n```text\n{help_of(name)}```\n" for name, command in COMMANDS.items()]
    return "\n".join(sections)
