"""Which version of the standard graphs are written in."""

from onnx import __version__ as onnx_version
from onnx import defs

OPSET = 21
"""The oldest version of the standard in which every graph can be written. Compilers lag behind the
standard, so nothing newer is asked for; the operators used here mean the same in later ones."""
IR_VERSION = 10
"""Of the file format: the one that came with `OPSET`."""


def opset_problem(opset: int) -> str:
    """Why graphs cannot be written in a version of the standard; empty if they can."""
    newest = defs.onnx_opset_version()
    if OPSET <= opset <= newest:
        return ""
    return (
        f"opset {opset}: the graphs can be written in versions {OPSET} to {newest} of the standard "
        f"({OPSET} is the oldest with every operator that they use, {newest} the newest that the "
        f"installed onnx {onnx_version} knows)"
    )
