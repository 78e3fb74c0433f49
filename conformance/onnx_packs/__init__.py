"""Cases as ONNX models with inputs and outputs, for chips that meet the suite without torch.

A pack is a directory in the layout of ONNX's own backend tests: a folder a model, in it
``model.onnx`` and a folder a data set. Whoever has a runtime computes the outputs; the suite's own
checks judge them (`checking`), so nothing that is asked of a backend is said a second time here.
"""
