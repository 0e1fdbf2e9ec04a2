"""`input_schema` of plain Python values, with a default."""
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    pass


@input_schema("name", StandardPythonParameterType("Ada"))
@input_schema("numbers", StandardPythonParameterType([1, 2]))
@output_schema(StandardPythonParameterType({"name": "Ada", "sum": 3}))
def run(name, numbers, scale=1, request_headers=None):
    return {"name": name, "sum": sum(numbers) * scale, "header": (request_headers or {}).get("X-Custom")}
