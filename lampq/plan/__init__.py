"""What a plan is: sites, bits, budget, and what binds them."""
