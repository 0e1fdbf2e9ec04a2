"""Values of every data type of the Open Inference Protocol, extremes included."""

import numpy as np
from tritonclient.utils import triton_to_np_dtype

# The field of `InferTensorContents` that carries a data type.
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def sample(data_type):
    """Two rows of three values."""
    if data_type == "BYTES":
        return np.array([[b"", "é".encode(), b"a\nb"], [b"x" * 1000, b"1", b" "]], np.object_)
    if data_type == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    dtype = np.dtype(triton_to_np_dtype(data_type))
    if dtype.kind == "f":
        return np.array([[0.0, 0.5, -2.25], [1.0, 1e4, -0.125]], dtype)
    bounds = np.iinfo(dtype)
    return np.array([[bounds.min, 0, 1], [2, 3, bounds.max]], dtype)
