"""Flask's contexts for scripts that use Flask's own helpers, such as `jsonify`, `request`, `g` and `current_app`.

Azure ML's server is a Flask application, so scripts were always called inside one. This worker is none: only where a
script has imported Flask does it make an application, and a context of it around every call.
"""

import os
import sys
from io import BytesIO

from .request import AMLRequest


class FlaskContexts:
    """The contexts of an application that has nothing but the scoring route."""

    def __init__(self, flask, app_root):
        self._app = flask.Flask(
            "entry_module",
            root_path=app_root,
            instance_path=os.path.join(app_root, "instance"),
            static_folder=None,
        )
        self._app.url_map.add(self._app.url_rule_class("/score", endpoint=AMLRequest.endpoint))

    def request(self, call):
        """To be entered around `run`, and around the encoding of what it returned."""
        return self._app.request_context(_environ(call))

    def enter_application(self):
        """For batches, which belong to no one request: from now on there is an application, and no request."""
        self._app.app_context().push()


def contexts(app_root):
    """None where the script has not imported Flask."""
    flask = sys.modules.get("flask")
    return FlaskContexts(flask, app_root) if hasattr(flask, "Flask") else None


def _environ(call):
    environ = AMLRequest(call.method, call.target, call.headers, call.body).environ
    host, _, port = environ.get("HTTP_HOST", "localhost").partition(":")
    environ.update(
        {
            "SCRIPT_NAME": "",
            "PATH_INFO": environ["PATH_INFO"].encode("utf-8").decode("latin-1"),
            "SERVER_NAME": host,
            "SERVER_PORT": port or "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": AMLRequest.remote_addr,
            "CONTENT_LENGTH": str(len(call.body)),
            "wsgi.version": (1, 0),
            "wsgi.input": BytesIO(call.body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
    )
    return environ
