"""The embedded models: architectures, weights and model cards."""
