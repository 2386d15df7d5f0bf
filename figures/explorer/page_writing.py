"""Write the explorer as one static page: style, script, header and numbers in one file, without network."""

from __future__ import annotations

import base64
import html
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .data_bundle import Bundle

FOLDER = Path(__file__).parent
SCRIPTS = ("measuring.js", "drawing.js", "panels.js", "explorer.js")


def read_script(*more: str) -> str:
    """Join the scripts: they share one scope, because a page opened from a file may not import modules.

    Parameters
    ----------
    *more : str
        Further scripts that follow.

    Returns
    -------
    str
        JavaScript.
    """
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in (*SCRIPTS, *more))


def read_style() -> str:
    """Read the style sheet.

    Returns
    -------
    str
        CSS.
    """
    return (FOLDER / "explorer.css").read_text(encoding="utf-8")


def write_page(bundle: Bundle, title: str) -> str:
    """Write the page.

    Parameters
    ----------
    bundle : Bundle
        What it shows.
    title : str
        Its title.

    Returns
    -------
    str
        HTML, which needs no other file.
    """
    # "<" inside JSON would end the script that holds it
    header = json.dumps(bundle.header, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
    template = (FOLDER / "explorer_page.html").read_text(encoding="utf-8")
    return (
        Environment(undefined=StrictUndefined)
        .from_string(template)
        .render(
            title=html.escape(title),
            version=_version(),
            style=read_style(),
            header=header,
            numbers=base64.b64encode(bundle.data).decode(),
            script=read_script(),
        )
    )


def write_frame(page: str, height: int = 980) -> str:
    """Put a page into a frame, as a cell of a notebook shows it.

    Parameters
    ----------
    page : str
        The page.
    height : int
        The height of the frame in pixels.

    Returns
    -------
    str
        An HTML element.
    """
    sandbox = 'sandbox="allow-scripts allow-downloads"'
    return f'<iframe {sandbox} style="width:100%;height:{height}px;border:0" srcdoc="{html.escape(page)}"></iframe>'


def _version() -> str:
    try:
        return version("bridgework")
    except PackageNotFoundError:
        return ""
