"""Search: what buffer sizes, formats and tilings cost, with the simulated counts as the cost."""
