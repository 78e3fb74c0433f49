"""Run every model of a pack on every data set, with onnxruntime or with onnx's own evaluator.

    python run.py RESULTS                          onnxruntime on the CPU
    python run.py RESULTS --provider NAME          another execution provider of it
    python run.py RESULTS --with reference         the evaluator of the package onnx

Needs onnx and numpy, and onnxruntime unless the evaluator is asked for. RESULTS is a new directory;
its files are then judged by `glm5-hal conformance check-onnx`.
"""

import argparse
import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

Run = Callable[[list[TensorProto]], list[TensorProto]]


def on_evaluator(model: ModelProto, _: str) -> Run:
    """A function from inputs by name to outputs, by the standard's own evaluator."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):  # type: ignore[misc, unused-ignore]
        """The evaluator's own fails beyond 64 elements, and at a negative axis."""

        def _run(self, data: Any, indices: Any, axis: int = 0) -> tuple[Any]:
            return (np.take_along_axis(data, indices, axis),)

    evaluator = ReferenceEvaluator(model, new_ops=[GatherElements])

    def run(inputs: list[TensorProto]) -> list[TensorProto]:
        with np.errstate(all="ignore"):
            arrays = {entry.name: numpy_helper.to_array(entry) for entry in inputs}
            found = evaluator.run(None, arrays)
        return [numpy_helper.from_array(np.ascontiguousarray(part)) for part in found]

    return run


def on_runtime(model: ModelProto, provider: str) -> Run:
    """The same by onnxruntime, without optimisation: it may round elsewhere."""
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        offered = ", ".join(ort.get_available_providers())
        sys.exit(f"the installed onnxruntime has no {provider}; it has {offered}")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.use_deterministic_compute = True
    options.enable_mem_reuse = False
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider])
    names = [output.name for output in model.graph.output]
    kinds = [output.type.tensor_type.elem_type for output in model.graph.output]

    def run(inputs: list[TensorProto]) -> list[TensorProto]:
        feeds = {entry.name: to_value(ort, entry) for entry in inputs}
        values = session.run_with_ort_values(names, feeds)
        return [to_tensor(value, kind) for value, kind in zip(values, kinds, strict=True)]

    return run


def to_value(ort: Any, entry: TensorProto) -> Any:
    """A tensor as onnxruntime takes it; bfloat16, which numpy lacks, as its bits."""
    array = numpy_helper.to_array(entry)
    if entry.data_type != TensorProto.BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    bits = np.ascontiguousarray(array).view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, entry.data_type)


def to_tensor(value: Any, kind: int) -> TensorProto:
    """A result of onnxruntime as a tensor of the layout."""
    if kind != TensorProto.BFLOAT16:
        return numpy_helper.from_array(value.numpy())
    made = TensorProto(data_type=kind, dims=value.shape())
    count = 2 * int(np.prod(value.shape(), dtype=np.int64))
    made.raw_data = ctypes.string_at(value.data_ptr(), count)
    return made


def number(path: Path) -> int:
    """The number at the end of a file's or folder's name."""
    return int(path.stem.rsplit("_", 1)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the models of a pack.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--with", dest="by", choices=["onnxruntime", "reference"])
    parser.add_argument("--provider", default="CPUExecutionProvider")
    asked = parser.parse_args()
    open_model = on_evaluator if asked.by == "reference" else on_runtime
    models = sorted(Path(__file__).parent.glob("*/model.onnx"))
    if asked.results.exists() and any(asked.results.iterdir()):
        sys.exit(f"{asked.results} is not empty; name a new directory")
    done, failed = 0, 0
    for path in models:
        run = open_model(onnx.load(str(path)), asked.provider)
        for folder in sorted(path.parent.glob("test_data_set_*"), key=number):
            files = sorted(folder.glob("input_*.pb"), key=number)
            try:
                found = run([onnx.load_tensor(str(file)) for file in files])
            except Exception as error:  # whatever a runtime raises: the others are still run
                print(f"{path.parent.name}/{folder.name}: {type(error).__name__}: {error}")
                failed += 1
                continue
            target = asked.results / path.parent.name / folder.name
            target.mkdir(parents=True)
            for place, tensor in enumerate(found):
                tensor.name = f"y{place}"
                (target / f"output_{place}.pb").write_bytes(tensor.SerializeToString())
            done += 1
    print(f"{len(models)} models, {done} data sets" + (f", {failed} failed" if failed else ""))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
