"""Writes ONNX's own cases for single operators, with the results that the standard says.

What our kernels take as constants (weights, bounds, axes) is a constant of the model; the rest stays an input. Beside
each `NAME.onnx` lies `NAME.bin`: the inputs and then the outputs, one behind the other, as 32-bit floats, or as the codes of 8
bits that operators on codes take. Cases of other types are left out.

    python node_cases.py FOLDER all
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node as cases

MODULES = ["add", "averagepool", "batch_normalization", "clip", "concat", "conv", "dropout", "flatten", "gemm",
           "globalaveragepool", "globalmaxpool", "identity", "matmul", "maxpool", "mul", "qlinearconv", "qlinearmatmul",
           "relu", "reshape", "squeeze", "sub", "unsqueeze"]
# These take all their operands at run time.
ALL_INPUTS = {"Add", "Concat", "Mul", "Sub"}
ON_CODES = {"QLinearConv", "QLinearMatMul"}


def main():
    folder = Path(sys.argv[1])
    part = folder.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    for module in MODULES:
        importlib.import_module(f"onnx.backend.test.case.node.{module}")
    for case in cases._NodeTestCases:
        model, (inputs, outputs) = case.model, case.data_sets[0]
        graph = model.graph
        # What is dropped in training is random.
        if case.name.startswith("test_training_"):
            continue
        arrays = (np.ndarray, np.generic)
        if len(graph.node) != 1 or not all(isinstance(value, arrays) for value in [*inputs, *outputs]):
            continue
        inputs, outputs = [np.asarray(value) for value in inputs], [np.asarray(value) for value in outputs]
        kept = len(inputs) if graph.node[0].op_type in ALL_INPUTS else 1
        types = [np.float32, np.uint8, np.int8] if graph.node[0].op_type in ON_CODES else [np.float32]
        # Scales of half the size are none of ours.
        halves = any(value.dtype == np.float16 for value in inputs)
        if halves or any(value.dtype not in types for value in [*inputs[:kept], *outputs]) or inputs[0].size == 0:
            continue
        for info, value in list(zip(graph.input, inputs))[kept:]:
            graph.initializer.append(numpy_helper.from_array(value, info.name))
            graph.input.remove(info)
        onnx.save(model, part / f"{case.name}.onnx")
        data = b"".join(np.ascontiguousarray(value).tobytes() for value in [*inputs[:kept], *outputs])
        (part / f"{case.name}.bin").write_bytes(data)
    onnx.save(onnx.ModelProto(), part / "all.onnx")
    for file in part.iterdir():
        if file.name != "all.onnx":
            folder.mkdir(exist_ok=True)
            file.rename(folder / file.name)
    # Last: who sees it sees all the others.
    (part / "all.onnx").rename(folder / "all.onnx")
    part.rmdir()


if __name__ == "__main__":
    main()
