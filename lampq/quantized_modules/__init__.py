"""Modules that multiply with low-bit operands: linear layers, attention matmuls, patch convolutions."""
