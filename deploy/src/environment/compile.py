"""Makes wheels of what the requirements name, with the Python of the image that they are for. Moorline runs it there."""

import json
import os
import sys

# What this program says by its exit code alone.
NO_PIP = 78

place = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(place, "variables.json"), encoding="utf-8") as file:
    os.environ.update(json.load(file))
# A wheel of pip that came along is newer than what most images have.
pip = [os.path.join(place, "tools", "pip")]
if not os.path.isdir(pip[0]):
    try:
        import pip as _  # noqa: F401
    except ImportError:
        sys.exit(NO_PIP)
    pip = ["-m", "pip"]
options = ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off", "--prefer-binary"]
paths = ["--wheel-dir", os.path.join(place, "wheels"), "--requirement", os.path.join(place, "requirements.txt")]
os.execv(sys.executable, [sys.executable, *pip, "wheel", *options, *paths])
