"""Sphinx configuration."""

project = "twistdist"
author = "the twistdist authors"
copyright = "2026, the twistdist authors"
extensions = ["sphinx.ext.autodoc"]
autodoc_typehints = "description"
html_theme = "alabaster"
exclude_patterns = ["_build"]


def fill_in_transitions(app, name, source):
    """The table of transitions, made from the one that the scheduler goes by."""
    if name == "architecture":
        from twistdist.core.scheduler.transitions import rows

        table = ".. list-table::\n   :header-rows: 1\n\n"
        for cells in [("from", "to", "cause", "because"), *rows()]:
            table += "   * - " + "\n     - ".join(cells) + "\n"
        assert ".. transitions\n" in source[0]
        source[0] = source[0].replace(".. transitions\n", table)


def setup(app):
    app.connect("source-read", fill_in_transitions)
