"""What quantization hurts: one file a measure of how much a layer suffers from fewer bits."""
