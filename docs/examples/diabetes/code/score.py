"""A scoring script as Azure ML runs it: `init()` once in each worker, `run()` for each request."""

import json
import os

import joblib


def init():
    global model
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "diabetes.joblib"))


def run(raw_data):
    rows = json.loads(raw_data)["data"]
    return model.predict(rows).round(1).tolist()
