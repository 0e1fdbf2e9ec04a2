"""The request object of `@rawhttp` scripts: Flask's interface, without Flask."""

import io
import json
import re
from urllib.parse import unquote_to_bytes, urlsplit

_RAW_HTTP = "__moorline_rawhttp__"


def rawhttp(function):
    """Marks `run` as wanting the HTTP request itself."""
    setattr(function, _RAW_HTTP, True)
    return function


def wants_raw_http(function):
    return getattr(function, _RAW_HTTP, False) is True


def _unquote(text):
    data = unquote_to_bytes(text.replace("+", " "))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # What is not UTF-8 stays as it was sent, percent signs and all.
        return "".join(_invalid_kept(data))


def _invalid_kept(data):
    while data:
        try:
            yield data.decode("utf-8")
            return
        except UnicodeDecodeError as error:
            yield data[: error.start].decode("utf-8")
            yield "".join("%%%02X" % byte for byte in data[error.start : error.end])
            data = data[error.end :]


def parse_query(text):
    """The `name=value` pairs of a query or of a form, in order."""
    pairs = []
    for part in text.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_unquote(name), _unquote(value)))
    return pairs


class BadRequest(Exception):
    """The body is not what the script took it for. Unless the script catches it, it is the script's failure."""

    def __init__(self, description, code=400):
        super().__init__(description)
        self.description = description
        self.code = code


class MultiDict(dict):
    """A dict of the first value a name, which knows the others as well."""

    def __init__(self, pairs=()):
        super().__init__()
        self._lists = {}
        for name, value in pairs:
            self._lists.setdefault(name, []).append(value)
            self.setdefault(name, value)

    def get(self, key, default=None, type=None):
        value = super().get(key, default)
        if type is None or key not in self:
            return value
        try:
            return type(value)
        except (ValueError, TypeError):
            return default

    def getlist(self, key, type=None):
        values = self._lists.get(key, [])
        if type is None:
            return list(values)
        converted = []
        for value in values:
            try:
                converted.append(type(value))
            except (ValueError, TypeError):
                continue
        return converted

    def lists(self):
        return iter((name, list(values)) for name, values in self._lists.items())

    def listvalues(self):
        return iter(list(values) for values in self._lists.values())

    def items(self, multi=False):
        if not multi:
            return super().items()
        return [(name, value) for name, values in self._lists.items() for value in values]

    def to_dict(self, flat=True):
        return dict(self) if flat else {name: list(values) for name, values in self._lists.items()}


class Headers:
    """Headers by case-insensitive name, in order; repeated ones are joined by commas."""

    def __init__(self, pairs=()):
        self._named = {}
        for name, value in pairs:
            key = name.lower()
            if key in self._named:
                self._named[key] = (self._named[key][0], self._named[key][1] + "," + value)
            else:
                self._named[key] = (name.title(), value)

    def get(self, key, default=None, type=None):
        found = self._named.get(key.lower())
        if found is None:
            return default
        if type is None:
            return found[1]
        try:
            return type(found[1])
        except (ValueError, TypeError):
            return default

    def getlist(self, key):
        return [self[key]] if key in self else []

    get_all = getlist

    def __getitem__(self, key):
        found = self._named.get(key.lower())
        if found is None:
            raise KeyError(key)
        return found[1]

    def __contains__(self, key):
        return key.lower() in self._named

    def __iter__(self):
        return iter(self._named.values())

    def __len__(self):
        return len(self._named)

    def has_key(self, key):
        return key in self

    def items(self):
        return list(self._named.values())

    def keys(self):
        return [name for name, _ in self._named.values()]

    def values(self):
        return [value for _, value in self._named.values()]

    def __str__(self):
        return "".join("%s: %s\r\n" % pair for pair in self) + "\r\n"

    def __repr__(self):
        return "Headers(%r)" % self.items()


class FileStorage:
    """One uploaded file."""

    def __init__(self, content, filename, name, headers):
        self.stream = io.BytesIO(content)
        self.filename = filename
        self.name = name
        self.headers = headers

    @property
    def content_type(self):
        return self.headers.get("content-type")

    @property
    def mimetype(self):
        return (self.content_type or "").partition(";")[0].strip().lower()

    @property
    def content_length(self):
        return self.headers.get("content-length", 0, int)

    def save(self, destination, buffer_size=16384):
        if hasattr(destination, "write"):
            destination.write(self.stream.read())
            return
        with open(destination, "wb") as file:
            file.write(self.stream.read())

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __iter__(self):
        return iter(self.stream)

    def __bool__(self):
        return bool(self.filename)


_OPTION = re.compile(r';\s*([^\s=;]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')


def parse_options(value):
    """A header value with options: `form-data; name="x"` is `("form-data", {"name": "x"})`."""
    main, separator, rest = (value or "").partition(";")
    options = {}
    for name, text in _OPTION.findall(separator + rest):
        text = text.strip()
        if len(text) > 1 and text[0] == '"' and text[-1] == '"':
            text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        options[name.lower()] = text
    return main.strip(), options


def parse_multipart(body, boundary):
    """The fields and the files of a multipart body."""
    fields, files = [], []
    mark = b"\r\n--" + boundary.encode("utf-8", "replace")
    for part in (b"\r\n" + body).split(mark)[1:]:
        if part.startswith(b"--"):
            break
        head, separator, content = part.lstrip(b" \t").partition(b"\r\n\r\n")
        if not separator:
            continue
        lines = head.decode("utf-8", "replace").split("\r\n")
        pairs = (line.partition(":") for line in lines if ":" in line)
        headers = Headers([(name.strip(), value.strip()) for name, _, value in pairs])
        _, options = parse_options(headers.get("content-disposition"))
        name = options.get("name")
        if name is None:
            continue
        if "filename" in options:
            files.append((name, FileStorage(content, options["filename"], name, headers)))
        else:
            fields.append((name, content.decode("utf-8", "replace")))
    return fields, files


class _Accepted(list):
    """The media types that the client accepts, best first."""

    def __init__(self, text):
        self._text = text
        weighted = []
        for item in (part.strip() for part in text.split(",")):
            if not item:
                continue
            name, options = parse_options(item)
            try:
                quality = float(options.get("q", 1))
            except ValueError:
                quality = 0.0
            weighted.append((name.lower(), quality))
        super().__init__(sorted(weighted, key=lambda pair: -pair[1]))

    def __str__(self):
        return self._text

    def __contains__(self, kind):
        return self.quality(kind) > 0

    def quality(self, kind):
        group = kind.lower().partition("/")[0] + "/*"
        return max((q for name, q in self if name in (kind.lower(), group, "*/*", "*")), default=0)

    @property
    def best(self):
        return self[0][0] if self else None

    def best_match(self, kinds, default=None):
        best = max(kinds, key=self.quality, default=None)
        return best if best is not None and self.quality(best) > 0 else default

    @property
    def accept_json(self):
        return "application/json" in self


class AMLRequest:
    """One HTTP request, as Flask would show it."""

    endpoint = "main.handle_score"
    blueprint = "main"
    scheme = "http"
    root_path = script_root = ""
    is_secure = False
    remote_addr = "127.0.0.1"
    view_args = {}
    max_content_length = None

    def __init__(self, method, target, headers, body):
        self.method = method
        parts = target.partition("?")
        raw_path = urlsplit(parts[0]).path if "://" in parts[0] else parts[0]
        self.path = _unquote(raw_path.replace("+", "%2B"))
        self.query_string = parts[2].encode("utf-8", "replace")
        self.headers = Headers(headers)
        self._body = body
        self._parsed = None
        self._stream = None
        self.args = MultiDict(parse_query(parts[2]))
        self.environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": self.path,
            "QUERY_STRING": parts[2],
            "wsgi.url_scheme": self.scheme,
        }
        for name, value in self.headers:
            key = name.upper().replace("-", "_")
            self.environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key] = value

    # The address.

    @property
    def host(self):
        return self.headers.get("host", "localhost")

    @property
    def full_path(self):
        return "%s?%s" % (self.path, self.query_string.decode())

    @property
    def host_url(self):
        return "%s://%s/" % (self.scheme, self.host)

    url_root = root_url = host_url

    @property
    def base_url(self):
        return self.host_url.rstrip("/") + self.path

    @property
    def url(self):
        query = self.query_string.decode()
        return self.base_url + ("?" + query if query else "")

    # What kind of body it is.

    @property
    def content_type(self):
        return self.headers.get("content-type")

    @property
    def content_length(self):
        return self.headers.get("content-length", None, int)

    @property
    def content_encoding(self):
        return self.headers.get("content-encoding")

    @property
    def mimetype(self):
        return parse_options(self.content_type)[0].lower()

    @property
    def mimetype_params(self):
        return parse_options(self.content_type)[1]

    @property
    def is_json(self):
        return is_json_type(self.mimetype)

    # The body.

    @property
    def data(self):
        return self.get_data(parse_form_data=True)

    def get_data(self, cache=True, as_text=False, parse_form_data=False):
        # As in Flask, what was read as a form is not there as data any more.
        if (parse_form_data or self._parsed is not None) and self.mimetype in _FORM_TYPES:
            self._form_and_files()
            return "" if as_text else b""
        return self._body.decode("utf-8", "replace") if as_text else self._body

    @property
    def stream(self):
        if self._stream is None:
            self._stream = io.BytesIO(self._body)
        return self._stream

    @property
    def json(self):
        return self.get_json()

    def get_json(self, force=False, silent=False, cache=True):
        if not (force or self.is_json):
            if silent:
                return None
            raise BadRequest("the request's Content-Type is %r, which is not JSON" % self.content_type, 415)
        try:
            return json.loads(self._body)
        except ValueError as error:
            if silent:
                return None
            raise BadRequest("the request's body is not JSON: %s" % error) from error

    def _form_and_files(self):
        if self._parsed is None:
            kind, options = parse_options(self.content_type)
            kind = kind.lower()
            fields, files = [], []
            if kind == "application/x-www-form-urlencoded":
                fields = parse_query(self._body.decode("utf-8", "replace"))
            elif kind == "multipart/form-data" and options.get("boundary"):
                fields, files = parse_multipart(self._body, options["boundary"])
            self._parsed = MultiDict(fields), MultiDict(files)
        return self._parsed

    @property
    def form(self):
        return self._form_and_files()[0]

    @property
    def files(self):
        return self._form_and_files()[1]

    @property
    def values(self):
        pairs = self.args.items(multi=True)
        if self.method in ("POST", "PUT", "PATCH"):
            pairs = pairs + self.form.items(multi=True)
        return MultiDict(pairs)

    # The client.

    @property
    def cookies(self):
        pairs = []
        for part in self.headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name:
                pairs.append((name.strip(), value.strip().strip('"')))
        return MultiDict(pairs)

    @property
    def user_agent(self):
        return self.headers.get("user-agent", "")

    @property
    def referrer(self):
        return self.headers.get("referer")

    @property
    def origin(self):
        return self.headers.get("origin")

    @property
    def accept_mimetypes(self):
        return _Accepted(self.headers.get("accept", ""))

    @property
    def authorization(self):
        return self.headers.get("authorization")

    def __repr__(self):
        return "<Request %r [%s]>" % (self.url, self.method)


_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


def is_json_type(mimetype):
    return mimetype == "application/json" or (mimetype.startswith("application/") and mimetype.endswith("+json"))
