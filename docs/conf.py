"""The site of these pages: `make docs`. It loads nothing from elsewhere, and a warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import mlvae  # noqa: E402

project = "mlvae"
author = "the authors of mlvae"
release = version = mlvae.__version__
project_copyright = "2026, " + author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]  # ```math is what a code host draws
myst_heading_anchors = 3
myst_links_external_new_tab = False
nb_execution_mode = "off"  # tutorials are committed as they ran: `make tutorials`
nb_merge_streams = True
suppress_warnings = ["ref.python"]  # `Evidence.sum` and `Grouping.sum` are both `sum`

html_theme = "furo"
html_title = f"mlvae {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 100
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "literal"


def prose_to_rst(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: stars, bars and underscores mean themselves, an indented formula is a formula."""
    made: list[str] = []
    example = formula = False
    for line in lines:
        blank, indent = not line.strip(), len(line) - len(line.lstrip())
        if re.match(r"(Example|Examples):$", line):
            example = True
        elif not blank and indent == 0:
            example = False
        if not blank and indent < 4:
            formula = False
        if not blank and not formula and not example and indent >= 4 and made and not made[-1] and indent % 4 == 0:
            # Indented below a blank line and in no section: a formula. Sections' texts have no blank line above.
            sections = [text for text in made if text and not text.startswith(" ")]
            if not (sections and re.match(r"[A-Z]\w+:$", sections[-1])):
                made += ["::", ""]
                formula = True
        if not (example or formula):
            line = re.sub(r"(?<!`)(``?)(?!`)(.+?)\1(?!`)", lambda m: f"``{m.group(2)}``", line)
            parts = re.split(r"(``.+?``)", line)
            line = "".join(
                part
                if part.startswith("``")
                else re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", lambda m: "\\" + m.group(), part)
                for part in parts
            )
        made.append(line)
    lines[:] = made


def math_inline(self: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def math_block(self: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    self.body.append(f'<div class="math-block">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def links_in_the_site(app: Any, name: str, source: list[str]) -> None:
    """Pages link to files of the checkout, as a code host needs it; here those have pages of their own."""
    for page in ("CONTRIBUTING", "CHANGELOG", "SECURITY"):
        source[0] = source[0].replace(f"](../{page}.md", f"]({page.lower()}.md")


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (math_inline, None), (math_block, None))
    # Before napoleon, so that what it makes is not escaped.
    app.connect("autodoc-process-docstring", prose_to_rst, priority=400)
    app.connect("source-read", links_in_the_site)
