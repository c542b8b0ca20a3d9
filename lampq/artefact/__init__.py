"""The quantized model as a file: packed, saved, loaded, run in integers, exported."""
