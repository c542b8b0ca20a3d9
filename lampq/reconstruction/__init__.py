"""Block reconstruction: weights' rounding and activations' scales trained so that a block's output is kept."""
