"""Calibrated sites by their bits, whole plans realised in order, and the model that they are put into."""
