"""How `run` is called: plain text, named parameters or the request itself."""

import json
from time import perf_counter_ns

from . import console
from .request import Headers, AMLRequest, is_json_type, parse_options, parse_query
from .response import BadInput, UNEXPECTED_INTERNAL, UNEXPECTED_IN_SCRIPT, problem, to_reply


def decode_text(body):
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("Input cannot be decoded as UTF-8: %s" % error) from error


def query_of(target):
    """The query parameters: each value parsed as JSON where it parses, repeated names as lists."""
    values = {}
    for name, value in parse_query(target.partition("?")[2]):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        values.setdefault(name, []).append(parsed)
    return {name: items[0] if len(items) == 1 else items for name, items in values.items()}


class Described:
    """A request with everything that is known of it."""

    __slots__ = ("route", "method", "target", "headers", "body")

    def __init__(self, route, method, target, headers, body):
        self.route = route
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body


def content_type_of(call):
    """The media type and its options."""
    for name, value in call.headers:
        if name.lower() == "content-type":
            kind, options = parse_options(value)
            return kind.lower(), options
    return "", {}


class PlainInput:
    """`run(text)`."""

    def __init__(self, script):
        first = script.parameters[0]
        self.name = first.name

    def arguments(self, call):
        if call.method == "GET":
            return {self.name: json.dumps(query_of(call.target))}
        return {self.name: decode_text(call.body)}


class SchemaInput:
    """`run` under `@input_schema`: its parameters by name."""

    def __init__(self, script):
        self.parameters = script.parameters

    def arguments(self, call):
        given = query_of(call.target) if call.method == "GET" else self._body(call)
        arguments = {}
        for parameter in self.parameters:
            if parameter.name in given:
                arguments[parameter.name] = given[parameter.name]
            elif parameter.default is parameter.empty:
                raise BadInput("A value is not provided for the %r parameter." % parameter.name)
            else:
                arguments[parameter.name] = parameter.default
        return arguments

    @staticmethod
    def _body(call):
        if not is_json_type(content_type_of(call)[0]):
            raise BadInput("Expects Content-Type to be application/json", 415)
        if not call.body:
            raise BadInput("POST body is empty. Expecting a JSON dictionary.")
        try:
            given = json.loads(call.body)
        except (ValueError, RecursionError) as error:
            raise BadInput("POST body could not be decoded as JSON: %s" % error) from error
        if not isinstance(given, dict):
            raise BadInput("POST body should be a JSON dictionary.")
        return given


class RawInput:
    """`run` under `@rawhttp`: the request."""

    def __init__(self, script):
        self.name = script.parameters[0].name

    def arguments(self, call):
        return {self.name: AMLRequest(call.method, call.target, call.headers, call.body)}


_INPUTS = {"plain": PlainInput, "schema": SchemaInput, "rawhttp": RawInput}


class ScriptCaller:
    """Answers described requests with a script's `run`; `flask` has the contexts for scripts that want Flask's."""

    def __init__(self, script, guard, flask):
        self._input = _INPUTS[script.style](script)
        self._run = script.run
        self._wants_headers = script.wants_headers
        self._guard = guard
        self._flask = flask

    @staticmethod
    def problem_of(_call):
        return problem

    def answer(self, call):
        try:
            arguments = self._input.arguments(call)
        except BadInput as error:
            return problem(error.status, str(error))
        if self._wants_headers:
            arguments["request_headers"] = dict(Headers(call.headers).items())
        if self._flask is None:
            return self._call(arguments)
        with self._flask.request(call):
            return self._call(arguments)

    def _call(self, arguments):
        started = perf_counter_ns()
        try:
            value = self._guard(lambda: self._run(**arguments))
        except BaseException as error:
            return script_failed(error)
        return encoded(value, perf_counter_ns() - started)


def script_failed(error):
    console.report("run() raised", error)
    return problem(500, UNEXPECTED_IN_SCRIPT, failed=True)


def encoded(value, nanoseconds):
    """The reply for what `run` returned."""
    try:
        reply = to_reply(value)
    except Exception as error:
        console.report("what run() returned cannot be encoded", error)
        return problem(500, UNEXPECTED_INTERNAL)
    reply.nanoseconds = nanoseconds
    return reply


def bounded(reply, limit, problem=problem):
    """A reply that is beyond what the server takes becomes an error of its own."""
    if len(reply.body) <= limit:
        return reply
    message = "The reply of the scoring script has %d bytes; at most %d are allowed." % (len(reply.body), limit)
    return problem(500, message)
