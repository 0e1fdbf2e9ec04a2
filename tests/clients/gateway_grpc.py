"""Triton's gRPC client through the gateway. Usage: gateway_grpc.py HOST:PORT ENDPOINT KEY MODEL."""

import sys

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

address, endpoint, key, model = sys.argv[1:]
client = grpc.InferenceServerClient(address)
headers = {"moorline-endpoint": endpoint, "authorization": f"Bearer {key}"}

assert client.is_server_ready(headers=headers)
assert client.get_model_metadata(model, headers=headers).name == model
x = np.array([[1, 2, 3, 4]], np.float32)
tensor = grpc.InferInput("x", x.shape, "FP32")
tensor.set_data_from_numpy(x)
for number in range(50):
    answer = client.infer(model, [tensor], request_id=str(number), headers=headers)
    assert answer.get_response().id == str(number)
    np.testing.assert_array_equal(answer.as_numpy("y"), np.array([[0.5, 11.5, 22.5]], np.float32))

for wrong, status in (
    ({**headers, "authorization": "Bearer no"}, "StatusCode.UNAUTHENTICATED"),
    ({**headers, "moorline-endpoint": "nowhere"}, "StatusCode.NOT_FOUND"),
):
    try:
        client.infer(model, [tensor], headers=wrong)
    except InferenceServerException as error:
        assert error.status() == status, (error.status(), error.message())
    else:
        raise AssertionError(f"expected {status}")
print("seen")
