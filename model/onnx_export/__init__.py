"""A whole model as ONNX graphs, to be run without this package."""
