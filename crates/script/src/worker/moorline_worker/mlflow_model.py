"""MLflow models without a script: `/invocations` as MLflow's own server answers it, `/score` as Azure ML does."""

import inspect
import json
from io import BytesIO
from time import perf_counter_ns

from . import console
from .contract import content_type_of
from .response import BadInput, Reply, UNEXPECTED_INTERNAL, coded_problem, encode_json, problem

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
        # The words that MLflow's own server has for what JSON lacks, where this version lets itself be asked for them.
        own = _own_parsing()
        self._jsonable = getattr(own, "_get_jsonable_obj", None)
        self._encoder = getattr(own, "NumpyEncoder", None) if self._jsonable is not None else None
        try:
            self._takes_params = "params" in inspect.signature(self._model.predict).parameters
        except (TypeError, ValueError):
            self._takes_params = False

    @staticmethod
    def problem_of(call):
        """Each route has errors of the shape that its own server has."""
        return coded_problem if call.route == INVOCATIONS else problem

    def answer(self, call):
        problem = self.problem_of(call)
        try:
            data, params = self._invocations(call) if call.route == INVOCATIONS else self._score(call)
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
            body = self._encode(predictions, call.route)
        except Exception as error:
            console.report("what the model predicted cannot be encoded", error)
            return problem(500, UNEXPECTED_INTERNAL)
        return Reply(200, _JSON_TYPE, body, nanoseconds=spent)

    def _encode(self, predictions, route):
        if self._encoder is None:
            predictions, encode = plain(predictions), encode_json
        else:
            predictions, encode = self._jsonable(predictions, pandas_orient="records"), self._encoder().encode
        return encode({"predictions": predictions} if route == INVOCATIONS else predictions).encode()

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
            return _csv(call.body, self._schema), None
        if kind != "application/json":
            raise BadInput("The content type %s is not supported; text/csv and application/json are." % kind, 415)
        content = _json(call.body)
        if not isinstance(content, dict):
            raise BadInput("The body must be a JSON object with one of the keys %s." % ", ".join(_KEYS))
        given = [key for key in _KEYS if key in content]
        if len(given) != 1:
            raise BadInput("The body must have exactly one of the keys %s; it has %s." % (", ".join(_KEYS), given or "none"))
        return _decode(given[0], content[given[0]], self._schema), content.get("params")

    def _score(self, call):
        content = _json(call.body) if call.method != "GET" else None
        if not isinstance(content, dict) or "input_data" not in content:
            raise BadInput('The body must be a JSON object with the key "input_data".')
        data, params = content["input_data"], content.get("params")
        if isinstance(data, dict) and "data" in data and set(data) <= {"columns", "index", "data"}:
            return _decode("dataframe_split", data, self._schema), params
        if isinstance(data, dict):
            return _decode("inputs", data, self._schema), params
        if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
            return _decode("dataframe_records", data, self._schema), params
        names = self._column_names()
        if names and isinstance(data, list) and all(isinstance(row, list) and len(row) == len(names) for row in data):
            return _decode("dataframe_split", {"columns": names, "data": data}, self._schema), params
        return _decode("instances", data, self._schema), params

    def _column_names(self):
        """The signature's column names; empty where it has tensors, or where there is none."""
        schema = self._schema
        if schema is None or getattr(schema, "is_tensor_spec", lambda: False)():
            return []
        return [name for name in schema.input_names() if isinstance(name, str)]


def _json(body):
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput("The body could not be decoded as JSON: %s" % error) from error


def _own_parsing():
    """MLflow's own reading and writing of JSON; None where this version has it elsewhere."""
    try:
        from mlflow.utils import proto_json_utils
    except ImportError:
        return None
    return proto_json_utils


def _csv(body, schema):
    import pandas

    types = None
    if schema is not None and hasattr(schema, "pandas_types") and schema.input_names():
        types = dict(zip(schema.input_names(), schema.pandas_types()))
    try:
        return pandas.read_csv(BytesIO(body), dtype=types)
    except Exception as error:
        raise BadInput("The body could not be read as CSV: %s" % error) from error


def _decode(key, value, schema):
    own = _own_parsing()
    try:
        if key.startswith("dataframe_"):
            if key == "dataframe_records" and not isinstance(value, list):
                raise ValueError("a list of objects is expected")
            if hasattr(own, "dataframe_from_parsed_json"):
                orient = key[len("dataframe_") :]
                return own.dataframe_from_parsed_json(value, pandas_orient=orient, schema=schema)
            return _data_frame(key, value)
        if hasattr(own, "parse_tf_serving_input"):
            return own.parse_tf_serving_input({key: value}, schema=schema)
        return _arrays(key, value)
    except Exception as error:
        raise BadInput("%s could not be read: %s: %s" % (key, type(error).__name__, error)) from error


def _data_frame(key, value):
    import pandas

    if key == "dataframe_records":
        return pandas.DataFrame(value)
    return pandas.DataFrame(value["data"], columns=value.get("columns"), index=value.get("index"))


def _arrays(key, value):
    import numpy

    if isinstance(value, dict):
        return {name: numpy.array(item) for name, item in value.items()}
    if key == "instances" and isinstance(value, list) and value and isinstance(value[0], dict):
        return {name: numpy.array([row[name] for row in value]) for name in value[0]}
    return numpy.array(value)


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
