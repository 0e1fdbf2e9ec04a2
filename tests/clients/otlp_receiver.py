"""A collector that takes OTLP over gRPC and prints each span as a line of JSON. The first line is its endpoint.

Usage: otlp_receiver.py [PORT]"""

import json
import struct
import sys
from concurrent import futures

import grpc

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """The fields of a message of Protocol Buffers as pairs of a number and a value."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            size = {1: 8, 5: 4}[wire]
            value, at = data[at : at + size], at + size
        yield number, value


def attributes(message, number):
    found = {}
    for pair in (value for key, value in fields(message) if key == number):
        pair = dict(fields(pair))
        for kind, value in fields(pair[2]):
            found[pair[1].decode()] = {1: bytes.decode, 3: int}.get(kind, repr)(value)
    return found


def spans(request):
    for _, resource_spans in fields(request):
        parts = list(fields(resource_spans))
        resource = next((value for number, value in parts if number == 1), b"")
        service = attributes(resource, 1).get("service.name")
        for scope in (value for number, value in parts if number == 2):
            for span in (value for number, value in fields(scope) if number == 2):
                one = dict(fields(span))
                status = dict(fields(one.get(15, b"")))
                yield {
                    "service": service,
                    "trace": one[1].hex(),
                    "id": one[2].hex(),
                    "parent": one.get(4, b"").hex(),
                    "name": one[5].decode(),
                    "kind": {1: "internal", 2: "server", 3: "client"}.get(one.get(6), one.get(6)),
                    "begins": struct.unpack("<Q", one[7])[0],
                    "ends": struct.unpack("<Q", one[8])[0],
                    "failed": status.get(3) == 2,
                    "attributes": attributes(span, 9),
                }


def export(request, _context):
    for span in spans(request):
        print(json.dumps(span), flush=True)
    return b""


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(export) if call.method == EXPORT else None


def main():
    # One thread, so that no two lines are written at one time.
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:%s" % (sys.argv[1] if len(sys.argv) > 1 else 0))
    server.start()
    print(f"http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
