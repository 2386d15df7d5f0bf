"""Settings of the documentation site, read by `sphinx-build -c docs . build/site` (`make docs`).

Sources are the repository itself, so that the links between pages are those that a forge follows. Nothing is fetched
when the site is built, or when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridgework.docs.site import contents, docstrings, error_pages, generated_lists

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Bridgework"
author = "The Bridgework authors"
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/api/*.md",
    "notebooks/*.ipynb",
    "notebooks/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSES.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "findings/README.md",
    "studies/claims/protocol.md",
    "studies/editing/protocol.md",
    "studies/verdict/protocol.md",
]
exclude_patterns = [".*", "**/.*", "build", "dist", "runs", "weights", "tests", "models", "figures", "**/__pycache__"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc"]
myst_heading_anchors = 4  # the anchors that a forge gives to headings
nb_execution_mode = "off"  # notebooks are committed executed, and tests run them
nb_ipywidgets_js: dict[str, Any] = {}  # would be loaded from another host
nb_merge_streams = True

autodoc_typehints = "none"  # docstrings name the types, in words
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False  # autodoc writes them
default_role = "py:obj"  # a name in single backticks is a link where it is public
maximum_signature_line_length = 100
python_display_short_literal_types = True

html_theme = "furo"
html_title = "Bridgework"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_js_files = ["error_search.js"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}


def setup(app: Sphinx) -> None:
    """Fill the pages that are made from the source, and write what lies beside the pages."""
    app.connect("env-get-outdated", generated_lists.generated_pages)
    app.connect("source-read", generated_lists.fill)
    app.connect("source-read", contents.add_toctrees)
    app.connect("autodoc-process-docstring", docstrings.escape, priority=400)  # before numpydoc reads them
    app.connect("build-finished", contents.write_beside)
    app.connect("build-finished", error_pages.write_search_data)
