"""The OpenAPI documents of a script: what it decorated itself with, or the general shape."""

import json
import os

_FILES = (("2", ("swagger2.json", "swagger.json")), ("3", ("swagger3.json",)), ("3.1", ("swagger3.1.json",)))
_SCHEMA_VERSIONS = {"2": "2.0", "3": "3.0", "3.1": "3.1"}


def documents(script, app_root, environ):
    """The documents by version; a file of the user's in the app root wins over what would be generated."""
    found = {}
    schemas, versions = _schemas(script)
    for version, names in _FILES:
        own = _first_readable(app_root, names)
        if own is not None:
            found[version] = own
        elif _SCHEMA_VERSIONS[version] in versions:
            try:
                found[version] = json.dumps(_document(version, schemas, environ))
            except (TypeError, ValueError):
                continue
    return found


def _first_readable(app_root, names):
    for name in names:
        path = os.path.join(app_root, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8-sig") as file:
                try:
                    return json.dumps(json.load(file))
                except ValueError as error:
                    raise ValueError("%s is not JSON: %s" % (path, error)) from error
    return None


def _schemas(script):
    plain = {"type": "object", "example": {}}
    if script.schema is None:
        return (plain, plain), tuple(_SCHEMA_VERSIONS.values())
    schema = script.schema
    return (
        (schema.get_input_schema(script.run), schema.get_output_schema(script.run)),
        tuple(getattr(schema, "get_supported_versions", lambda _run: ["2.0"])(script.run)),
    )


def _document(version, schemas, environ):
    name = environ.get("SERVICE_NAME") or "ML service"
    prefix = (environ.get("SERVICE_PATH_PREFIX") or "").strip("/")
    base = "/" + prefix if prefix else ""
    two = version == "2"
    definitions = "#/definitions/" if two else "#/components/schemas/"

    def answer(text, schema, kind="application/json", example=None):
        if two:
            answered = {"description": text, "schema": schema}
            return dict(answered, examples={"application/json": example}) if example else answered
        return {"description": text, "content": {kind: {"schema": dict(schema, example=example) if example else schema}}}

    failed = answer("The request could not be served.", {"$ref": definitions + "ErrorResponse"})
    payload = {"$ref": definitions + "ServiceInput"}
    version_schema = {"type": "integer", "enum": [2, 3]}
    score = {
        "operationId": "RunMLService",
        "description": "Runs the model on the given input and returns what it predicts.",
        "security": [{"Bearer": []}],
    }
    if two:
        score["parameters"] = [
            {"name": "serviceInputPayload", "in": "body", "description": "The input to score.", "schema": payload}
        ]
    else:
        score["requestBody"] = {"description": "The input to score.", "content": {"application/json": {"schema": payload}}}
    score["responses"] = {
        "200": answer("The prediction.", {"$ref": definitions + "ServiceOutput"}),
        "default": failed,
    }
    parameter = {"name": "version", "in": "query", "required": False}
    parameter.update(version_schema if two else {"schema": version_schema})
    text = {"type": "string"}
    paths = {
        base + "/": {
            "get": {
                "operationId": "ServiceHealthCheck",
                "description": "Tells whether the server is up.",
                "responses": {
                    "200": answer("The server is up and says `Healthy`.", text, "text/plain", "Healthy"),
                    "default": failed,
                },
            }
        },
        base + "/score": {"post": score},
        base + "/swagger.json": {
            "get": {
                "operationId": "GetSwaggerSpec",
                "description": "This document.",
                "parameters": [parameter],
                "responses": {"200": answer("The document.", text, "text/plain"), "default": failed},
            }
        },
    }
    types = {
        "ServiceInput": schemas[0],
        "ServiceOutput": schemas[1],
        "ErrorResponse": {"type": "object", "properties": {"message": {"type": "string"}}},
    }
    bearer = {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header", "description": "Bearer KEY"}}
    info = {
        "title": name,
        "description": "The scoring interface of " + name,
        "version": environ.get("SERVICE_VERSION") or "1.0",
    }
    if two:
        return {
            "swagger": "2.0",
            "info": info,
            "schemes": ["https"],
            "consumes": ["application/json"],
            "produces": ["application/json"],
            "securityDefinitions": bearer,
            "paths": paths,
            "definitions": types,
        }
    return {
        "openapi": "3.0.3" if version == "3" else "3.1.0",
        "info": info,
        "security": [{"Bearer": []}],
        "paths": paths,
        "components": {"schemas": types, "securitySchemes": bearer},
    }
