"""Cross-origin requests."""


def init():
    pass


def run(data):
    return "x"
