"""ONNX files as networks."""
