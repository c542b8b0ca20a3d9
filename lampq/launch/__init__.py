"""The command line: one job, or a grid of them that survives."""
