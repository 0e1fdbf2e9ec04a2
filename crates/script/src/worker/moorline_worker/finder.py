"""The modules that scoring scripts import from Azure ML's server, served from here.

Scripts get this worker's own request and response classes under the names they know, whether or not the packages
of those names are installed: a real one would speak of a Flask request that does not exist here.
"""

import importlib.abc
import importlib.machinery
import sys
import types

from . import request, response

_REQUEST = {"AMLRequest": request.AMLRequest, "rawhttp": request.rawhttp}
_RESPONSE = {"AMLResponse": response.AMLResponse}

# Always ours.
_OURS = {
    "azureml_inference_server_http": None,
    "azureml_inference_server_http.api": None,
    "azureml_inference_server_http.api.aml_request": _REQUEST,
    "azureml_inference_server_http.api.aml_response": _RESPONSE,
    "azureml.contrib.services": None,
    "azureml.contrib.services.aml_request": _REQUEST,
    "azureml.contrib.services.aml_response": _RESPONSE,
}
# Ours only where nobody else has them: other packages live below these names too.
_PARENTS = {"azureml": None, "azureml.contrib": None}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, modules):
        self._modules = modules

    def find_spec(self, name, path=None, target=None):
        if name not in self._modules:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=self._modules[name] is None)

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        names = self._modules[module.__name__]
        if names is not None:
            module.__dict__.update(names)
            module.__all__ = sorted(names)


def install():
    sys.meta_path.insert(0, _Finder(_OURS))
    sys.meta_path.append(_Finder(_PARENTS))
