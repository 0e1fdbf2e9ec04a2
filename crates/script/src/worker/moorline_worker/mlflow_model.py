"""MLflow models without a script: `/invocations` as MLflow's own server answers it, `/score` as Azure ML does."""

import inspect
import json
from io import BytesIO, StringIO
from time import perf_counter_ns

from . import console
from .contract import content_type_of
from .response import BadInput, Reply, UNEXPECTED_INTERNAL, encode_json, problem

INVOCATIONS = 1
_KEYS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_JSON_TYPE = [("content-type", "application/json")]


class MlflowModel:
    """A loaded `python_function` model."""

    def __init__(self, path, guard):
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(path)
        self._guard = guard
        metadata = getattr(self._model, "metadata", None)
        self._schema = metadata.get_input_schema() if metadata is not None else None
        try:
            self._takes_params = "params" in inspect.signature(self._model.predict).parameters
        except (TypeError, ValueError):
            self._takes_params = False

    def answer(self, call):
        try:
            data, params = self._invocations(call) if call.route == INVOCATIONS else self._score(call)
            data = self._typed(data)
        except BadInput as error:
            return problem(error.status, str(error))
        started = perf_counter_ns()
        try:
            predictions = self._guard(lambda: self._predict(data, params))
        except Exception as error:
            console.report("the model's predict() raised", error)
            kind = type(error).__name__
            # MLflow says so of data that does not fit the signature, which is the caller's doing.
            status = 400 if kind == "MlflowException" or isinstance(error, (ValueError, TypeError, KeyError)) else 500
            return problem(status, "The model could not be evaluated: %s: %s" % (kind, error), failed=status == 500)
        spent = perf_counter_ns() - started
        try:
            predictions = plain(predictions)
            answer = {"predictions": predictions} if call.route == INVOCATIONS else predictions
            body = encode_json(answer).encode()
        except Exception as error:
            console.report("what the model predicted cannot be encoded", error)
            return problem(500, UNEXPECTED_INTERNAL)
        return Reply(200, _JSON_TYPE, body, nanoseconds=spent)

    def _predict(self, data, params):
        if params is not None and self._takes_params:
            return self._model.predict(data, params=params)
        return self._model.predict(data)

    def _invocations(self, call):
        kind, options = content_type_of(call)
        charset = options.get("charset", "utf-8").lower()
        if not kind:
            raise BadInput("No Content-Type is set. text/csv and application/json are supported.", 415)
        if charset not in ("utf-8", "utf8"):
            raise BadInput("The charset %s is not supported; UTF-8 is." % charset, 415)
        unknown = set(options) - {"charset"}
        if unknown:
            raise BadInput("The content type has parameters that are not known: %s." % ", ".join(sorted(unknown)), 415)
        if kind == "text/csv":
            return _csv(call.body), None
        if kind != "application/json":
            raise BadInput("The content type %s is not supported; text/csv and application/json are." % kind, 415)
        content = _json(call.body)
        if not isinstance(content, dict):
            raise BadInput("The body must be a JSON object with one of the keys %s." % ", ".join(_KEYS))
        given = [key for key in _KEYS if key in content]
        if len(given) != 1:
            raise BadInput("The body must have exactly one of the keys %s; it has %s." % (", ".join(_KEYS), given or "none"))
        return _decode(given[0], content[given[0]]), content.get("params")

    def _score(self, call):
        content = _json(call.body) if call.method != "GET" else None
        if not isinstance(content, dict) or "input_data" not in content:
            raise BadInput('The body must be a JSON object with the key "input_data".')
        data, params = content["input_data"], content.get("params")
        if isinstance(data, dict) and "data" in data and set(data) <= {"columns", "index", "data"}:
            return _decode("dataframe_split", data), params
        if isinstance(data, dict):
            return _decode("inputs", data), params
        if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
            return _decode("dataframe_records", data), params
        return _decode("instances", data), params

    def _typed(self, data):
        """Casts to the signature's types where JSON knows fewer than it does."""
        names = self._schema.input_names() if self._schema is not None and hasattr(self._schema, "input_names") else []
        columns = getattr(data, "columns", None)
        if columns is not None and names and len(columns) == len(names) and list(columns) == list(range(len(names))):
            data.columns = names
        return data


def _json(body):
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput("The body could not be decoded as JSON: %s" % error) from error


def _csv(body):
    import pandas

    try:
        return pandas.read_csv(BytesIO(body))
    except Exception as error:
        raise BadInput("The body could not be read as CSV: %s" % error) from error


def _decode(key, value):
    import numpy
    import pandas

    try:
        if key == "dataframe_split":
            # Through JSON text, so that pandas infers types as it does for MLflow's own server.
            return pandas.read_json(StringIO(json.dumps(value)), orient="split", convert_dates=False)
        if key == "dataframe_records":
            if not (isinstance(value, list) and all(isinstance(row, dict) for row in value)):
                raise ValueError("a list of objects is expected")
            return pandas.DataFrame(value)
        if isinstance(value, dict):
            return {name: numpy.array(item) for name, item in value.items()}
        if key == "instances" and isinstance(value, list) and value and isinstance(value[0], dict):
            return {name: numpy.array([row[name] for row in value]) for name in value[0]}
        return numpy.array(value)
    except Exception as error:
        raise BadInput("%s could not be read: %s: %s" % (key, type(error).__name__, error)) from error


def plain(value):
    """Predictions as what JSON has words for."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return json.loads(value.to_json(orient="records"))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
