"""What is exported, and running it."""

import pytest

_WHY = "needs glm5-hal[onnx]"
pytest.importorskip("onnxruntime", reason=_WHY)
onnx = pytest.importorskip("onnx", reason=_WHY)

from glm5_hal import Numerics  # noqa: E402
from glm5_hal.model.onnx_export.export import Form  # noqa: E402

FORMS = {numerics.value: Form(numerics, positions=256) for numerics in Numerics}
IDS = [7, 300, 12, 511, 0, 44, 45, 46, 300, 12, 9]
