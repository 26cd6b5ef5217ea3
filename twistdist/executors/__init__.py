"""Running one task: the template, the executors that it forks, and their supervisor."""
