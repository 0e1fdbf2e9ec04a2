"""The same door under the package's newer name."""
from azureml_inference_server_http.api.aml_request import AMLRequest, rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse


def init():
    pass


@rawhttp
def run(request):
    if request.method == "GET":
        return AMLResponse("read", 200)
    if request.method == "POST":
        return AMLResponse(request.get_data(), 200)
    return AMLResponse({"method": request.method, "class": AMLRequest.__name__}, 202, {}, json_str=True)
