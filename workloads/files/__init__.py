"""Networks as files: YAML and CSV that hold a whole network, and SCALE-Sim's lists of layers."""
