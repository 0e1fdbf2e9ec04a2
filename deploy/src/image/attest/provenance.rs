//! How an image was made, as an in-toto statement with SLSA's predicate.

use moorline_core::Digest;
use serde_json::{Map, Value, json};

/// What the external parameters mean.
const BUILD_TYPE: &str = "https://moorline.invalid/build/release-image/v1";
const BUILDER: &str = "https://moorline.invalid/builder";

/// Something that went into an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// A reference or a name: `docker.io/library/python:3.11`.
    pub name: String,
    pub digest: Digest,
}

/// How an image was made.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// What people call the image: `registry/repository`.
    pub name: &'a str,
    /// Of its manifest or index.
    pub digest: &'a Digest,
    pub release: &'a Digest,
    pub base: Option<&'a Material>,
    pub environment: Option<&'a Digest>,
    /// What else went in: the scorer, engine libraries, the model's and the code's layer.
    pub materials: &'a [Material],
    /// The version of Moorline that made it.
    pub version: &'a str,
    /// RFC 3339; left out, the document is the same whenever it is made.
    pub finished: Option<&'a str>,
}

/// The statement's bytes: the same for the same facts.
pub fn provenance(made: &Made<'_>) -> Vec<u8> {
    let mut parameters = Map::new();
    parameters.insert("release".to_owned(), json!(made.release));
    if let Some(base) = made.base {
        parameters.insert("base".to_owned(), json!({ "reference": base.name, "digest": base.digest }));
    }
    if let Some(environment) = made.environment {
        parameters.insert("environment".to_owned(), json!(environment));
    }
    let material = |material: &Material| json!({ "name": material.name, "digest": hashed(&material.digest) });
    let dependencies: Vec<Value> = made.base.into_iter().chain(made.materials).map(material).collect();
    let mut run = json!({ "builder": { "id": BUILDER, "version": { "moorline": made.version } } });
    if let Some(finished) = made.finished {
        run["metadata"] = json!({ "finishedOn": finished });
    }
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": made.name, "digest": hashed(made.digest) }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters,
                "internalParameters": {},
                "resolvedDependencies": dependencies,
            },
            "runDetails": run,
        },
    })
    .to_string()
    .into_bytes()
}

fn hashed(digest: &Digest) -> Value {
    json!({ "sha256": digest.hex() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_names_what_went_in_and_no_time_of_its_own() {
        let (image, release) = (Digest::of(b"image"), Digest::of(b"release"));
        let base = Material { name: "docker.io/library/python:3.11".to_owned(), digest: Digest::of(b"base") };
        let made = Made {
            name: "registry.example/iris",
            digest: &image,
            release: &release,
            base: Some(&base),
            environment: None,
            materials: &[],
            version: "0.1.0",
            finished: None,
        };
        let statement: Value = serde_json::from_slice(&provenance(&made)).unwrap();
        assert_eq!(statement["subject"][0]["digest"]["sha256"], image.hex());
        let definition = &statement["predicate"]["buildDefinition"];
        assert_eq!(definition["externalParameters"]["release"], release.to_string());
        assert_eq!(definition["resolvedDependencies"][0]["digest"]["sha256"], base.digest.hex());
        assert!(statement["predicate"]["runDetails"].get("metadata").is_none());
        let dated = provenance(&Made { finished: Some("2026-01-01T00:00:00Z"), ..made });
        assert!(String::from_utf8(dated).unwrap().contains("\"finishedOn\":\"2026-01-01T00:00:00Z\""));
    }
}
