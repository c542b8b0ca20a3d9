"""What is kept of a block's output: one loss a file, all of them values an image."""
