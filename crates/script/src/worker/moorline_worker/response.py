"""What a script may return, and how it becomes an answer."""

import json
from json import encoder

UNEXPECTED_IN_SCRIPT = "An unexpected error occurred in scoring script. Check the logs for more info."
UNEXPECTED_INTERNAL = "An unexpected internal error occurred. Check the logs for more info."

_JSON_TYPE = [("content-type", "application/json")]
_TEXT_TYPE = "text/html; charset=utf-8"
encode_json = json.JSONEncoder().encode


def _structure_encoder():
    """`encode_json` for lists and dicts, made once: the library's own makes an encoder anew for every value.

    For one thread only. None where Python does not have it in C.
    """
    make = encoder.c_make_encoder
    if make is None:
        return None
    open_now = {}
    default = json.JSONEncoder().default
    encode = make(open_now, default, encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True)

    def encode_structure(value):
        try:
            return "".join(encode(value, 0))
        except BaseException:
            # It remembers what it is inside of, also after it was thrown out.
            open_now.clear()
            raise

    return encode_structure


encode_structure = _structure_encoder() or encode_json


class Reply:
    """An encoded answer. `nanoseconds` is how long `run` took, None where it was not reached or failed; `failed` is
    whether it failed, None where nothing is to be said of it.
    """

    __slots__ = ("status", "headers", "body", "failed", "nanoseconds")

    def __init__(self, status, headers, body, failed=False, nanoseconds=None):
        self.status = status
        self.headers = headers
        self.body = body
        self.failed = failed
        self.nanoseconds = nanoseconds


class BadInput(Exception):
    """The caller's fault, answered without reaching `run`."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status = status


def problem(status, message, failed=False):
    return Reply(status, _JSON_TYPE, encode_json({"message": message}).encode(), failed)


def coded_problem(status, message, failed=False):
    """An error as MLflow's server words it."""
    code = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
    return Reply(status, _JSON_TYPE, encode_json({"error_code": code, "message": message}).encode(), failed)


class ResponseHeaders:
    """The headers of a response: case-insensitive, in order, repeated names kept."""

    def __init__(self):
        self._pairs = []

    def __getitem__(self, name):
        for known, value in self._pairs:
            if known.lower() == name.lower():
                return value
        raise KeyError(name)

    def __setitem__(self, name, value):
        self.remove(name)
        self.add(name, value)

    def __delitem__(self, name):
        self.remove(name)

    def __contains__(self, name):
        return any(known.lower() == name.lower() for known, _ in self._pairs)

    def __iter__(self):
        return iter(list(self._pairs))

    def __len__(self):
        return len(self._pairs)

    def add(self, name, value):
        self._pairs.append((str(name), str(value)))

    def remove(self, name):
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != name.lower()]

    def set(self, name, value):
        self[name] = value

    def get(self, name, default=None):
        return self[name] if name in self else default

    def getlist(self, name):
        return [value for known, value in self._pairs if known.lower() == name.lower()]

    def setdefault(self, name, value):
        if name not in self:
            self.add(name, value)
        return self[name]

    def update(self, other):
        for name, value in other.items():
            self[name] = value

    extend = update

    def items(self):
        return list(self._pairs)


class AMLResponse:
    """A response with a status and headers of the script's choice.

    `message` None is an empty JSON object; with `json_str` it is encoded as JSON; else it is the body as it is (text or
    bytes). A value with commas in `response_headers` becomes repeated headers.
    """

    def __init__(self, message, status_code, response_headers=None, json_str=False, run_function_failed=False):
        self.status_code = status_code
        self.run_function_failed = run_function_failed
        self.headers = ResponseHeaders()
        if message is None:
            self.data, content_type = b"{}", "application/json"
        elif json_str:
            self.data, content_type = encode_json(message), "application/json"
        else:
            self.data, content_type = message, _TEXT_TYPE
        self.content_type = content_type
        for name, value in dict(response_headers or {}).items():
            name, value = str(name), str(value)
            # Only what is a list by its meaning is one: a content type or a date merely looks like it.
            if name.lower() in _NOT_LISTS:
                self.headers[name] = value
            else:
                for item in value.split(","):
                    self.headers.add(name, item.strip())

    @property
    def content_type(self):
        return self.headers.get("content-type")

    @content_type.setter
    def content_type(self, value):
        self.headers["content-type"] = value

    @property
    def mimetype(self):
        return (self.content_type or "").partition(";")[0].strip().lower()

    @mimetype.setter
    def mimetype(self, value):
        self.content_type = value

    @property
    def data(self):
        return self._body

    @data.setter
    def data(self, value):
        self._body = raw_body(value)

    def set_data(self, value):
        self.data = value

    def get_data(self, as_text=False):
        return self._body.decode("utf-8", "replace") if as_text else self._body

    def get_json(self, **_options):
        return json.loads(self._body)

    @property
    def json(self):
        return self.get_json()

    def set_cookie(self, key, value="", max_age=None, path="/", domain=None, secure=False, httponly=False, samesite=None):
        parts = ["%s=%s" % (key, value)]
        parts += ["%s=%s" % (n, v) for n, v in (("Domain", domain), ("Max-Age", max_age)) if v is not None]
        parts += [flag for flag, on in (("Secure", secure), ("HttpOnly", httponly)) if on]
        parts += ["%s=%s" % (n, v) for n, v in (("Path", path), ("SameSite", samesite)) if v is not None]
        self.headers.add("set-cookie", "; ".join(parts))

    def to_reply(self):
        status = int(self.status_code)
        return Reply(status, self.headers.items(), self._body, status >= 500 or bool(self.run_function_failed))


_NOT_LISTS = frozenset(("content-type", "date", "expires", "last-modified", "retry-after"))


def raw_body(message):
    if isinstance(message, str):
        return message.encode("utf-8", "surrogatepass")
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message)
    try:
        parts = list(message)
    except TypeError:
        raise TypeError("the body of a response must be text or bytes, not %s" % type(message).__name__) from None
    if not all(isinstance(part, (str, bytes, bytearray)) for part in parts):
        raise TypeError("the body of a response must be made of text or bytes")
    return b"".join(map(raw_body, parts))


def is_response(value):
    """Whether the script made its own response: ours, or one that looks like Flask's or Werkzeug's."""
    return isinstance(value, AMLResponse) or (
        hasattr(value, "get_data") and hasattr(value, "status_code") and hasattr(value, "headers")
    )


def to_reply(value):
    """The answer for anything that is not plain JSON data. Raises where it cannot be encoded."""
    if isinstance(value, AMLResponse):
        return value.to_reply()
    if value is None:
        return Reply(200, _JSON_TYPE, b"{}")
    if is_response(value):
        if hasattr(value, "direct_passthrough"):
            value.direct_passthrough = False
        status = int(value.status_code)
        headers = [
            (str(name), str(item))
            for name, item in value.headers.items()
            if name.lower() not in ("content-length", "connection", "transfer-encoding")
        ]
        return Reply(status, headers, raw_body(value.get_data()), True if status >= 500 else None)
    return Reply(200, _JSON_TYPE, encode_json(value).encode())
