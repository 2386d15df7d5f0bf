"""Write the page of every error and warning, and what the search for a pasted message reads."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .error_messages import ROOT, Message, Place, messages
from .error_topics import TOPICS, topic_of
from .public_calls import public_calls

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGE = "docs/errors.html"
ANCHOR_WORDS = 8
NAMED = 4  # public calls that are listed by name


def anchors() -> dict[Message, str]:
    """Return the anchor of each message: its first fixed words, and its function where two begin alike."""
    found: dict[Message, str] = {}
    for message in messages():
        anchor = "-".join(message.words[:ANCHOR_WORDS])
        function = message.places[0].function.rpartition(".")[2].strip("_").replace("_", "-")
        choices = [anchor, f"{anchor}-in-{function}", f"{anchor}-{message.kind.lower()}-in-{function}"]
        choices += [f"{choices[1]}-{number}" for number in range(2, 20)]
        found[message] = next(each for each in choices if each not in found.values())
    return found


def _code(text: str) -> str:
    """Return text as inline code, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def _met(place: Place) -> list[str]:
    """Return the public names or commands that reach a place."""
    file = ROOT / place.file
    names = place.function.split(".")
    for count in range(len(names), 0, -1):
        if found := public_calls().get((file, ".".join(names[:count]))):
            return list(found)
    return []


def entry(message: Message, anchor: str) -> str:
    """Return one message as Markdown: what it says, when it is raised, while what is done, and who can meet it."""
    lines = [f"({anchor})=", f"### {_code(message.text)}", ""]
    met = list(dict.fromkeys(name for place in message.places for name in _met(place)))
    roles = [f"`{name}`" if " " in name else f"{{py:obj}}`{name.rpartition('.')[2]} <{name}>`" for name in met[:NAMED]]
    more = f" and {len(met) - NAMED} more" if len(met) > NAMED else ""
    kind = "A warning" if message.kind == "warning" else f"`{message.kind}`"
    if message.kind == "end of the command":
        kind = "The command ends"
    lines.append(f"{kind}. What can meet it: {', '.join(roles)}{more}." if roles else f"{kind}.")
    lines.append("")
    for place in message.places:
        where = f"{place.function} in {place.file}" if place.function else place.file
        when = f", where {_code(place.condition)}" if place.condition else ""
        lines.append(f"- `{where}`{when}. What is done there: {_plain(place.about)}")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """Return the sentence of a docstring so that Markdown changes nothing in it."""
    return re.sub(r"(?<!`)([*_\[\]<>{}$])(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", text)


def error_list(_: str) -> str:
    """Return the sections of the page of errors, one for each topic."""
    named = anchors()
    groups: defaultdict[str, list[Message]] = defaultdict(list)
    for message in messages():
        groups[topic_of(message.places[0].file).title].append(message)
    sections = []
    for title in dict.fromkeys(topic.title for topic in TOPICS):
        page = next(topic.page for topic in TOPICS if topic.title == title)
        found = sorted(groups.pop(title, []), key=lambda message: message.text.lower())
        entries = [entry(message, named[message]) for message in found]
        sections.append("\n".join([f"## {title}", "", f"The topic is explained in [](../docs/{page}).", "", *entries]))
    return "\n".join(sections)


def write_search_data(app: Sphinx, error: Exception | None) -> None:
    """Write the messages where the script of the search finds them."""
    if error is None and app.builder.format == "html":
        rows: list[dict[str, Any]] = [
            {"text": message.text, "kind": message.kind, "words": sorted(set(message.words)), "at": f"{PAGE}#{anchor}"}
            for message, anchor in anchors().items()
        ]
        text = f"window.bridgeworkErrors = {json.dumps(rows, ensure_ascii=False)};\n"
        (Path(app.outdir) / "_static" / "error_messages.js").write_text(text, encoding="utf-8")
