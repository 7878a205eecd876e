"""Decoders that other tools exported to ONNX, behind the same engine contract."""
