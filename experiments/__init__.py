"""The paper: what it printed, how its tables and figures are put together from runs, and the embedded models."""
