"""Replace the blocks of a page that say `{generated}` by lists that are made from the source.

On a forge such a block shows the sentence that stands in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .command_help import command_list
from .error_pages import error_list
from .public_names import name_list

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BLOCK = re.compile(r"^```\{generated\} (?P<what>[\w-]+) ?(?P<of>[\w.]*)\n.*?^```$", re.M | re.S)
MAKERS = {"errors": error_list, "public-names": name_list, "commands": command_list}


def filled(text: str) -> str:
    """Return the Markdown of a page with its generated lists."""
    return BLOCK.sub(lambda block: MAKERS[block["what"]](block["of"]), text)


def fill(_app: Sphinx, _name: str, content: list[str]) -> None:
    """Fill the source of a page when Sphinx reads it."""
    content[0] = filled(content[0])


def generated_pages(app: Sphinx, *_: object) -> list[str]:
    """Return the pages that are read anew each time, since they depend on more than their own files."""
    env = app.env
    return [
        name
        for name in env.found_docs
        if (path := env.doc2path(name)).suffix == ".md" and BLOCK.search(path.read_text(encoding="utf-8"))
    ]
