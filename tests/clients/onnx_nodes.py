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


def data_type(value):
    """The protocol's name; `None` where it has none."""
    if not isinstance(value, np.ndarray):
        return None
    return "BYTES" if value.dtype.kind in "OUS" else NAMES.get(value.dtype.name)


def carried(case):
    """Whether the protocol can carry the case. Types are declared by the model; values may be plain scalars."""
    values = [value for inputs, outputs in case.data_sets for value in (*inputs, *outputs)]
    declared = [*case.model.graph.input, *case.model.graph.output]
    return all(info.type.HasField("tensor_type") for info in declared) and all(
        data_type(np.asarray(value)) for value in values if value is not None
    )


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
        import ml_dtypes

        return np.frombuffer(content, ml_dtypes.bfloat16).reshape(shape)
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
        if code < 0 or "panicked" in text:
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
        self.process.kill()
        self.process.wait()
        if any("panicked" in line for line in self.log):
            raise Crashed("".join(self.log)[-1500:])


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
    """`("passed" | "failed" | "refused" | "crashed", why)`."""
    graph = case.model.graph
    with tempfile.TemporaryDirectory() as folder:
        try:
            scorer = Scorer(program, engine, folder, case.model.SerializeToString())
        except Refused as error:
            return "refused", str(error)
        except Crashed as error:
            return "crashed", str(error)
        try:
            for inputs, expected in case.data_sets:
                given = [(info.name, np.asarray(value)) for info, value in zip(graph.input, inputs) if value is not None]
                outputs = scorer.infer([name for name, _ in given], [value for _, value in given])
                for info, value in zip(graph.output, expected):
                    why = same(outputs[info.name], np.asarray(value), case)
                    if why:
                        return "failed", f"{info.name}: {why}"
            return "passed", None
        except (ValueError, KeyError, OSError, http.client.HTTPException) as error:
            return "failed", repr(error)[:600]
        finally:
            scorer.stop()


def taken(name):
    return "_expanded" not in name and not name.startswith(("test_adagrad", "test_adam", "test_momentum", "test_nesterov"))


def main():
    program, report, *engines = sys.argv[1:]
    cases = sorted((case for case in collect_testcases(None) if taken(case.name)), key=lambda case: case.name)
    offered = [case for case in cases if carried(case)]
    limit = int(os.environ.get("CASES", "0"))
    offered = offered[:limit] if limit else offered
    results = {}
    for engine in engines:
        def one(case, engine=engine):
            try:
                return run(program, engine, case)
            except Crashed as error:
                return "crashed", str(error)

        with ThreadPoolExecutor(4) as pool:
            outcomes = dict(zip((case.name for case in offered), pool.map(one, offered)))
        by = {kind: {name: why for name, (own, why) in outcomes.items() if own == kind}
              for kind in ("passed", "failed", "refused", "crashed")}
        counts = {kind: len(names) for kind, names in by.items()}
        results[engine] = {**counts, "details": {kind: by[kind] for kind in ("failed", "refused", "crashed")}}
        print(f"{engine}: {counts['passed']} of {len(offered)} cases pass "
              f"({100 * counts['passed'] / len(offered):.1f} %), {counts['refused']} refused at start, "
              f"{counts['failed']} failed, {counts['crashed']} crashed; {len(cases) - len(offered)} cannot be carried",
              flush=True)
    with open(report, "w") as file:
        json.dump(results, file, indent=1)


main()
