"""What may be composed, and the checked settings that come of it."""
