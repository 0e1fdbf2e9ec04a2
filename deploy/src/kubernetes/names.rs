//! What things are called in a cluster: names of a workspace have other rules and other lengths than Kubernetes' labels,
//! so each is mapped to one that a person can read and that nobody else has.

use std::collections::BTreeMap;

use moorline_core::{DeploymentId, Digest};
use serde_json::{Map, Value};

/// Kubernetes puts up to 18 characters behind a deployment's name for its pods, whose names are labels (RFC 1123): 63.
const LONGEST: usize = 45;
const HASH: usize = 8;
/// The longest value of a label.
const LONGEST_LABEL: usize = 63;
/// What is ours among labels and annotations.
const PREFIX: &str = "moorline.io";
/// The manager of all fields that are ours.
pub const FIELD_MANAGER: &str = "moorline";

/// The label that says whose an object is, and what is watched by it.
pub(super) const OWNER: &str = "moorline.io/owner";
/// The label that says which deployment an object belongs to: the name of its objects.
pub(super) const DEPLOYMENT: &str = "moorline.io/deployment";
/// The annotation with the revision of a placement.
pub(super) const REVISION: &str = "moorline.io/revision";
/// The annotation with the digest of what was applied.
pub(super) const APPLIED: &str = "moorline.io/applied";

/// The name of a deployment's objects: a DNS label of at most 45 characters that begins with a letter (RFC 1035, as
/// services want it), `iris-blue-0a1b2c3d`. The same for the same deployment of the same owner, and for no other.
pub fn object_name(owner: &str, id: &DeploymentId) -> String {
    let whole = format!("{owner}\n{}\n{}\n{}", id.workspace, id.endpoint, id.deployment);
    let hash = &Digest::of(whole.to_ascii_lowercase().as_bytes()).hex()[..HASH];
    let readable = plain(&format!("{}-{}", id.endpoint, id.deployment));
    let readable = if readable.starts_with(|c: char| c.is_ascii_lowercase()) {
        readable
    } else {
        format!("d-{readable}")
    };
    let readable: String = readable.chars().take(LONGEST - HASH - 1).collect();
    format!("{}-{hash}", readable.trim_end_matches('-'))
}

/// The name of the secret with the variables of one revision.
pub(super) fn secret_name(object: &str, revision: &Digest) -> String {
    format!("{object}-{}", &revision.hex()[..HASH])
}

/// The value of [`OWNER`]: an owner's name has no bounds.
pub(super) fn owner_label(owner: &str) -> String {
    Digest::of(owner.as_bytes()).hex()[..16].to_owned()
}

/// What a service selects by, and nothing that may ever change.
pub(super) fn selector(owner: &str, id: &DeploymentId) -> Map<String, Value> {
    object([(DEPLOYMENT, object_name(owner, id)), (OWNER, owner_label(owner))])
}

/// Labels of every object of a deployment.
pub(super) fn labels(owner: &str, id: &DeploymentId) -> Map<String, Value> {
    let mut labels = object([
        ("app.kubernetes.io/name", label(id.endpoint.as_str())),
        ("app.kubernetes.io/instance", object_name(owner, id)),
        ("app.kubernetes.io/component", "scorer".to_owned()),
        ("app.kubernetes.io/managed-by", "moorline".to_owned()),
    ]);
    labels.extend(selector(owner, id));
    labels
}

/// What selects the pods of a group that is no deployment, as the gateway is.
pub(super) fn group_selector(owner: &str, name: &str) -> Map<String, Value> {
    object([(DEPLOYMENT, name.to_owned()), (OWNER, owner_label(owner))])
}

/// Labels of every object of such a group.
pub(super) fn group_labels(owner: &str, name: &str) -> Map<String, Value> {
    let mut labels = object([
        ("app.kubernetes.io/name", name.to_owned()),
        ("app.kubernetes.io/instance", name.to_owned()),
        ("app.kubernetes.io/component", "gateway".to_owned()),
        ("app.kubernetes.io/managed-by", "moorline".to_owned()),
    ]);
    labels.extend(group_selector(owner, name));
    labels
}

/// Annotations of every object of a deployment: its names as they are.
pub(super) fn annotations(owner: &str, id: &DeploymentId) -> Map<String, Value> {
    [
        ("owner-name", owner.to_owned()),
        ("workspace", id.workspace.to_string()),
        ("endpoint", id.endpoint.to_string()),
        ("deployment-name", id.deployment.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{PREFIX}/{name}"), value.into()))
    .collect()
}

/// Of an object with all of these annotations.
pub(super) fn deployment_of(owner: &str, annotations: &BTreeMap<String, String>) -> Option<DeploymentId> {
    let annotation = |name: &str| annotations.get(&format!("{PREFIX}/{name}"));
    (annotation("owner-name")? == owner).then_some(())?;
    Some(DeploymentId {
        workspace: annotation("workspace")?.parse().ok()?,
        endpoint: annotation("endpoint")?.parse().ok()?,
        deployment: annotation("deployment-name")?.parse().ok()?,
    })
}

fn object<const N: usize>(pairs: [(&str, String); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// Lower-case letters, digits and single dashes, none of them at an end.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' => plain.push(c),
            _ if !plain.is_empty() && !plain.ends_with('-') => plain.push('-'),
            _ => {}
        }
    }
    plain.trim_end_matches('-').to_owned()
}

/// The value of a label that people look for: a name as it is, as far as it can be.
fn label(name: &str) -> String {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text: String = name.chars().map(|c| if sound(c) { c } else { '-' }).take(LONGEST_LABEL).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(endpoint: &str, deployment: &str) -> DeploymentId {
        let name = |text: &str| text.parse().unwrap();
        DeploymentId { workspace: name("default"), endpoint: name(endpoint), deployment: name(deployment) }
    }

    #[test]
    fn a_name_can_be_read_and_is_a_label() {
        let name = object_name("home", &id("Iris_2", "blue"));
        assert!(name.starts_with("iris-2-blue-"), "{name}");
        assert!(object_name("home", &id("9lives", "blue")).starts_with("d-9lives-blue-"));
        assert_ne!(object_name("home", &id("a", "b-c")), object_name("home", &id("a-b", "c")));
        assert_ne!(object_name("home", &id("a", "b")), object_name("other", &id("a", "b")));
    }

    #[test]
    fn a_deployment_is_known_by_its_annotations() {
        let own = id("Iris_2", "blue");
        let annotations: BTreeMap<String, String> = annotations("home", &own)
            .into_iter()
            .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(deployment_of("home", &annotations), Some(own));
        assert_eq!(deployment_of("other", &annotations), None);
    }

    proptest! {
        #[test]
        fn every_name_is_a_dns_label(endpoint in "[a-zA-Z0-9][a-zA-Z0-9_-]{0,200}", deployment in "[a-zA-Z0-9][a-zA-Z0-9_-]{0,30}") {
            let (Ok(endpoint), Ok(deployment)) = (endpoint.parse(), deployment.parse()) else { return Ok(()) };
            let id = DeploymentId { workspace: "w".parse().unwrap(), endpoint, deployment };
            let name = object_name("home", &id);
            prop_assert!(name.len() <= LONGEST, "{}", name);
            prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase()));
            prop_assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
            prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            let label = label(id.endpoint.as_str());
            prop_assert!(label.len() <= LONGEST_LABEL && !label.starts_with(['-', '_', '.']) && !label.ends_with(['-', '_', '.']));
        }
    }
}
