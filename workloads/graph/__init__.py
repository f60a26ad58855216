"""Networks as graphs that can be run with data, whatever they come from."""
