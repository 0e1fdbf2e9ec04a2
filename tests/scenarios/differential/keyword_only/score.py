"""Keyword-only parameters, and a name of its own for the data."""


def init():
    pass


def run(*, payload, request_headers):
    return [payload, request_headers["Content-Type"] if "Content-Type" in request_headers else None]
