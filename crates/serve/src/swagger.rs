//! The API description of a release that needs no scoring script: Swagger 2.0, OpenAPI 3.0 and 3.1, made from the
//! model's signature. It shows the form of `/score` that fits every model, `{"inputs": {name: …}}`.

use std::str::FromStr;

use moorline_core::{DataType, Dim, Signature, TensorSpec, ValueKind};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Examples of more elements than this are left out: nobody reads them.
const MAX_EXAMPLE: usize = 64;

/// The media types of images that a model can take in the place of tensors.
const IMAGES: [&str; 2] = ["image/jpeg", "image/png"];

/// A version of the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwaggerVersion {
    /// Swagger 2.0.
    Swagger2,
    /// OpenAPI 3.0.
    OpenApi30,
    /// OpenAPI 3.1.
    OpenApi31,
}

impl SwaggerVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 3] = [Self::Swagger2, Self::OpenApi30, Self::OpenApi31];

    /// The name in `?version=`: `2`, `3` or `3.1`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Swagger2 => "2",
            Self::OpenApi30 => "3",
            Self::OpenApi31 => "3.1",
        }
    }
}

/// A version that does not exist.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("Swagger version [{0}] is not valid. Supported versions: [2, 3, 3.1].")]
pub struct SwaggerVersionError(String);

impl FromStr for SwaggerVersion {
    type Err = SwaggerVersionError;

    fn from_str(text: &str) -> Result<Self, SwaggerVersionError> {
        match text {
            "2" | "2.0" => Ok(Self::Swagger2),
            "3" | "3.0" => Ok(Self::OpenApi30),
            "3.1" => Ok(Self::OpenApi31),
            _ => Err(SwaggerVersionError(text.to_owned())),
        }
    }
}

/// How the service is called.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    pub name: &'a str,
    pub version: &'a str,
    /// What stands before `/score`, such as `/api`; empty for nothing.
    pub path_prefix: &'a str,
    /// Whether a JPEG or a PNG stands for the inputs.
    pub takes_images: bool,
}

/// The description as JSON text.
pub fn document(version: SwaggerVersion, service: Service<'_>, signature: &Signature) -> String {
    let info = json!({
        "title": service.name,
        "description": format!("The scoring API of {}", service.name),
        "version": service.version,
    });
    let prefix = match service.path_prefix.trim_matches('/') {
        "" => String::new(),
        prefix => format!("/{prefix}"),
    };
    let paths = paths(version, &prefix, service.takes_images);
    let schemas = schemas(version, signature);
    let document = match version {
        SwaggerVersion::Swagger2 => json!({
            "swagger": "2.0",
            "info": info,
            "consumes": ["application/json"],
            "produces": ["application/json"],
            "securityDefinitions": {
                "Bearer": { "type": "apiKey", "name": "Authorization", "in": "header" }
            },
            "paths": paths,
            "definitions": schemas,
        }),
        SwaggerVersion::OpenApi30 | SwaggerVersion::OpenApi31 => json!({
            "openapi": if version == SwaggerVersion::OpenApi30 { "3.0.3" } else { "3.1.0" },
            "info": info,
            "paths": paths,
            "components": {
                "securitySchemes": { "Bearer": { "type": "http", "scheme": "bearer" } },
                "schemas": schemas,
            },
        }),
    };
    document.to_string()
}

fn paths(version: SwaggerVersion, prefix: &str, takes_images: bool) -> Value {
    let mut score = json!({
        "operationId": "score",
        "description": "Runs the model.",
        "security": [{ "Bearer": [] }],
        "responses": {
            "200": response(version, "application/json", "The model's outputs.", &reference(version, "ServiceOutput")),
            "default": error(version),
        },
    });
    let input = reference(version, "ServiceInput");
    if version == SwaggerVersion::Swagger2 {
        score["parameters"] = json!([{ "name": "input", "in": "body", "required": true, "schema": input }]);
        if takes_images {
            score["consumes"] = json!(["application/json", IMAGES[0], IMAGES[1]]);
        }
    } else {
        score["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": input } } });
        if takes_images {
            for kind in IMAGES {
                let image = json!({ "schema": { "type": "string", "format": "binary" } });
                score["requestBody"]["content"][kind] = image;
            }
        }
    }
    let mut health = json!({
        "operationId": "health",
        "description": "Says that the service is up.",
        "responses": {
            "200": response(version, "text/html", "The service is up.", &json!({ "type": "string" })),
            "default": error(version),
        },
    });
    if version == SwaggerVersion::Swagger2 {
        health["produces"] = json!(["text/html"]);
    }
    let mut paths = Map::new();
    paths.insert(format!("{prefix}/"), json!({ "get": health }));
    paths.insert(format!("{prefix}/score"), json!({ "post": score }));
    Value::Object(paths)
}

fn reference(version: SwaggerVersion, schema: &str) -> Value {
    let place = if version == SwaggerVersion::Swagger2 { "definitions" } else { "components/schemas" };
    json!({ "$ref": format!("#/{place}/{schema}") })
}

fn response(version: SwaggerVersion, content_type: &str, description: &str, schema: &Value) -> Value {
    if version == SwaggerVersion::Swagger2 {
        json!({ "description": description, "schema": schema })
    } else {
        json!({ "description": description, "content": { content_type: { "schema": schema } } })
    }
}

fn error(version: SwaggerVersion) -> Value {
    response(version, "application/json", "What went wrong.", &reference(version, "ErrorResponse"))
}

fn schemas(version: SwaggerVersion, signature: &Signature) -> Value {
    let mut input = json!({
        "type": "object",
        "required": ["inputs"],
        "properties": { "inputs": named(version, &signature.inputs) },
    });
    if let Some(example) = example(&signature.inputs) {
        let example = json!({ "inputs": example });
        if version == SwaggerVersion::OpenApi31 {
            input["examples"] = json!([example]);
        } else {
            input["example"] = example;
        }
    }
    json!({
        "ServiceInput": input,
        "ServiceOutput": {
            "type": "object",
            "required": ["outputs"],
            "properties": { "outputs": named(version, &signature.outputs) },
        },
        "ErrorResponse": { "type": "object", "properties": { "message": { "type": "string" } } },
    })
}

/// The schema of an object with one member for each of `specs`.
fn named(version: SwaggerVersion, specs: &[TensorSpec]) -> Value {
    let required: Vec<&str> = specs.iter().filter(|spec| !spec.optional).map(|spec| &*spec.name).collect();
    let properties: Map<String, Value> =
        specs.iter().map(|spec| (spec.name.to_string(), value_schema(version, spec))).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    // Swagger 2.0 and OpenAPI 3.0 do not allow an empty list here.
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn value_schema(version: SwaggerVersion, spec: &TensorSpec) -> Value {
    let element = element_schema(version, spec.data_type);
    match (&spec.kind, &spec.shape) {
        (ValueKind::Tensor, Some(shape)) => nested(element, shape),
        (ValueKind::Tensor, None) => json!({ "description": "A list nested to any depth." }),
        (ValueKind::Sequence, Some(shape)) => json!({ "type": "array", "items": nested(element, shape) }),
        (ValueKind::Sequence, None) => json!({ "type": "array", "items": {} }),
        (ValueKind::Maps { .. }, _) => {
            json!({ "type": "array", "items": { "type": "object", "additionalProperties": element } })
        }
    }
}

/// Lists around `element`, one for each dimension.
fn nested(element: Value, shape: &[Dim]) -> Value {
    shape.iter().rev().fold(element, |items, dim| match dim {
        Dim::Fixed(size) => json!({ "type": "array", "items": items, "minItems": size, "maxItems": size }),
        Dim::Dynamic(_) => json!({ "type": "array", "items": items }),
    })
}

/// One element; a float may be null, which stands for NaN.
fn element_schema(version: SwaggerVersion, data_type: DataType) -> Value {
    let format = match data_type {
        DataType::Bool => return json!({ "type": "boolean" }),
        DataType::String => return json!({ "type": "string" }),
        DataType::U8 | DataType::U16 | DataType::U32 | DataType::U64 => {
            return json!({ "type": "integer", "minimum": 0 });
        }
        DataType::I8 | DataType::I16 | DataType::I32 => {
            return json!({ "type": "integer", "format": "int32" });
        }
        DataType::I64 => return json!({ "type": "integer", "format": "int64" }),
        DataType::F16 | DataType::Bf16 | DataType::F32 => "float",
        DataType::F64 => "double",
    };
    match version {
        SwaggerVersion::Swagger2 => json!({ "type": "number", "format": format, "x-nullable": true }),
        SwaggerVersion::OpenApi30 => json!({ "type": "number", "format": format, "nullable": true }),
        SwaggerVersion::OpenApi31 => json!({ "type": ["number", "null"], "format": format }),
    }
}

/// Values that the model would take, dimensions of any size being 1; `None` where they would be too many or where
/// an input says too little of itself.
fn example(specs: &[TensorSpec]) -> Option<Value> {
    let mut members = Map::new();
    for spec in specs.iter().filter(|spec| !spec.optional) {
        let (ValueKind::Tensor, Some(shape)) = (&spec.kind, &spec.shape) else { return None };
        let sizes = shape.iter().map(|dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Dynamic(_) => 1,
        });
        let count = sizes.clone().try_fold(1_usize, usize::checked_mul)?;
        if count > MAX_EXAMPLE || sizes.clone().any(|size| size > MAX_EXAMPLE) {
            return None;
        }
        let element = match spec.data_type {
            DataType::Bool => json!(true),
            DataType::String => json!("text"),
            DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64 => json!(0.5),
            _ => json!(1),
        };
        let value = sizes.rev().fold(element, |element, size| Value::Array(vec![element; size]));
        members.insert(spec.name.to_string(), value);
    }
    Some(Value::Object(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service<'_> =
        Service { name: "iris", version: "1.0", path_prefix: "", takes_images: false };

    fn spec(name: &str, data_type: DataType, shape: Option<Vec<Dim>>, kind: ValueKind) -> TensorSpec {
        TensorSpec { name: name.into(), data_type, shape, kind, optional: false }
    }

    fn signature() -> Signature {
        let rows = || Dim::Dynamic(None);
        Signature {
            inputs: vec![spec("x", DataType::F32, Some(vec![rows(), Dim::Fixed(2)]), ValueKind::Tensor)],
            outputs: vec![
                spec("label", DataType::I64, Some(vec![rows()]), ValueKind::Tensor),
                spec("odds", DataType::F32, None, ValueKind::Maps { key: DataType::I64 }),
            ],
        }
    }

    fn parsed(version: SwaggerVersion, signature: &Signature) -> Value {
        serde_json::from_str(&document(version, SERVICE, signature)).unwrap()
    }

    /// Every `$ref` of `value`.
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(elements) => elements.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_version_is_whole() {
        for (version, field, number) in [
            (SwaggerVersion::Swagger2, "swagger", "2.0"),
            (SwaggerVersion::OpenApi30, "openapi", "3.0.3"),
            (SwaggerVersion::OpenApi31, "openapi", "3.1.0"),
        ] {
            let document = parsed(version, &signature());
            assert_eq!(document[field], number);
            assert_eq!(document["info"]["title"], "iris");
            assert_eq!(document["info"]["version"], "1.0");
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() >= 4, "{found:?}");
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
            }
            for (path, method) in [("/", "get"), ("/score", "post")] {
                let operation = &document["paths"][path][method];
                assert!(operation["responses"]["200"]["description"].is_string(), "{path}");
                assert!(operation["operationId"].is_string(), "{path}");
            }
        }
    }

    #[test]
    fn schemas_and_example_follow_the_signature() {
        let document = parsed(SwaggerVersion::OpenApi31, &signature());
        insta::assert_snapshot!(document["components"]["schemas"]["ServiceInput"], @r#"{"type":"object","required":["inputs"],"properties":{"inputs":{"type":"object","properties":{"x":{"type":"array","items":{"type":"array","items":{"type":["number","null"],"format":"float"},"minItems":2,"maxItems":2}}},"required":["x"]}},"examples":[{"inputs":{"x":[[0.5,0.5]]}}]}"#);
        insta::assert_snapshot!(document["components"]["schemas"]["ServiceOutput"], @r#"{"type":"object","required":["outputs"],"properties":{"outputs":{"type":"object","properties":{"label":{"type":"array","items":{"type":"integer","format":"int64"}},"odds":{"type":"array","items":{"type":"object","additionalProperties":{"type":["number","null"],"format":"float"}}}},"required":["label","odds"]}}}"#);
        let document = parsed(SwaggerVersion::Swagger2, &signature());
        assert_eq!(document["definitions"]["ServiceInput"]["example"]["inputs"]["x"], json!([[0.5, 0.5]]));
    }

    #[test]
    fn an_example_is_one_that_the_model_takes() {
        use crate::codec::{Limits, score};
        let document = parsed(SwaggerVersion::OpenApi30, &signature());
        let example = document["components"]["schemas"]["ServiceInput"]["example"].to_string();
        score::decode(example.as_bytes(), &signature(), Limits::default(), score::Door::Score).unwrap();
    }

    #[test]
    fn large_inputs_have_no_example() {
        let mut signature = signature();
        signature.inputs[0].shape = Some(vec![Dim::Fixed(0), Dim::Fixed(usize::MAX)]);
        assert!(
            parsed(SwaggerVersion::Swagger2, &signature)["definitions"]["ServiceInput"]["example"].is_null()
        );
    }

    #[test]
    fn versions_have_the_names_of_azures_server() {
        for (text, version) in [
            ("2", SwaggerVersion::Swagger2),
            ("2.0", SwaggerVersion::Swagger2),
            ("3", SwaggerVersion::OpenApi30),
            ("3.0", SwaggerVersion::OpenApi30),
            ("3.1", SwaggerVersion::OpenApi31),
        ] {
            assert_eq!(text.parse(), Ok(version));
        }
        for version in SwaggerVersion::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
        }
        assert_eq!(
            "9".parse::<SwaggerVersion>().unwrap_err().to_string(),
            "Swagger version [9] is not valid. Supported versions: [2, 3, 3.1]."
        );
    }
}
