"""Images made from a model alone, for quantization without data."""
