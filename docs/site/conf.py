"""Sphinx, for the documentation site: scripts/docs.sh makes the tree that this reads (scripts/docs_pages.py)."""

from importlib.metadata import version as version_of

project = "ctwa"
copyright = "the ctwa developers"  # noqa: A001 - Sphinx' name
release = version = version_of("ctwa")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
root_doc = "index"
include_patterns = ["index.md", "*.md", "docs/**.md", "reference/**.md", "reward_fns/README.md"]
exclude_patterns = ["docs/site/**"]

# The pages are GitHub's Markdown: anchors as GitHub makes them, fences that are diagrams.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
myst_ref_domains = ["std"]

# No links that lead nowhere: tables that a benchmark makes may skip a level of headings, and a class that two modules
# hand on has two entries.
suppress_warnings = ["myst.header", "ref.python"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_mock_imports = ["trl"]  # not beside verl, which the commands' reference is made with
default_role = "code"  # docstrings write `name` for code
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "furo"
html_title = "ctwa"
html_show_sphinx = False
html_copy_source = False
