"""Clusters on hosts that are reached by ``ssh``: ``cluster`` has the engine, a ``keeper`` on each host owns its jobs."""
