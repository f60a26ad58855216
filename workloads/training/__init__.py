"""Training of the shipped networks; the only part of this package that needs torch."""
