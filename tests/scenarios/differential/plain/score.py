"""The undecorated script: the body arrives as text, the query as JSON text."""


def init():
    pass


def run(data):
    return {"type": type(data).__name__, "data": data, "length": len(data)}
