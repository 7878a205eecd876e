"""Engines for decoders that other tools exported to ONNX."""
