"""Sphinx configuration."""

project = "twistdist"
author = "the twistdist authors"
copyright = "2026, the twistdist authors"
extensions = ["sphinx.ext.autodoc"]
autodoc_typehints = "description"
html_theme = "alabaster"
exclude_patterns = ["_build"]
