"""A raw-HTTP script that tells all that it can read from its request."""
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


@rawhttp
def run(request):
    what = request.args.get("what", "all")
    if what == "stream":
        return {"stream": request.stream.read(5).decode(), "rest": request.stream.read().decode()}
    if what == "form":
        return {"form": request.form.to_dict(flat=False), "data": request.data.decode()}
    if what == "files":
        names = {name: [f.filename, f.content_type, f.read().decode()] for name, f in sorted(request.files.items())}
        return {"files": names, "form": request.form.to_dict()}
    if what == "json":
        return {"json": request.get_json()}
    if what == "silent":
        return {"json": request.get_json(silent=True), "forced": request.get_json(force=True, silent=True)}
    if what == "bytes":
        return AMLResponse(request.get_data(), 200, {"Content-Type": "application/octet-stream"})
    if what == "text":
        return {"text": request.get_data(as_text=True)}
    return {
        "method": request.method,
        "path": request.path,
        "full_path": request.full_path,
        "args": request.args.to_dict(flat=False),
        "query_string": request.query_string.decode(),
        "data": request.get_data().decode(),
        "content_type": request.content_type,
        "mimetype": request.mimetype,
        "content_length": request.content_length,
        "is_json": request.is_json,
        "x-custom": request.headers.get("X-CUSTOM"),
        "has": "x-absent" in request.headers,
        "cookies": dict(request.cookies),
    }
