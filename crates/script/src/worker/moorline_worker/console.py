"""Where the script's words go: print, sys.stderr and logging become records that know their request.

A record is one line on the file descriptor of its stream: RS, a level letter, the request id, US, the text with
backslash and newline escaped. What C code writes to the same descriptors arrives as bare lines; the server tells
them apart, so nothing printed can be taken for a reply.
"""

import io
import logging
import os
import sys
import threading
import traceback

LONGEST = 16 * 1024
current_id = ""


def set_request(request_id):
    """Names the request that what is printed from now on belongs to."""
    global current_id
    current_id = request_id


def emit(fd, level, text):
    """Writes one record; a closed descriptor loses it, which is the script's own doing."""
    if len(text) > LONGEST:
        text = "%s... (%d more characters)" % (text[:LONGEST], len(text) - LONGEST)
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    line = "\x1e%s%s\x1f%s\n" % (level, current_id, text)
    data = line.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return


class _Binary(io.RawIOBase):
    """`sys.stdout.buffer`: bytes pass through the same lines."""

    def __init__(self, stream):
        super().__init__()
        self._stream = stream

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        self._stream.write(data.decode("utf-8", "backslashreplace"))
        return len(data)

    def fileno(self):
        return self._stream.fileno()


class Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr`: text becomes a record a line."""

    def __init__(self, fd, level):
        super().__init__()
        self._fd = fd
        self._level = level
        self._open = ""
        self._lock = threading.RLock()
        self.buffer = _Binary(self)

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"

    @property
    def name(self):
        return "<stdout>" if self._fd == 1 else "<stderr>"

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True

    def reconfigure(self, **_options):
        """Accepted and without effect: records are UTF-8 lines."""

    def close(self):
        """Closing it would only lose what is said afterwards."""

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not %s" % type(text).__name__)
        with self._lock:
            lines = (self._open + text).split("\n")
            self._open = lines.pop()
            for line in lines:
                emit(self._fd, self._level, line)
            if len(self._open) > LONGEST:
                self._end_line()
        return len(text)

    def _end_line(self):
        if self._open:
            line, self._open = self._open, ""
            emit(self._fd, self._level, line)

    def flush(self):
        """Nothing waits here but the start of a line, and that waits for its end."""

    def finish(self):
        """Says what was left without an end of line when a request is over."""
        if self._open:
            with self._lock:
                self._end_line()


class Handler(logging.Handler):
    """Python's logging, its levels kept."""

    def emit(self, record):
        try:
            emit(2, letter(record.levelno), self.format(record))
        except Exception:
            self.handleError(record)


def letter(levelno):
    if levelno >= logging.ERROR:
        return "E"
    if levelno >= logging.WARNING:
        return "W"
    if levelno >= logging.INFO:
        return "I"
    return "D"


def install(level):
    """Puts streams and the root logger's handler in place."""
    sys.stdout = sys.__stdout__ = Stream(1, "I")
    sys.stderr = sys.__stderr__ = Stream(2, "W")
    handler = Handler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    wanted = logging.getLevelName(level.upper()) if level else logging.INFO
    root.setLevel(wanted if isinstance(wanted, int) else logging.INFO)
    logging.captureWarnings(True)


def finish_lines():
    """Ends the lines that a request left open, so that they carry its id and not the next one's."""
    for stream in (sys.stdout, sys.stderr):
        finish = getattr(stream, "finish", None)
        if finish is not None:
            finish()


def report(heading, error):
    """An exception of the script's, with its traceback, as one record."""
    emit(2, "E", heading + "\n" + describe(error))


def describe(error):
    """The traceback of an exception, without the frames of this package."""
    ours = os.path.dirname(os.path.abspath(__file__))
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(ours):
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except Exception as failure:
        lines = ["%s (its traceback cannot be shown: %s)" % (type(error).__name__, type(failure).__name__)]
    return "".join(lines).rstrip("\n")
