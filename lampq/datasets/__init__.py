"""Data sets: calibration images, the sample set D and validation images."""
