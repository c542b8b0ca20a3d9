"""Who gets how many bits: one file a way to choose the bit-widths of the 4N layers under a budget."""
