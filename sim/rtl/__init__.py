"""An RTL twin of the PE array: generated from an architecture, simulated, written as Verilog."""
