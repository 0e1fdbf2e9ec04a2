"""The loop: one request after another, interrupted where a request is beyond its time."""

import mmap
import signal
import struct
from time import perf_counter_ns

from . import channel, console, contract
from .channel import BATCH, CALL, ITEM, LENGTH, TEXT
from .response import BadInput, UNEXPECTED_INTERNAL, encode_json, encode_structure, problem

_STARTED = struct.Struct("<Q")
_RECALLED = struct.Struct("<QQ")
_NONE_RECALLED = bytes(_RECALLED.size)
# What becomes JSON without a look at what else it could be. A subclass may be anything, so this is by exact type.
_DATA = frozenset((dict, list, str, int, float, bool, tuple))


class ScoringTimeout(BaseException):
    """Raised inside `run` when the server says that the request's time is over.

    Not an `Exception`, so that a script's own `except Exception` does not swallow it.
    """


class Interrupter:
    """Turns the server's SIGALRM into an exception, but only while the script runs the request that it is meant for.

    The page is shared with the server: this process notes what it has started at offset 0, the server what is to be
    interrupted at offset 8, and what is not to be started at 16. A signal that comes late finds two different numbers.
    """

    def __init__(self, page):
        self.armed = False
        self.page = mmap.mmap(page, mmap.PAGESIZE)
        signal.signal(signal.SIGALRM, self._interrupt)

    def _interrupt(self, _number, _frame):
        if self.armed and self.page[0:8] == self.page[8:16]:
            self.armed = False
            raise ScoringTimeout("the request's time is over")

    def guard(self, function):
        try:
            self.armed = True
            return function()
        finally:
            self.armed = False


def text_function(script):
    """`run` as a function of the body's text alone, or None where it wants more."""
    if script.style != "plain" or script.wants_headers:
        return None
    return script.run


class Server:
    """Answers frames. `caller` takes described requests; `text` is the short way for plain ones; `batch` for lists."""

    def __init__(self, timeouts, settings, caller, text, batch):
        self.timeouts = timeouts
        self.caller = caller
        self.text = text
        self.batch = batch
        self.limit = settings["max_reply_bytes"]

    def serve(self, link):
        started = self.timeouts.page
        mark = _STARTED.pack_into
        receive = link.receive
        while True:
            view, sequence, kind, request_id, offset = receive()
            console.current_id = str(request_id, "utf-8", "replace")
            # From here on this request counts as started: it is lost, and only it, when this process dies.
            mark(started, 0, sequence)
            recalled = started[16:32]
            if recalled != _NONE_RECALLED and sequence in _RECALLED.unpack(recalled):
                link.send(channel.skipped_parts(sequence))
                continue
            try:
                if kind == TEXT:
                    parts = self.answer_text(sequence, view[offset:])
                elif kind == BATCH:
                    parts = self.answer_batch(view, offset)
                else:
                    parts = self.answer_call(sequence, view, offset)
            except ScoringTimeout:
                parts = channel.reply_parts(sequence, problem(500, "Scoring timeout", failed=True))
            except MemoryError:
                parts = channel.reply_parts(sequence, problem(500, "The scoring script is out of memory.", failed=True))
            except BaseException as error:
                # `sys.exit()` where no `run` was being called: it ends a request, never the worker.
                parts = channel.reply_parts(sequence, contract.script_failed(error))
            console.finish_lines()
            link.send(parts)

    def answer_text(self, sequence, body):
        try:
            text = str(body, "utf-8")
        except UnicodeDecodeError as error:
            message = "Input cannot be decoded as UTF-8: %s" % error
            return channel.reply_parts(sequence, problem(400, message))
        timeouts = self.timeouts
        start = perf_counter_ns()
        try:
            timeouts.armed = True
            value = self.text(text)
            timeouts.armed = False
        except BaseException as error:
            timeouts.armed = False
            return channel.reply_parts(sequence, contract.script_failed(error))
        spent = perf_counter_ns() - start
        kind = type(value)
        if kind in _DATA:
            encode = encode_structure if kind is dict or kind is list else encode_json
            try:
                data = encode(value).encode()
            except Exception as error:
                console.report("what run() returned cannot be encoded", error)
                return channel.reply_parts(sequence, problem(500, UNEXPECTED_INTERNAL))
            if len(data) <= self.limit:
                return channel.json_parts(sequence, spent, data)
        return channel.reply_parts(sequence, contract.bounded(contract.encoded(value, spent), self.limit))

    def answer_call(self, sequence, view, offset):
        route, method, target, headers, body = channel.unpack_call(view, offset)
        call = contract.Described(route, method, target, headers, bytes(view[body:]))
        reply = contract.bounded(self.caller.answer(call), self.limit, self.caller.problem_of(call))
        return channel.reply_parts(sequence, reply)

    def answer_batch(self, view, offset):
        count = LENGTH.unpack_from(view, offset)[0]
        offset += LENGTH.size
        items = [ITEM.unpack_from(view, offset + index * ITEM.size) for index in range(count)]
        offset += count * ITEM.size
        replies, good = {}, []
        for sequence, length in items:
            try:
                good.append((sequence, contract.decode_text(view[offset : offset + length])))
            except BadInput as error:
                replies[sequence] = problem(error.status, str(error))
            offset += length
        replies.update(self._run_batch(good))
        parts = []
        for sequence, _ in items:
            parts += channel.reply_parts(sequence, contract.bounded(replies[sequence], self.limit))
        return parts

    def _run_batch(self, items):
        if not items:
            return {}
        texts = [text for _, text in items]
        start = perf_counter_ns()
        try:
            values = self.timeouts.guard(lambda: self.batch(texts))
            spent = perf_counter_ns() - start
            values = list(values)
            if len(values) != len(items):
                raise ValueError("run_batch() got %d items and returned %d" % (len(items), len(values)))
        except ScoringTimeout as error:
            return {sequence: contract.script_failed(error) for sequence, _ in items}
        except BaseException as error:
            if len(items) == 1:
                return {items[0][0]: contract.script_failed(error)}
            console.report("run_batch() raised; its %d items are run one by one" % len(items), error)
            replies = {}
            for item in items:
                replies.update(self._run_batch([item]))
            return replies
        return {
            sequence: contract.script_failed(value) if isinstance(value, BaseException) else contract.encoded(value, spent)
            for (sequence, _), value in zip(items, values)
        }
