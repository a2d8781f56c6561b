"""How Sphinx builds the pages: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE / "_ext")]  # benchmarks, pictures, and the extensions below

import crossent  # noqa: E402

project = "crossent"
author = "the crossent authors"
project_copyright = "the crossent authors; Apache-2.0"
version = release = crossent.__version__

extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton",
    "command", "docstrings", "mathml", "measured", "picture", "trainers",
]  # fmt: skip
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_block"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"
smartquotes = False  # would make – of the -- of options
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!crossent).*")]  # types of other libraries; links into their pages need a network
suppress_warnings = ["config.cache"]

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False

html_theme = "furo"
html_title = f"crossent {release}"
html_static_path = ["_static"]
html_css_files = ["site.css", "explorer.css"]
html_js_files = [("explorer.js", {"defer": "defer"})]
html_theme_options = {"navigation_with_keys": True, "source_edit_link": ""}
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
