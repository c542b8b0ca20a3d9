"""Solvers: given a cost for each layer and bit-width, the best bits within a budget."""
