"""LampQ: layer-wise mixed precision quantization for Vision Transformers."""

__version__ = "0.1.0"
