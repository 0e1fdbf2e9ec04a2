"""Reads documents as Azure ML's SDK does before it sends anything, and says which it refuses.

Takes the path of a JSON list `[{"kind": …, "path": …}]` and prints a list of the same length: null where the document
is accepted, the first line of the refusal where it is not. Nothing is sent anywhere."""

import contextlib
import io
import json
import logging
import sys
import warnings

from azure.ai.ml import (
    load_compute,
    load_environment,
    load_model,
    load_online_deployment,
    load_online_endpoint,
    load_workspace,
)
from azure.ai.ml.entities._endpoint._endpoint_helpers import validate_endpoint_or_deployment_name

LOADERS = {
    "compute": load_compute,
    "environment": load_environment,
    "model": load_model,
    "online deployment": load_online_deployment,
    "online endpoint": load_online_endpoint,
    "workspace": load_workspace,
}


def check(kind, path):
    """Loads, then makes the checks that the SDK makes before a request."""
    document = LOADERS[kind](path)
    if kind == "environment":
        document.validate()
    if kind in ("online deployment", "online endpoint"):
        validate_endpoint_or_deployment_name(document.name)
    if kind == "online deployment" and document.code_configuration:
        document.code_configuration._validate()


def refusal(kind, path):
    try:
        check(kind, path)
    except Exception as error:  # Whatever it raises is how it refuses.
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {' '.join(lines)[:300]}"
    return None


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        answers = [refusal(case["kind"], case["path"]) for case in cases]
    print(json.dumps(answers))


main()
