"""A driver module: its `run` is replaced by that of the module that it names, its `init` is not."""
import types

STATE = []


def init():
    STATE.append("driver")


def run(data):
    return "the driver's run"


driver_module = types.ModuleType("user_module")
driver_module.__file__ = __file__


def _run(raw_data):
    return {"init": STATE, "data": raw_data}


driver_module.run = _run
