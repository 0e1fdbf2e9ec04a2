"""Frames between the server and this worker: one read and one write a request.

A frame is a little-endian header and what follows it; `length` counts everything after itself.

request: u32 length, u64 sequence, u8 kind, u8 length of the request id, u16 unused, then the id, then by kind
    TEXT   the body
    CALL   a described request (see `unpack_call`), then the body
    BATCH  u32 count, count times (u64 sequence, u32 length), then the bodies one after the other
reply: u32 length, u64 sequence, u8 kind, u8 flags, u16 status, u64 run time in nanoseconds, then by kind
    JSON   the body; status 200, application/json
    REPLY  u32 length of the headers, the headers ("name NUL value NUL"...), the body
    READY, FAILED  a JSON object; only while starting
    SKIPPED        nothing: the server took the request back before it was started
"""

import array
import fcntl
import os
import signal
import socket
import struct

TEXT, CALL, BATCH = 0, 1, 2
JSON, REPLY, READY, FAILED, SKIPPED = 0, 1, 2, 3, 4
RUN_FAILED, HAS_TIME, OUTCOME_UNSAID = 1, 2, 4

REQUEST = struct.Struct("<IQBBH")
REPLY_HEADER = struct.Struct("<IQBBHQ")
LENGTH = struct.Struct("<I")
ITEM = struct.Struct("<QI")
_AFTER_LENGTH = REPLY_HEADER.size - 4
_READ_AHEAD = 128 * 1024
_JOIN_BELOW = 64 * 1024


class Closed(Exception):
    """The server has hung up, so this worker's work is done."""


class Channel:
    """The socket to the server, and the buffer that may already hold the next requests."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = bytearray(_READ_AHEAD)
        self.view = memoryview(self.buffer)
        self.start = 0
        self.end = 0

    def receive(self):
        """The next frame as `(view, sequence, kind, id, offset of what follows)`. The view is good until the next call."""
        start, end = self.start, self.end
        have = end - start
        if have < 4:
            start, end = self._fill(4)
            have = end - start
        total = LENGTH.unpack_from(self.buffer, start)[0] + 4
        if total > have:
            if total > _READ_AHEAD:
                return self._receive_large(start, end, total)
            start, end = self._fill(total)
        self.start = start + total
        _, sequence, kind, id_length, _ = REQUEST.unpack_from(self.buffer, start)
        after = start + 16
        body = after + id_length
        return self.view[start : start + total], sequence, kind, self.view[after:body], body - start

    def _fill(self, wanted):
        start, end = self.start, self.end
        if start == end:
            start = end = 0
        elif start + wanted > _READ_AHEAD:
            self.buffer[: end - start] = self.buffer[start:end]
            start, end = 0, end - start
        recv_into, view = self.sock.recv_into, self.view
        while end - start < wanted:
            count = recv_into(view[end:])
            if not count:
                raise Closed
            end += count
        self.start, self.end = start, end
        return start, end

    def _receive_large(self, start, end, total):
        frame = bytearray(total)
        have = end - start
        frame[:have] = self.buffer[start:end]
        self.start = self.end = 0
        view = memoryview(frame)
        while have < total:
            count = self.sock.recv_into(view[have:])
            if not count:
                raise Closed
            have += count
        _, sequence, kind, id_length, _ = REQUEST.unpack_from(frame, 0)
        return view, sequence, kind, view[16 : 16 + id_length], 16 + id_length

    def send(self, parts):
        """Sends byte strings as one frame's pieces, with one system call where the kernel takes them."""
        total = sum(map(len, parts))
        if total < _JOIN_BELOW:
            self.sock.sendall(b"".join(parts))
            return
        views = [memoryview(part) for part in parts if len(part)]
        while views:
            sent = self.sock.sendmsg(views[:64])
            while sent:
                if sent >= len(views[0]):
                    sent -= len(views.pop(0))
                else:
                    views[0] = views[0][sent:]
                    sent = 0


def json_parts(sequence, nanoseconds, body):
    """The commonest reply: 200 and JSON."""
    return [REPLY_HEADER.pack(_AFTER_LENGTH + len(body), sequence, JSON, HAS_TIME, 200, nanoseconds), body]


def skipped_parts(sequence):
    """Not an answer, but word that there will be none."""
    return [REPLY_HEADER.pack(_AFTER_LENGTH, sequence, SKIPPED, 0, 0, 0)]


def reply_parts(sequence, reply):
    """Any reply with status and headers."""
    headers = b"".join(
        name.encode("utf-8", "replace").replace(b"\0", b"")
        + b"\0"
        + value.encode("utf-8", "replace").replace(b"\0", b"")
        + b"\0"
        for name, value in reply.headers
    )
    outcome = OUTCOME_UNSAID if reply.failed is None else RUN_FAILED if reply.failed else 0
    flags = outcome | (HAS_TIME if reply.nanoseconds is not None else 0)
    length = _AFTER_LENGTH + 4 + len(headers) + len(reply.body)
    head = REPLY_HEADER.pack(length, sequence, REPLY, flags, reply.status, reply.nanoseconds or 0)
    return [head, LENGTH.pack(len(headers)), headers, reply.body]


def unpack_call(view, offset):
    """A described request: `(route, method, target, headers, offset of the body)`."""
    route, method_length, target_length, headers_length = struct.unpack_from("<BBII", view, offset)
    offset += 10
    method = str(view[offset : offset + method_length], "utf-8", "replace")
    offset += method_length
    target = str(view[offset : offset + target_length], "utf-8", "replace")
    offset += target_length
    raw = bytes(view[offset : offset + headers_length]).decode("utf-8", "replace").split("\0")
    offset += headers_length
    return route, method, target, list(zip(raw[0:-1:2], raw[1::2])), offset


def connect():
    """Takes over the socket that is the process's standard input, and reads the settings that the server sends first.

    With the settings come two file descriptors: the end of a pipe that the server holds open as long as this process
    may live, and a page of memory in which this process notes which request it has started.
    """
    number = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 200)
    sock = socket.socket(fileno=number)
    sock.setblocking(True)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    data = b""
    handed = array.array("i")
    while len(data) < 4 or len(data) < 4 + LENGTH.unpack_from(data)[0]:
        space = socket.CMSG_SPACE(2 * handed.itemsize)
        wanted = 4 + LENGTH.unpack_from(data)[0] - len(data) if len(data) >= 4 else 4
        piece, ancillary, _, _ = sock.recvmsg(wanted, space, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        if not piece:
            raise Closed
        data += piece
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                handed.frombytes(content[: len(content) - len(content) % handed.itemsize])
    lifeline, page = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 210) for fd in handed)
    for fd in handed:
        os.close(fd)
    _die_with_the_server(lifeline)
    return sock, page, data[4:]


def _die_with_the_server(lifeline):
    """Asks the kernel to kill this process's whole group when the server's end of the pipe closes.

    Neither a script that holds the interpreter's lock for ever nor one that forked and forgot can outlive the server
    then. Where the kernel cannot do it, the end of the socket still ends an idle worker.
    """
    try:
        fcntl.fcntl(lifeline, getattr(fcntl, "F_SETSIG", 10), int(signal.SIGKILL))
        owner = -os.getpgrp() if os.getpgrp() == os.getpid() else os.getpid()
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, owner)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC if hasattr(os, "O_ASYNC") else flags | 0o20000)
    except OSError:
        return
