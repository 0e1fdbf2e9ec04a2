"""Runs ONNX's own node tests through the Open Inference Protocol: `onnx_nodes.py SCORER REPORT ENGINE…`.

A scorer serves one release, so each case has a scorer of its own; its model, inputs and expected outputs come from
the package `onnx`. Cases are taken by a fixed rule: no training operators, no `_expanded` twin of another case, and
only what the protocol can carry (tensors of its data types). Writes what passed and what did not to REPORT as JSON.
"""

import hashlib
import http.client
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

warnings.filterwarnings("ignore")

from onnx.backend.test.case.node import collect_testcases  # noqa: E402

# numpy's name of a data type → the protocol's.
NAMES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
START_LIMIT_S = 30
KINDS = ("passed", "failed", "refused", "panicked", "crashed")


def data_type(value):
    """The protocol's name; `None` where it has none."""
    if not isinstance(value, np.ndarray):
        return None
    return "BYTES" if value.dtype.kind in "OUS" else NAMES.get(value.dtype.name)


def declared(info):
    """The numpy type that the model declares; `None` where the protocol cannot carry it."""
    if not info.type.HasField("tensor_type"):
        return None
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    except KeyError:
        return None
    return dtype if dtype.name in NAMES else None


def typed(value, info):
    """A case's value in its declared type; some are written down as texts or plain numbers."""
    value = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    dtype = declared(info)
    return value if data_type(value) == NAMES[dtype.name] else value.astype(dtype)


def carried(case):
    return all(declared(info) is not None for info in (*case.model.graph.input, *case.model.graph.output))


def encode(value):
    """An input as the binary extension has it."""
    if data_type(value) != "BYTES":
        return np.ascontiguousarray(value).tobytes()
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in value.flatten()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def decode(output, content):
    shape = output["shape"]
    if output["datatype"] == "BYTES":
        texts = []
        while content:
            (length,) = struct.unpack_from("<I", content)
            texts.append(content[4 : 4 + length].decode())
            content = content[4 + length :]
        return np.array(texts, object).reshape(shape)
    name = next(name for name, own in NAMES.items() if own == output["datatype"])
    if name == "bfloat16":
        name = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
    return np.frombuffer(content, np.dtype(name)).reshape(shape)


class Refused(Exception):
    """The scorer did not start, and said why."""


class Crashed(Exception):
    """The scorer ended otherwise than by an exit of its own."""


class Scorer:
    def __init__(self, program, engine, folder, model):
        os.mkdir(os.path.join(folder, "model"))
        with open(os.path.join(folder, "model", "model.onnx"), "wb") as file:
            file.write(model)
        entry = {"path": "model.onnx", "size": len(model), "sha256": "sha256:" + hashlib.sha256(model).hexdigest()}
        release = {"format": 1, "name": "node", "model": {"name": "node", "version": "1", "type": "onnx", "files": [entry]}}
        with open(os.path.join(folder, "release.json"), "w") as file:
            json.dump(release, file)
        self.log = []
        self.process = subprocess.Popen(
            [program, "--release", folder, "--port", "0", "--admin-port", "0", "--log-format", "json",
             "--engine", engine, "--sessions", "1", "--threads", "1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        )
        timer = threading.Timer(START_LIMIT_S, self.process.kill)
        timer.start()
        self.address = self.wait_until_ready()
        timer.cancel()
        # What it says later is kept, and its pipe never fills.
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def wait_until_ready(self):
        address = None
        for line in self.process.stderr:
            self.log.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            address = event.get("address", address) if event.get("message") == "listening" else address
            if event.get("message") == "ready":
                return address
        code = self.process.wait()
        text = "".join(self.log)
        if code != 1:
            raise Crashed(f"exit {code}: {text[-1500:]}")
        raise Refused(text[-600:])

    def infer(self, names, inputs):
        tensors, contents = [], []
        for name, value in zip(names, inputs):
            content = encode(value)
            contents.append(content)
            tensors.append({"name": name, "datatype": data_type(value), "shape": list(value.shape),
                            "parameters": {"binary_data_size": len(content)}})
        head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("POST", "/v2/models/node/infer", head + b"".join(contents),
                           {"Inference-Header-Content-Length": str(len(head))})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {body[:500].decode(errors='replace')}")
        length = int(answer.headers.get("Inference-Header-Content-Length") or len(body))
        outputs = {}
        rest = body[length:]
        for output in json.loads(body[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            outputs[output["name"]] = decode(output, rest[:size])
            rest = rest[size:]
        return outputs

    def stop(self):
        """Ends it; whether a panic was printed, and that it had not ended by itself."""
        code = self.process.poll()
        self.process.kill()
        self.process.wait()
        if code is not None:
            raise Crashed(f"exit {code}: {''.join(self.log)[-1500:]}")
        return any("panicked at" in line for line in self.log)


def same(actual, expected, case):
    if actual.shape != expected.shape:
        return f"shape {actual.shape}, not {expected.shape}"
    if data_type(expected) == "BYTES":
        texts = [[text.decode() if isinstance(text, bytes) else str(text) for text in value.flatten()]
                 for value in (actual, expected)]
        return None if texts[0] == texts[1] else f"{texts[0]}, not {texts[1]}"
    if actual.dtype != expected.dtype:
        return f"{actual.dtype}, not {expected.dtype}"
    if expected.dtype.kind in "biu":
        return None if np.array_equal(actual, expected) else "other values"
    wide = (np.asarray(value, np.float64) for value in (actual, expected))
    return None if np.allclose(*wide, rtol=case.rtol, atol=case.atol, equal_nan=True) else "other values"


def run(program, engine, case):
    """`("passed" | "failed" | "refused" | "panicked" | "crashed", why)`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            scorer = Scorer(program, engine, folder, case.model.SerializeToString())
        except Refused as error:
            return "refused", str(error)
        except Crashed as error:
            return "crashed", str(error)
        outcome = answer(scorer, case)
        try:
            panicked = scorer.stop()
        except Crashed as error:
            return "crashed", str(error)
        return ("panicked", outcome[1]) if panicked else outcome


def answer(scorer, case):
    graph = case.model.graph
    try:
        for inputs, expected in case.data_sets:
            given = [(info.name, typed(value, info)) for info, value in zip(graph.input, inputs) if value is not None]
            outputs = scorer.infer([name for name, _ in given], [value for _, value in given])
            for info, value in zip(graph.output, expected):
                why = same(outputs[info.name], typed(value, info), case)
                if why:
                    return "failed", f"{info.name}: {why}"
        return "passed", None
    except (ValueError, KeyError, OSError, http.client.HTTPException) as error:
        return "failed", repr(error)[:600]


def taken(name):
    return "_expanded" not in name and not name.startswith(("test_adagrad", "test_adam", "test_momentum", "test_nesterov"))


def main():
    program, report, *engines = sys.argv[1:]
    cases = sorted((case for case in collect_testcases(None) if taken(case.name)), key=lambda case: case.name)
    offered = [case for case in cases if carried(case)]
    results = {}
    for engine in engines:
        with ThreadPoolExecutor(4) as pool:
            outcomes = dict(zip((case.name for case in offered), pool.map(lambda case: run(program, engine, case), offered)))
        by = {kind: {name: why for name, (own, why) in outcomes.items() if own == kind}
              for kind in KINDS}
        counts = {kind: len(names) for kind, names in by.items()}
        results[engine] = {**counts, "details": {kind: by[kind] for kind in KINDS[1:]}}
        print(f"{engine}: {counts['passed']} of {len(offered)} cases pass "
              f"({100 * counts['passed'] / len(offered):.1f} %), {counts['refused']} refused at start, "
              f"{counts['failed']} failed, {counts['panicked']} panicked, {counts['crashed']} crashed; "
              f"{len(cases) - len(offered)} cannot be carried",
              flush=True)
    with open(report, "w") as file:
        json.dump(results, file, indent=1)


main()
