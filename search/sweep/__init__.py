"""Sweeps: many points, each simulated once, kept in a store that survives whatever stops them."""
