"""Sphinx configuration."""

import os
import sys

project = "twistdist"
author = "the twistdist authors"
copyright = "2026, the twistdist authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "description"
html_theme = "alabaster"
html_theme_options = {"page_width": "1280px", "body_max_width": "none"}
exclude_patterns = ["_build", "performance-table.rst"]  # the latter is included by a page
sys.path.insert(0, os.path.dirname(__file__))  # generated.py


def setup(app):
    from generated import fill_in

    app.connect("source-read", fill_in)
