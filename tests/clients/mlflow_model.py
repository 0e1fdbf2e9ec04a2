"""Saves a scikit-learn model as MLflow does, to the folder given, and prints what it predicts for the first rows of
the data that it was fitted to, as JSON: `{"columns": …, "rows": …, "predictions": …}`."""

import json
import sys

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main():
    data, labels = load_iris(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=500).fit(data, labels)
    signature = infer_signature(data, model.predict(data))
    mlflow.sklearn.save_model(model, sys.argv[1], signature=signature, serialization_format="cloudpickle")
    rows = data.iloc[[0, 60, 120]]
    predictions = mlflow.pyfunc.load_model(sys.argv[1]).predict(rows)
    print(json.dumps({
        "columns": list(data.columns),
        "rows": rows.values.tolist(),
        "predictions": predictions.tolist(),
    }))


main()
