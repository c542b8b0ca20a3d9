"""Changes of the full-precision network, before anything is calibrated, that leave its function as it is."""
