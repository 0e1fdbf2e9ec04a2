"""A worker's life: settings in, the script loaded, requests answered until the server hangs up."""

import gc
import json
import os
import platform
import signal
import sys
import threading

from . import channel, console, contract, finder, flask_context, loading, serving, swagger

START_FAILED = 3


def live():
    sock, page, settings = channel.connect()
    settings = json.loads(settings)
    link = channel.Channel(sock)
    # The terminal's interrupt is the server's business; a script that ends is the server's to restart.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    console.install(os.environ.get("AZUREML_LOG_LEVEL"))
    os.register_at_fork(after_in_child=lambda: _leave_to_the_parent(sock))
    try:
        _limit_memory(settings["memory_limit"])
        server, info = _start(settings, page)
    except BaseException as error:
        _refuse(link, settings, error)
        _end(START_FAILED)
    console.finish_lines()
    link.send(_message(channel.READY, info))
    gc.collect()
    # What loading left behind lives as long as the process: no need to look at it in every collection.
    gc.freeze()
    try:
        server.serve(link)
    except (channel.Closed, ConnectionError):
        _end(0)
    except OSError as error:
        console.emit(2, "E", "the connection to the server broke: %s" % error)
        _end(1)


def _start(settings, page):
    finder.install()
    _listen_for_a_debugger()
    timeouts = serving.Interrupter(page)
    if settings["mlflow_model"] is not None and settings["entry_script"] is None:
        from . import mlflow_model

        model = mlflow_model.MlflowModel(settings["mlflow_model"], timeouts.guard)
        return serving.Server(timeouts, settings, model, None, None), _info("mlflow", True, {})
    script = loading.load(settings)
    batch = None
    if settings["batching"]:
        if not callable(script.run_batch):
            raise loading.ContractError(
                "batching is set, but the scoring script %s does not define run_batch(list)" % script.file
            )
        if script.style != "plain":
            raise loading.ContractError(
                "batching is set, but run() of %s is decorated; run_batch(list) is for plain scripts" % script.file
            )
        batch = script.run_batch
    script.init()
    documents = swagger.documents(script, settings["app_root"], os.environ)
    # Only now is it known what the script has imported.
    flask = flask_context.contexts(settings["app_root"])
    if flask is not None and batch is not None:
        flask.enter_application()
    caller = contract.ScriptCaller(script, timeouts.guard, flask)
    text = serving.text_function(script)
    needs_headers = text is None or (flask is not None and batch is None)
    return serving.Server(timeouts, settings, caller, text, batch), _info(script.style, needs_headers, documents)


def _listen_for_a_debugger():
    """Lets a debugger attach to the first worker; the others have no port of their own."""
    port = os.environ.get("AZUREML_DEBUG_PORT")
    if port and os.environ.get("MOORLINE_SCRIPT_WORKER") == "0":
        import debugpy

        debugpy.listen(("127.0.0.1", int(port)))


def _info(style, needs_headers, documents):
    return {
        "style": style,
        "needs_headers": needs_headers,
        "swagger": documents,
        "python": platform.python_version(),
    }


def _message(kind, content):
    body = json.dumps(content).encode()
    return [channel.REPLY_HEADER.pack(channel.REPLY_HEADER.size - 4 + len(body), 0, kind, 0, 0, 0), body]


def _refuse(link, settings, error):
    """Tells the server, and through it the user, everything that helps to see why the script did not start."""
    console.finish_lines()
    if isinstance(error, loading.ContractError):
        text = str(error)
    else:
        text = console.describe(error)
    listing = loading.list_model_dir(settings["model_dir"])
    console.emit(2, "E", "the scoring script did not start\n%s\n%s" % (text, listing))
    try:
        link.send(_message(channel.FAILED, {"reason": text, "model_dir": listing}))
    except OSError:
        return


def _limit_memory(limit):
    if limit is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _leave_to_the_parent(sock):
    """A process that the script forked must never answer in this one's place."""
    try:
        sock.close()
    except OSError:
        return


def _end(code):
    """Ends the process as Python does when nobody waits for daemons: exit handlers run, other threads are cut."""
    console.finish_lines()
    if code == 0 and threading.active_count() == 1:
        sys.exit(0)
    try:
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:
        console.report("an exit handler raised", error)
    os._exit(code)
