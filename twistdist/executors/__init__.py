"""How one task runs: the template, the executors it forks, and their supervisor."""
