"""Training of the shipped network; the only part of this package that needs torch."""
