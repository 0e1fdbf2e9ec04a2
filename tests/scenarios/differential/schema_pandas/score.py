"""`input_schema` of a data frame."""
import pandas as pd
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.schema_decorators import input_schema


def init():
    pass


@input_schema("frame", PandasParameterType(pd.DataFrame({"a": [1], "b": [2.5]})))
def run(frame):
    return {"rows": len(frame), "sum": float(frame["a"].sum() + frame["b"].sum())}
