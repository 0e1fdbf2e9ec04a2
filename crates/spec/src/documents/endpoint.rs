//! `onlineEndpoint`, managed and kubernetes: a stable name with keys that splits traffic over deployments.

use std::collections::BTreeMap;

use moorline_core::Name;
use serde::{Serialize, Serializer};

use super::{Tags, azure};
use crate::{
    document::{Document, sealed::Read},
    fields::Fields,
    paths,
    reader::{Finding, Reader},
    scalars,
    yaml::{Content, Node},
};

/// A stable name with keys that splits traffic over deployments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnlineEndpoint {
    pub name: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub properties: Tags,
    /// `key` where it is left out.
    pub auth_mode: AuthMode,
    /// Percentages by deployment; they sum to 100 or less.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub traffic: BTreeMap<Name, u8>,
    /// One deployment, and 50 at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mirror_traffic: BTreeMap<Name, u8>,
    /// Where its deployments run unless they say otherwise.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_reference")]
    pub compute: Option<Name>,
}

/// What a caller has to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    #[default]
    Key,
    AmlToken,
    AadToken,
}

#[expect(clippy::ref_option, reason = "serde gives references to fields")]
fn as_reference<S: Serializer>(name: &Option<Name>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.collect_str(&format_args!("azureml:{name}")),
        None => serializer.serialize_none(),
    }
}

impl Document for OnlineEndpoint {
    const KIND: &'static str = "online endpoint";
}

impl Read for OnlineEndpoint {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        let mut fields = Fields::open(reader, node, Self::KIND)?;
        fields.read_only(&["$schema", "id", "kind", "provisioning_state", "scoring_uri", "openapi_uri"]);
        fields.read_only(&["creation_context", "generation"]);
        let name = fields.required(reader, "name", scalars::endpoint_name);
        let description = fields.optional(reader, "description", scalars::text);
        let tags = fields.optional(reader, "tags", scalars::tags);
        let properties = fields.optional(reader, "properties", scalars::tags);
        let auth_mode = fields.optional(
            reader,
            "auth_mode",
            scalars::choice(&[
                ("key", AuthMode::Key),
                ("aml_token", AuthMode::AmlToken),
                ("aad_token", AuthMode::AadToken),
            ]),
        );
        let traffic = fields.optional(reader, "traffic", traffic);
        let mirror_traffic = fields.optional(reader, "mirror_traffic", mirror_traffic);
        let compute = fields.optional(reader, "compute", paths::compute);
        let access = "the address that the server listens on decides";
        fields.azure_only(reader, "public_network_access", access, azure::access);
        fields.azure_only(reader, "identity", "there are no managed identities", azure::identity);
        fields.azure_only(reader, "location", "an endpoint is where its server is", scalars::text);
        fields.close_with(reader, |key| {
            let deployments =
                ["instance_type", "instance_count", "model", "environment", "code_configuration"];
            deployments.contains(&key).then(|| "it belongs to a deployment".to_owned())
        });
        Some(Self {
            name: name?,
            description,
            tags: tags.unwrap_or_default(),
            properties: properties.unwrap_or_default(),
            auth_mode: auth_mode.unwrap_or_default(),
            traffic: traffic.unwrap_or_default(),
            mirror_traffic: mirror_traffic.unwrap_or_default(),
            compute,
        })
    }
}

/// Percentages by deployment.
fn percentages(reader: &mut Reader, node: &Node, most: u8) -> Option<BTreeMap<Name, u8>> {
    let entries = scalars::entries(reader, node)?;
    let mut percentages = BTreeMap::new();
    let mut complete = true;
    for entry in entries {
        reader.at_key(&entry.key, |reader| {
            let key = Node { place: entry.place, content: Content::Text(entry.key.clone()) };
            let name = scalars::deployment_name(reader, &key);
            let percentage = scalars::between(0, u32::from(most))(reader, &entry.value);
            match (name, percentage) {
                (Some(name), Some(percentage)) => {
                    percentages.insert(name, percentage as u8);
                }
                _ => complete = false,
            }
        });
    }
    complete.then_some(percentages)
}

fn traffic(reader: &mut Reader, node: &Node) -> Option<BTreeMap<Name, u8>> {
    let percentages = percentages(reader, node, 100)?;
    let sum: u32 = percentages.values().map(|percentage| u32::from(*percentage)).sum();
    if sum > 100 {
        let finding = Finding::error(node.place, format!("`traffic` sums to {sum} %"));
        reader.report(finding.expected("100 % or less"));
        return None;
    }
    Some(percentages)
}

fn mirror_traffic(reader: &mut Reader, node: &Node) -> Option<BTreeMap<Name, u8>> {
    let percentages = percentages(reader, node, 50)?;
    if percentages.len() > 1 {
        let finding =
            Finding::error(node.place, format!("`mirror_traffic` names {} deployments", percentages.len()));
        reader.report(finding.expected("one"));
        return None;
    }
    Some(percentages)
}
