"""How Sphinx makes the site of these pages: scripts/docs."""

project = "crystalbench"
author = copyright = "The crystalbench developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "crystalbench"
html_copy_source = False
autodoc_member_order = "bysource"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Image", "Labels")}
numpydoc_show_class_members = False
