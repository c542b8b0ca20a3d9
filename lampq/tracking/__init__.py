"""Where a run is logged: CSV files always, W&B when asked."""
