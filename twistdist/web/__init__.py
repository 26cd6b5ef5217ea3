"""What a scheduler shows over HTTP: health, status, incidents, tasks, metrics.  Read-only."""
