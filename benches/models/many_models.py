"""Registers MODELS models with VERSIONS versions each over the API of a server at ADDRESS, all of one small file.

Usage: many_models.py ADDRESS MODELS VERSIONS
"""

import hashlib
import http.client
import json
import sys

address, models, versions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
content = b"weights"
digest = "sha256:" + hashlib.sha256(content).hexdigest()
connection = http.client.HTTPConnection(address)
base = "/api/v1/workspaces/default"


def send(method, path, body, **headers):
    connection.request(method, base + path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, (method, path, answer.status, text)


send("PATCH", f"/blobs/{digest}?size={len(content)}", content, upload_offset="0")
for model in range(models):
    for version in range(1, versions + 1):
        files = [{"path": "weights.bin", "size": len(content), "sha256": digest}]
        body = {"name": f"model-{model:04}", "version": str(version), "files": files, "tags": {"round": str(version)}}
        path = f"/models/model-{model:04}/versions/{version}"
        send("PUT", path, json.dumps(body), content_type="application/json")
