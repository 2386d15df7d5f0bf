"""The gallery: one static page with every figure, what it says, and the numbers behind it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

FOLDER = "figures/gallery"
ROWS = 40


class Entry(NamedTuple):
    """One figure of the page: its name (heading and file name), what it says, its numbers, and whose they are."""

    name: str
    figure: Figure
    caption: str
    numbers: pd.DataFrame
    label: str = "this run"


def write_gallery(
    folder: str | Path = FOLDER,
    figures: Iterable[tuple] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
    title: str = "Bridgework",
    notes: str | Iterable[str] = (),
    headline: Mapping[str, object] | None = None,
) -> Path:
    """Write ``folder/index.html`` with a PNG and a CSV per figure; return the page's path.

    ``figures``: ``Entry`` or tuples (name, figure, caption, numbers[, label]); ``tables``: further tables, by heading;
    ``notes``: paragraphs under the title; ``headline``: the few numbers that come first, by name (floats are shown with
    three digits). Everything is written to a temporary folder and then moved over, the page last, so a reader never
    meets a half-written page. Raises ValueError for no figures or two names that give one file name, TypeError for an
    entry of another kind.
    """
    entries = [_entry(item) for item in figures]
    tables = dict(tables or {})
    if not entries:
        raise ValueError("write_gallery: no figures: pass at least one (name, figure, caption, numbers, label)")
    names = [*(entry.name for entry in entries), *tables]
    files = [_file(name) for name in names]
    if len(set(files)) < len(files):
        twice = next(name for name, file in zip(names, files, strict=True) if files.count(file) > 1)
        raise ValueError(f"write_gallery: the name {twice!r} is taken twice: every figure and table needs its own")

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as temporary:
        part = Path(temporary)
        for entry in entries:
            entry.figure.savefig(part / f"{_file(entry.name)}.png", dpi=150, facecolor="white", bbox_inches=None)
            _csv(entry.numbers, part / f"{_file(entry.name)}.csv")
        for name, table in tables.items():
            _csv(table, part / f"{_file(name)}.csv")
        page = _page(title, [notes] if isinstance(notes, str) else list(notes), headline or {}, entries, tables)
        (part / "index.html").write_text(page, encoding="utf-8")
        for path in sorted(part.iterdir(), key=lambda path: path.suffix == ".html"):
            os.replace(path, folder / path.name)
    return folder / "index.html"


def _entry(item: tuple) -> Entry:
    try:
        entry = Entry(*item)
    except TypeError:
        raise TypeError(f"write_gallery: expected (name, figure, caption, numbers, label), got {item!r}") from None
    for part, kind in ((entry.figure, Figure), (entry.numbers, pd.DataFrame)):
        if not isinstance(part, kind):
            raise TypeError(f"write_gallery: {entry.name!r}: expected a {kind.__name__}, got {type(part).__name__}")
    return entry


def _file(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug:
        raise ValueError(f"write_gallery: the name {name!r} gives no file name: use letters or digits")
    return slug


def _plain(table: pd.DataFrame) -> bool:
    """Whether the rows are merely numbered, so that the index says nothing."""
    return isinstance(table.index, pd.RangeIndex) and table.index.name is None


def _csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=not _plain(table))


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _numbers(table: pd.DataFrame, file: str) -> str:
    shown = table.head(ROWS)
    if not _plain(table):
        shown = shown.rename_axis(columns=None).reset_index()
    html = shown.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="")
    more = f"; the first {ROWS} are shown" if len(table) > ROWS else ""
    rows = f"{len(table)} row{'s' if len(table) != 1 else ''}"
    return (
        f'<p><a href="{file}.csv" download>{file}.csv</a>: {rows}{more}</p>\n'
        f'<div class="scroll" tabindex="0">{html}</div>'
    )


def _section(entry: Entry) -> str:
    file = _file(entry.name)
    # Widths at 100 pixels an inch: sharp on dense screens, text no larger than the page's.
    width, height = (round(100 * inches) for inches in entry.figure.get_size_inches())
    kind = "own" if entry.label == "this run" else "kept"
    return f"""<section id="{file}">
<h2>{escape(entry.name)} <span class="label {kind}">{escape(entry.label)}</span></h2>
<figure>
<a href="{file}.png"><img src="{file}.png" width="{width}" height="{height}" loading="lazy"
alt="{escape(entry.name)}; its numbers are in the table below"></a>
<figcaption>{escape(entry.caption)}</figcaption>
</figure>
<details><summary>Numbers behind this figure</summary>
{_numbers(entry.numbers, file)}
</details>
</section>"""


def _page(title: str, notes: list[str], headline: Mapping[str, object], entries: list[Entry], tables: Mapping) -> str:
    cards = "\n".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_number(value))}</dd></div>" for name, value in headline.items()
    )
    links = "\n".join(f'<li><a href="#{_file(name)}">{escape(name)}</a></li>' for name in
                      [*(entry.name for entry in entries), *tables])  # fmt: skip
    extra = "\n".join(
        f'<section id="{_file(name)}">\n<h2>{escape(name)}</h2>\n{_numbers(table, _file(name))}\n</section>'
        for name, table in tables.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{CSS}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{"".join(f"<p>{escape(note)}</p>" for note in notes)}
{f'<dl class="headline">{cards}</dl>' if cards else ""}
</header>
<nav aria-label="figures"><ul>
{links}
</ul></nav>
<main>
{chr(10).join(_section(entry) for entry in entries)}
{extra}
</main>
</body>
</html>
"""


CSS = """\
:root { color-scheme: light dark; --ink: #1c1c1c; --quiet: #5b5b5b; --paper: #fff; --card: #f4f5f7; --line: #dcdcdc;
  --link: #0062a0; --own: #0173b2; --kept: #6b4a9c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --quiet: #a8a8a8; --paper: #16181c; --card: #22252b;
  --line: #3a3d44; --link: #7cc0f0; } }
* { box-sizing: border-box; }
body { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .4rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 0 0 .8rem; font-size: 1.2rem; line-height: 1.3; }
header p { max-width: 46rem; margin: .3rem 0; color: var(--quiet); }
a { color: var(--link); }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.headline div { padding: .7rem .9rem; border-radius: .5rem; background: var(--card); display: flex;
  flex-direction: column-reverse; justify-content: flex-end; }
.headline dt { color: var(--quiet); font-size: .85rem; line-height: 1.3; }
.headline dd { margin: 0; font-size: 1.3rem; font-weight: 650; font-variant-numeric: tabular-nums; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0; padding: .6rem 0; list-style: none;
  border-block: 1px solid var(--line); font-size: .92rem; }
section { margin-top: 2.4rem; scroll-margin-top: 1rem; }
.label { display: inline-block; margin-left: .4rem; padding: .1rem .55rem; border-radius: 1rem; color: #fff;
  background: var(--kept); font-size: .72rem; font-weight: 600; vertical-align: middle; }
.label.own { background: var(--own); }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; padding: .4rem; border-radius: .5rem; background: #fff;
  border: 1px solid var(--line); }
figcaption { max-width: 46rem; margin: .7rem 0 .4rem; }
summary { cursor: pointer; color: var(--link); font-size: .92rem; }
details p, section > p { margin: .5rem 0; font-size: .9rem; color: var(--quiet); }
.scroll { max-height: 24rem; overflow: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--card); }
"""
