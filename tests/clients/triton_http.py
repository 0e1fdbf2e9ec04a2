"""Triton's HTTP client against scorers: arguments are `linear=HOST:PORT` and `identity=HOST:PORT` of any data type."""

import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from samples import sample

MODEL = "tested"


def linear(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata["inputs"][0]["shape"] == [-1, 4], metadata
    x = np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32)
    expected = np.array([[0.5, 11.5, 22.5], [0.5, 1.5, 2.5]], np.float32)
    for binary_in in (True, False):
        for binary_out in (True, False):
            for codec in (None, "gzip", "deflate"):
                tensor = http.InferInput("x", x.shape, "FP32")
                tensor.set_data_from_numpy(x, binary_data=binary_in)
                answer = client.infer(
                    MODEL,
                    [tensor],
                    outputs=[http.InferRequestedOutput("y", binary_data=binary_out)],
                    request_id="7",
                    request_compression_algorithm=codec,
                    response_compression_algorithm=codec,
                )
                assert answer.get_response()["id"] == "7"
                np.testing.assert_array_equal(answer.as_numpy("y"), expected)
    calls = [client.async_infer(MODEL, [tensor]) for _ in range(50)]
    for call in calls:
        np.testing.assert_array_equal(call.get_result().as_numpy("y"), expected)
    wrong = http.InferInput("x", [1, 5], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 5), np.float32))
    try:
        client.infer(MODEL, [wrong])
    except InferenceServerException as error:
        assert "`x`" in error.message(), error
    else:
        raise AssertionError("a wrong shape was answered")


def identity(client):
    data_type = client.get_model_metadata(MODEL)["inputs"][0]["datatype"]
    values = sample(data_type)
    for binary in (True, False):
        if data_type == "FP16" and not binary:
            continue  # The client itself sends FP16 as bytes only.
        tensor = http.InferInput("x", values.shape, data_type)
        tensor.set_data_from_numpy(values, binary_data=binary)
        answer = client.infer(MODEL, [tensor], outputs=[http.InferRequestedOutput("y", binary_data=binary)])
        result = answer.as_numpy("y")
        assert result.dtype == triton_to_np_dtype(data_type), (data_type, result.dtype)
        if data_type == "BYTES" and result.size and isinstance(result.flat[0], str):
            result = np.array([[text.encode() for text in row] for row in result], np.object_)
        np.testing.assert_array_equal(result, values)


def main():
    for argument in sys.argv[1:]:
        kind, address = argument.split("=")
        client = http.InferenceServerClient(address, concurrency=8)
        {"linear": linear, "identity": identity}[kind](client)
        client.close()


main()
