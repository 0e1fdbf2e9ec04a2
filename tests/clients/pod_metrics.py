"""An adapter of custom metrics for a cluster: what it is asked of pods it reads from their own `/metrics` at that moment.
Arguments: the address to listen at, a certificate and its key. The first line that it prints is its port."""

import json
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GROUP = "custom.metrics.k8s.io/v1beta1"
METRIC = "moorline_requests_in_flight"
RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": GROUP,
    "resources": [
        {
            "name": f"pods/{METRIC}",
            "singularName": "",
            "namespaced": True,
            "kind": "MetricValueList",
            "verbs": ["get"],
        }
    ],
}


def pods(namespace, selector):
    listed = subprocess.run(
        ["kubectl", "--namespace", namespace, "get", "pods", "-l", selector, "-o", "json"],
        check=True,
        capture_output=True,
    )
    for pod in json.loads(listed.stdout)["items"]:
        if pod["status"].get("podIP") and pod["status"].get("phase") == "Running":
            yield pod["metadata"]["name"], pod["status"]["podIP"]


def in_flight(address):
    with urllib.request.urlopen(f"http://{address}:5000/metrics", timeout=2) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(METRIC))


def value(namespace, pod, amount):
    return {
        "describedObject": {"kind": "Pod", "namespace": namespace, "name": pod, "apiVersion": "/v1"},
        "metricName": METRIC,
        "metric": {"name": METRIC},
        "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "value": f"{round(amount * 1000)}m",
    }


def values(namespace, selector):
    items = []
    for pod, address in pods(namespace, selector):
        try:
            items.append(value(namespace, pod, in_flight(address)))
        except OSError:
            pass  # A pod that starts or ends says nothing, and counts as one without a value.
    return {"kind": "MetricValueList", "apiVersion": GROUP, "metadata": {}, "items": items}


class Server(ThreadingHTTPServer):
    def server_bind(self):
        # Without the look-up of its own name, which may take long.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        place = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        query = urllib.parse.parse_qs(url.query)
        if url.path == f"/apis/{GROUP}":
            self.answer(200, RESOURCES)
        elif place[3:4] == ["namespaces"] and place[5:] == ["pods", "*", METRIC]:
            self.answer(200, values(place[4], query.get("labelSelector", [""])[0]))
        else:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            self.answer(404, {**status, "message": f"there is no {url.path}"})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    address, certificate, key = sys.argv[1:]
    server = Server((address, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


main()
