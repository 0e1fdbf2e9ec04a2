"""Triton's gRPC client against scorers: arguments are `linear=HOST:PORT` and `identity=HOST:PORT` of any data type.
Raw contents go through the client, typed contents through its stub."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc as transport
import numpy as np
import tritonclient.grpc as grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from samples import CONTENTS, sample

MODEL = "tested"


def linear(client, stub):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_server_metadata().version
    metadata = client.get_model_metadata(MODEL)
    assert list(metadata.inputs[0].shape) == [-1, 4], metadata
    x = np.array([[1, 2, 3, 4]], np.float32)
    expected = np.array([[0.5, 11.5, 22.5]], np.float32)
    tensor = grpc.InferInput("x", x.shape, "FP32")
    tensor.set_data_from_numpy(x)
    for codec in (None, "gzip"):
        answer = client.infer(MODEL, [tensor], request_id="7", compression_algorithm=codec)
        assert answer.get_response().id == "7"
        np.testing.assert_array_equal(answer.as_numpy("y"), expected)
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: client.infer(MODEL, [tensor]), range(100)):
            np.testing.assert_array_equal(answer.as_numpy("y"), expected)
    wrong = grpc.InferInput("x", [1, 5], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 5), np.float32))
    fails(lambda: client.infer(MODEL, [wrong]), "StatusCode.INVALID_ARGUMENT", "`x`")
    fails(lambda: client.infer("other", [tensor]), "StatusCode.NOT_FOUND", "other")
    fails(lambda: client.get_model_metadata("other"), "StatusCode.NOT_FOUND", "other")
    short = service_pb2.ModelInferRequest(model_name=MODEL)
    short.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    short.raw_input_contents.append(b"\0" * 15)
    try:
        stub.ModelInfer(short)
    except transport.RpcError as error:
        assert error.code() == transport.StatusCode.INVALID_ARGUMENT, error
    else:
        raise AssertionError("too few bytes were answered")
    np.testing.assert_array_equal(client.infer(MODEL, [tensor]).as_numpy("y"), expected)


def fails(call, status, named):
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == status and named in error.message(), (error.status(), error.message())
    else:
        raise AssertionError(f"expected {status}")


def identity(client, stub):
    data_type = client.get_model_metadata(MODEL).inputs[0].datatype
    values = sample(data_type)
    tensor = grpc.InferInput("x", values.shape, data_type)
    tensor.set_data_from_numpy(values)
    result = client.infer(MODEL, [tensor]).as_numpy("y")
    assert result.dtype == triton_to_np_dtype(data_type), (data_type, result.dtype)
    np.testing.assert_array_equal(result, values)
    field = CONTENTS.get(data_type)
    if field is None:
        return  # FP16 has raw contents only.
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    typed = request.inputs.add(name="x", datatype=data_type, shape=values.shape)
    getattr(typed.contents, field).extend(values.flatten().tolist())
    answer = stub.ModelInfer(request)
    assert not answer.raw_output_contents, "typed contents are answered in kind"
    assert list(getattr(answer.outputs[0].contents, field)) == values.flatten().tolist(), answer


def main():
    for argument in sys.argv[1:]:
        kind, address = argument.split("=")
        client = grpc.InferenceServerClient(address)
        with transport.insecure_channel(address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            {"linear": linear, "identity": identity}[kind](client, stub)
        client.close()


main()
