"""Build the documentation site once, without a warning, and hold what was built to what a reader looks for."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from posixpath import join, normpath
from urllib.parse import quote, unquote

import numpy as np
import pytest

from bridgework.docs.site.contents import contents, llms
from bridgework.docs.site.error_messages import Message, messages
from bridgework.docs.site.error_pages import PAGE, anchors
from bridgework.docs.site.public_calls import faces
from bridgework.models import open_expert
from bridgework.probes import choose_bridges, lay_out, load_stimuli, similarity
from bridgework.tests.browser.chromium import Chromium, find_chromium
from bridgework.tests.test_style import ROOT

pytest.importorskip("sphinx", reason="Sphinx is not installed (pip install 'bridgework[docs]')")

HREF = re.compile(r'<(?:a|link)\b[^>]*? href="([^"]+)"')
FETCHED = re.compile(
    r'(?:<script|<img|<iframe)[^>]*? src="(?:https?:)?//|<link[^>]*? href="(?:https?:)?//|@import|url\(http'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    options = ["-W", "--keep-going", "-q", "-c", ROOT / "docs", "-d", folder / "doctrees"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ROOT, folder / "site"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site) -> dict[str, str]:
    """The HTML of every page by its address."""
    return {file.relative_to(site).as_posix(): file.read_text(encoding="utf-8") for file in site.rglob("*.html")}


def test_every_public_name_has_an_entry(pages):
    for face in faces():
        page = pages[f"docs/api/{face.rpartition('.')[2]}.html"]
        described = set(re.findall(r'<dt class="[^"]*" id="([\w.]+)"', page))
        names = {f"{face}.{name}" for name in importlib.import_module(face).__all__}
        assert names and not names - described


def test_every_page_and_notebook_is_in_the_contents(pages):
    named = {entry.path for entries in contents().values() for entry in entries}
    files = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "api").glob("*.md"),
        *(ROOT / "notebooks").glob("*.ipynb"),
    ]
    assert {file.relative_to(ROOT).as_posix() for file in files} - {"docs/index.md"} <= named
    assert {f"{path.rpartition('.')[0]}.html" for path in named} <= pages.keys()


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    ids = {page: set(re.findall(r' id="([^"]+)"', text)) for page, text in pages.items()}
    lost = []
    for page, text in pages.items():
        for target in set(HREF.findall(text)):
            if re.match(r"\w+:|//", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            path = normpath(join(page, "..", path.partition("?")[0])) if path else page
            if not (site / path).exists() or (anchor and path in ids and anchor not in ids[path]):
                lost.append(f"{page}: {target}")
    assert not lost


def test_nothing_is_fetched_when_the_site_is_read(site, pages):
    styles = {file.name: file.read_text(encoding="utf-8") for file in site.rglob("*.css")}
    assert not [name for name, text in (pages | styles).items() if FETCHED.search(text)]


def test_llms_txt_lists_every_page(site):
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text == llms() and text.startswith("# Bridgework\n\n> ")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", text, re.M)
    assert len(links) == sum(map(len, contents().values()))
    assert not [link for link in links if not (site / link).is_file()]


def test_the_help_of_every_command_is_there(pages):
    page = pages["docs/api/command_line.html"]
    assert all(
        flag in page for flag in ("usage: bridgework report", "--timesteps", "--venue", "usage: bridgework doctor")
    )


# Errors

X = np.zeros((12, 3))
RAISED = {
    "lay-out": lambda: lay_out("Z", 4, 4),
    "metric": lambda: similarity(X, X, "corr"),
    "samples": lambda: similarity(X, X[1:]),
    "data": lambda: load_stimuli("no/such/captions.csv"),
    "expert": lambda: open_expert("no/such/expert"),
    "rule": lambda: choose_bridges(rule="luck", layers=(4, 4)),
    "bridges": lambda: choose_bridges(rule="early", layers=(4, 4), bridges=9),
}


def raised(name: str) -> Exception:
    with pytest.raises(Exception) as caught:
        RAISED[name]()
    return caught.value


def fits(message: Message, text: str) -> bool:
    """Whether a text is a message with its placeholders filled in."""
    form = "".join(re.escape(part.text) if part.fixed else ".*" for part in message.parts)
    return re.fullmatch(form, text, re.S) is not None


def listed(error: Exception) -> list[Message]:
    text = str(error.args[0])
    return [each for each in messages() if each.kind == type(error).__name__ and fits(each, text)]


@pytest.mark.parametrize("name", RAISED)
def test_a_real_error_has_its_entry(name, pages):
    found = listed(raised(name))
    assert found
    assert all(f'id="{anchors()[message]}"' in pages[PAGE] for message in found)


def test_every_message_has_an_anchor_of_its_own():
    assert len(messages()) > 600
    assert len(set(anchors().values())) == len(messages())


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each file."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder, since the search page reads other pages, which browsers refuse to files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")
def test_a_pasted_message_is_found_in_the_browser(site):
    pytest.importorskip("websocket")
    found = "[...document.querySelectorAll('.error-search li a')].map(link => link.href.split('#')[1])"
    field = "document.querySelector('.error-search textarea')"
    with served(site) as address, Chromium() as page:
        page.open(f"{address}/search.html?q={quote(str(raised('metric')))}")
        page.until(f"{found}.length")
        for name in RAISED:
            text = json.dumps(str(raised(name).args[0]))
            page.run(f"{field}.value = {text}; {field}.dispatchEvent(new Event('input'))")
            assert page.run(found)[0] in {anchors()[message] for message in listed(raised(name))}, name
        assert not [error for error in page.errors if not error.get("url", "").endswith("favicon.ico")]
