"""A script that asks for the request's headers, after or before its data."""


def init():
    pass


def run(request_headers, data):
    transport = {"Host", "Connection", "Accept-Encoding", "User-Agent"}
    return {
        "type": type(request_headers).__name__,
        "headers": {name: value for name, value in sorted(request_headers.items()) if name not in transport},
        "lower": request_headers.get("x-custom"),
        "data": data,
    }
