"""Writes the bench's tiny model: a classifier of the 10 features of scikit-learn's diabetes data, as ONNX.

Usage: make_tiny.py FILE.
"""

import pathlib
import sys

import numpy
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression

diabetes = load_diabetes()
features = diabetes.data.astype(numpy.float32)
worse = (diabetes.target > numpy.median(diabetes.target)).astype(numpy.int64)
model = LogisticRegression().fit(features, worse)
onnx = to_onnx(model, features[:1], options={"zipmap": False})
pathlib.Path(sys.argv[1]).write_bytes(onnx.SerializeToString())
