"""Base quantizers: one file a published post-training quantization method."""
