"""A Flask response goes out as it is."""
from flask import Response, jsonify, make_response


def init():
    pass


def run(data):
    if data == "json":
        return jsonify({"b": 1, "a": 2})
    if data == "500":
        return Response("broken", status=500)
    if data == "made":
        response = make_response("made", 203)
        response.headers["x-own"] = "yes"
        return response
    return Response(data, status=201, mimetype="text/csv", headers={"x-own": "yes"})
