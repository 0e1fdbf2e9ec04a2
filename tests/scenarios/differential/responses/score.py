"""All that a script can return, picked by the request."""
import logging
import sys

from azureml_inference_server_http.api.aml_response import AMLResponse


class Unknown:
    pass


def init():
    logging.getLogger(__name__).info("init")


def shout():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.warning("to the root logger")
    return "said"


VALUES = {
    "text": lambda: "text",
    "unicode": lambda: "é \u2028 \U0001f600 \u0000",
    "number": lambda: 3,
    "float": lambda: 0.1 + 0.2,
    "nan": lambda: [float("nan"), float("inf"), float("-inf")],
    "big": lambda: 10**40,
    "none": lambda: None,
    "true": lambda: True,
    "list": lambda: [1, "two", None, {"three": 3}],
    "tuple": lambda: (1, 2),
    "keys": lambda: {1: "number", None: "none", True: "true"},
    "empty": lambda: "",
    "bytes": lambda: b"bytes",
    "set": lambda: {1},
    "object": Unknown,
    "print": shout,
    "raise": lambda: 1 // 0,
    "key_error": lambda: {}["missing"],
    "aml_none": lambda: AMLResponse(None, 200),
    "aml_none_headers": lambda: AMLResponse(None, 207, {"x-own": "1"}),
    "aml_text": lambda: AMLResponse("text", 201),
    "aml_bytes": lambda: AMLResponse(b"\x00\xff", 200, {"Content-Type": "image/png"}),
    "aml_json": lambda: AMLResponse({"a": [1, 2.5, "é"]}, 202, {}, True),
    "aml_json_text": lambda: AMLResponse("text", 200, json_str=True),
    "aml_headers": lambda: AMLResponse("x", 200, {"x-many": "a, b,c", "x-one": "1"}),
    "aml_type_lower": lambda: AMLResponse("x", 200, {"content-type": "text/csv"}),
    "aml_type_json": lambda: AMLResponse('{"own": true}', 200, {"Content-Type": "application/json"}),
    "aml_204": lambda: AMLResponse("", 204),
    "aml_400": lambda: AMLResponse({"message": "mine"}, 400, {}, True),
    "aml_404": lambda: AMLResponse("not here", 404),
    "aml_418": lambda: AMLResponse("tea", 418),
    "aml_500": lambda: AMLResponse("broken", 500),
    "aml_503": lambda: AMLResponse({"message": "later"}, 503, {"Retry-After": "7"}, True),
    "aml_failed": lambda: AMLResponse("x", 200, run_function_failed=True),
    "aml_own_request_id": lambda: AMLResponse("x", 200, {"x-ms-request-id": "mine"}),
    "aml_cookie": lambda: AMLResponse("x", 200, {"Set-Cookie": "a=1; Path=/"}),
    "aml_status_text": lambda: AMLResponse("x", "201"),
}


def run(data):
    return VALUES[data]()
