"""Observing a model once, and searching quantizer scales on what was observed."""
