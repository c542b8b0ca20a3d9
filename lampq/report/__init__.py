"""Drawings and tables of plans and records; knows nothing of the paper."""
