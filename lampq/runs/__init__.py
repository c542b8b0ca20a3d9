"""A run's identity, its record and its trackers."""
