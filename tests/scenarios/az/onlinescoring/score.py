"""Says what the weather is like, by a rule that is the model."""

import json
import logging
import os

import yaml


def init():
    global rule, colour
    path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "rule.yml")
    with open(path, encoding="utf-8") as file:
        rule = yaml.safe_load(file)
    colour = os.environ.get("DEPLOYMENT_COLOUR", "blue")
    logging.info("init done")


def run(raw_data):
    degrees = json.loads(raw_data)["data"]
    return {"from": colour, "words": ["warm" if value >= rule["warm_from"] else "cold" for value in degrees]}
