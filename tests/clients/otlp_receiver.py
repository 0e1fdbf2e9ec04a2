"""A collector that takes OTLP over gRPC and prints each message in hexadecimal: the trace's id is in there as it is.
The first line is its endpoint."""

from concurrent import futures

import grpc

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def export(request, _context):
    print(request.hex(), flush=True)
    return b""


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(export) if call.method == EXPORT else None


def main():
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


main()
