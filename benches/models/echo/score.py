"""The scoring script of the bench: reads JSON, gives it back. Both servers run this file."""

import json


def init():
    pass


def run(raw_data):
    return json.loads(raw_data)
