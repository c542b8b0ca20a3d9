"""Reparameterizations: transformations of a layer that keep its function and make it easier to quantize."""
