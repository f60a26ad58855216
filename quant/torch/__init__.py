"""Torch modules with every operand of a product quantised."""
