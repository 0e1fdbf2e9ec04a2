"""Finding the scoring script and holding it against the contract of `init` and `run`."""

import importlib
import importlib.util
import inspect
import os
import sys

from .request import wants_raw_http


class ContractError(Exception):
    """The script is not one: the text names the file and what is missing."""


class Script:
    """A loaded script: its functions and how `run` wants to be called."""

    def __init__(self, module):
        self.file = getattr(module, "__file__", None) or module.__name__
        self.init = _function(module, "init", self.file)
        driver = getattr(module, "driver_module", None)
        self.run = _function(module if driver is None or not hasattr(driver, "run") else driver, "run", self.file)
        self.run_batch = getattr(module, "run_batch", None)
        self.schema = _schema_functions(self.run)
        self.raw_http = wants_raw_http(self.run)
        if self.raw_http and self.schema is not None:
            raise ContractError("run() of %s cannot be decorated with both @rawhttp and @input_schema" % self.file)
        self._read_parameters()

    def _read_parameters(self):
        parameters = inspect.signature(self.run).parameters.values()
        if any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise ContractError("run() of %s cannot accept positional-only arguments, *args, or **kwargs" % self.file)
        self.wants_headers = any(p.name == "request_headers" for p in parameters)
        self.parameters = [p for p in parameters if p.name != "request_headers"]
        if not self.parameters:
            other = ' other than "request_headers"' if self.wants_headers else " for input data"
            raise ContractError("run() of %s needs to accept an argument%s" % (self.file, other))

    @property
    def style(self):
        if self.raw_http:
            return "rawhttp"
        return "plain" if self.schema is None else "schema"


def _function(module, name, file):
    found = getattr(module, name, None)
    if not callable(found):
        raise ContractError("the scoring script %s does not define %s()" % (file, name))
    return found


def _schema_functions(run):
    """The module that knows the schema of `run`, when `run` is decorated by it."""
    schema = sys.modules.get("inference_schema.schema_util")
    if schema is None or not schema.is_schema_decorated(run):
        return None
    inputs = schema.get_input_schema(run)
    # A script that only describes its output is called like a plain one.
    return schema if "properties" in inputs else None


def load(settings):
    """Imports the script that the settings name."""
    root = settings["app_root"]
    source = os.path.join(root, settings["source_dir"]) if settings["source_dir"] else root
    for folder in (root, source):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    entry = settings["entry_script"]
    if entry is None:
        return Script(importlib.import_module("main"))
    path = next((p for p in (os.path.join(source, entry), os.path.join(root, entry)) if os.path.isfile(p)), None)
    if path is None:
        raise ContractError("the scoring script %s does not exist" % os.path.join(source, entry))
    beside = os.path.dirname(os.path.abspath(path))
    if beside not in sys.path:
        sys.path.append(beside)
    spec = importlib.util.spec_from_file_location("entry_module", path)
    if spec is None or spec.loader is None:
        raise ContractError("the scoring script %s is not a Python file" % path)
    module = importlib.util.module_from_spec(spec)
    # Under its name first, so that pickles and dataclasses of the script's find it.
    sys.modules["entry_module"] = module
    name = os.path.splitext(os.path.basename(path))[0]
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return Script(module)


def list_model_dir(folder, limit=200):
    """What lies in the model directory, for whoever must find out why `init` failed."""
    if not folder:
        return "AZUREML_MODEL_DIR is not set"
    if not os.path.isdir(folder):
        return "AZUREML_MODEL_DIR is %s, which is not a directory" % folder
    lines = ["AZUREML_MODEL_DIR is %s, with:" % folder]
    for here, folders, files in os.walk(folder):
        folders.sort()
        shown = os.path.relpath(here, folder)
        for name in sorted(files) + [name + "/" for name in folders]:
            if len(lines) > limit:
                lines.append("... and more")
                return "\n".join(lines)
            lines.append("  " + (name if shown == "." else os.path.join(shown, name)))
    if len(lines) == 1:
        lines.append("  (nothing)")
    return "\n".join(lines)
