"""Trains a regression on scikit-learn's diabetes data (442 patients, 10 features) and pickles it.

Usage: train.py FOLDER. Writes model/diabetes.joblib, one request for three unseen patients, and the truth.
"""

import json
import pathlib
import sys

import joblib
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import train_test_split

folder = pathlib.Path(sys.argv[1])
diabetes = load_diabetes()
seen, unseen, seen_values, unseen_values = train_test_split(
    diabetes.data, diabetes.target, test_size=0.2, random_state=7
)
model = GradientBoostingRegressor(random_state=7, max_depth=2, n_estimators=60).fit(seen, seen_values)
print(f"    R2 on unseen patients: {model.score(unseen, unseen_values):.3f}")

(folder / "model").mkdir(exist_ok=True)
joblib.dump(model, folder / "model" / "diabetes.joblib")
(folder / "score.json").write_text(json.dumps({"data": unseen[:3].tolist()}))
(folder / "truth.txt").write_text(", ".join(f"{value:.0f}" for value in unseen_values[:3]) + "\n")
