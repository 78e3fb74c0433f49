"""ONNX Runtime as a backend, and every op as a standard ONNX graph."""
