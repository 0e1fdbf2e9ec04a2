//! The documents of an image: its config and its manifest, without a time and without a place.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde_json::{Map, Value, json};

use super::{
    ImageError, LayerKind, Layout,
    layers::{Blob, descriptor},
};

/// When everything was made.
pub(crate) const CREATED: &str = "1970-01-01T00:00:00Z";
/// What is kept of a base's config beside what is changed; others are an Engine's notes about how it was built.
const KEPT: [&str; 7] = ["architecture", "os", "os.version", "os.features", "variant", "author", "config"];

/// What is different from the base.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) labels: Vec<(String, String)>,
    /// How the scorer is run; `None` where the base's own program is.
    pub(crate) scorer: Option<Run>,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) user: &'static str,
    pub(crate) folder: &'static str,
    pub(crate) ports: [u16; 2],
}

pub(crate) fn history(kind: LayerKind) -> Value {
    json!({ "created": CREATED, "created_by": format!("moorline: {}", kind.as_str()) })
}

/// The config of an image that has `layers` on a base.
pub(crate) fn derive(
    base: &Value,
    base_layers: usize,
    layers: &[(LayerKind, Blob)],
    changes: &Changes,
) -> Value {
    let mut image = Map::new();
    image.insert("created".to_owned(), CREATED.into());
    for name in KEPT {
        if let Some(value) = base.get(name) {
            image.insert(name.to_owned(), value.clone());
        }
    }
    let config = image.entry("config").or_insert_with(|| json!({}));
    if !config.is_object() {
        *config = json!({});
    }
    if let Value::Object(config) = config {
        change(config, changes);
    }
    let of_base = |name: &str| base.pointer(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut diff_ids = of_base("/rootfs/diff_ids");
    diff_ids.extend(layers.iter().map(|(_, blob)| Value::from(blob.diff_id.to_string())));
    let mut told = of_base("/history");
    let empty = |entry: &&Value| entry.get("empty_layer") == Some(&Value::Bool(true));
    // A history that is not about these layers is none.
    if told.iter().filter(|entry| !empty(entry)).count() != base_layers {
        told = vec![history(LayerKind::Base); base_layers];
    }
    told.extend(layers.iter().map(|(kind, _)| history(*kind)));
    image.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diff_ids }));
    image.insert("history".to_owned(), told.into());
    Value::Object(image)
}

fn change(config: &mut Map<String, Value>, changes: &Changes) {
    let mut variables: Vec<String> = config
        .get("Env")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    for (name, value) in &changes.variables {
        let line = format!("{name}={value}");
        let own = |one: &&mut String| one.split_once('=').is_some_and(|(other, _)| other == name);
        match variables.iter_mut().find(own) {
            Some(place) => *place = line,
            None => variables.push(line),
        }
    }
    config.insert("Env".to_owned(), variables.into());
    let mut labels: BTreeMap<String, Value> = config
        .get("Labels")
        .and_then(Value::as_object)
        .map(|all| all.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
        .unwrap_or_default();
    labels.extend(changes.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())));
    config.insert("Labels".to_owned(), Value::Object(labels.into_iter().collect()));
    let Some(run) = &changes.scorer else { return };
    // What the base would run, and how it would be looked after, is over.
    for name in ["Cmd", "Healthcheck", "OnBuild", "Volumes", "ArgsEscaped", "Shell", "Image"] {
        config.remove(name);
    }
    let ports: Map<String, Value> = run.ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
    config.insert("Entrypoint".to_owned(), run.entrypoint.clone().into());
    config.insert("User".to_owned(), run.user.into());
    config.insert("WorkingDir".to_owned(), run.folder.into());
    config.insert("ExposedPorts".to_owned(), Value::Object(ports));
    config.insert("StopSignal".to_owned(), "SIGTERM".into());
}

/// Puts a manifest into the layout, once everything that it names is there.
pub(crate) fn put_manifest(
    layout: &Layout,
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<Descriptor, ImageError> {
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .expect("a manifest has all that it needs");
    // A map of the library's has no order, and the same image is the same bytes.
    let annotations = (!annotations.is_empty()).then_some(annotations);
    manifest.set_annotations(None);
    let mut document = serde_json::to_value(&manifest).expect("a manifest has only string keys");
    if let (Value::Object(document), Some(annotations)) = (&mut document, annotations) {
        document.insert("annotations".to_owned(), json!(annotations));
    }
    let (digest, size) = layout.put(&serde_json::to_vec(&document).expect("JSON is written"))?;
    Ok(descriptor(MediaType::ImageManifest, &digest, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scorer_takes_the_place_of_what_the_base_ran() {
        let base = json!({
            "architecture": "amd64", "os": "linux", "container": "x", "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin", "A=1"], "Cmd": ["bash"], "Healthcheck": {}, "User": "me"},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]}, "history": []
        });
        let run = Run { entrypoint: vec!["/s".to_owned()], user: "1:1", folder: "/", ports: [2, 1] };
        let changes = Changes {
            variables: vec![("A".to_owned(), "2".to_owned()), ("B".to_owned(), "3".to_owned())],
            labels: Vec::new(),
            scorer: Some(run),
        };
        let derived = derive(&base, 1, &[], &changes);
        assert_eq!(derived["config"]["Env"], json!(["PATH=/bin", "A=2", "B=3"]));
        assert_eq!(derived["config"]["User"], "1:1");
        assert!(derived["config"].get("Cmd").is_none() && derived["config"].get("Healthcheck").is_none());
        assert!(derived.get("container").is_none());
        assert_eq!(derived["created"], CREATED);
        assert_eq!(derived["history"].as_array().unwrap().len(), 1);
        let own = derive(&base, 1, &[], &Changes::default());
        assert_eq!(own["config"]["Cmd"], json!(["bash"]));
        assert_eq!(own["config"]["Healthcheck"], json!({}));
        assert_eq!(own["config"]["User"], "me");
    }
}
