"""Clusters: what starts and ends the processes, and how many workers there should be.

``base`` is what all have in common, ``local`` the cluster of this machine.  ``engine`` is what an engine such as SSH, Slurm or
Kubernetes must be able to do, ``roster`` decides which jobs there should be, and ``jobs`` carries that out, with a scheduler
that has its ``home`` on this machine or in a job; each engine has a module of its own.  ``policy`` says how many workers the
work is worth, ``adapting`` sees to it.  docs/clusters.rst.
"""
