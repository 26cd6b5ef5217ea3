"""``twistdist top``: what a cluster does, in a terminal.

``model`` is what is known, ``view`` how it looks, ``terminal`` the loop.
"""
