"""Trains a classifier of handwritten digits (scikit-learn's, 1797 images of 8x8) and writes it as ONNX.

Usage: train.py FOLDER. Writes digits.onnx, two requests for three images that the model has not seen, and the truth.
"""

import json
import pathlib
import sys

import numpy
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

folder = pathlib.Path(sys.argv[1])
digits = load_digits()
seen, unseen, seen_labels, unseen_labels = train_test_split(
    digits.data.astype(numpy.float32), digits.target, test_size=0.2, random_state=7
)
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(seen, seen_labels)
print(f"    accuracy on unseen images: {model.score(unseen, unseen_labels):.3f}")

# Tensors instead of a list of dictionaries: what the Open Inference Protocol can carry.
onnx = to_onnx(model, seen[:1], options={"zipmap": False})
(folder / "digits.onnx").write_bytes(onnx.SerializeToString())

images = unseen[:3]
name = onnx.graph.input[0].name
tensor = {"name": name, "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
(folder / "score.json").write_text(json.dumps({"data": images.tolist()}))
(folder / "infer.json").write_text(json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}))
(folder / "truth.txt").write_text(", ".join(str(label) for label in unseen_labels[:3]) + "\n")
