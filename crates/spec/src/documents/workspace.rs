//! `workspace`: what holds everything else. Most of its keys in Azure ML are about Azure.

use moorline_core::Name;
use serde::Serialize;

use super::{Tags, azure};
use crate::{
    document::{Document, sealed::Read},
    fields::Fields,
    reader::Reader,
    scalars,
    yaml::Node,
};

/// What holds models, environments, computes and endpoints together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workspace {
    pub name: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

impl Document for Workspace {
    const KIND: &'static str = "workspace";
}

/// Keys that say where in Azure a workspace is and what it is joined to there.
const AZURE: [(&str, &str, Check); 20] = [
    ("location", "a workspace is where its server is", text),
    ("resource_group", "resource groups are Azure's", text),
    ("hbi_workspace", "nothing is sent to Microsoft", boolean),
    ("storage_account", "files go to the workspace's own store", text),
    ("container_registry", "registries are settings of the server", text),
    ("key_vault", "secrets are kept in the workspace", text),
    ("application_insights", "metrics are Prometheus's", text),
    ("customer_managed_key", "secrets are encrypted with the server's own key", object),
    ("image_build_compute", "environments are built by the server", text),
    ("public_network_access", "the address that the server listens on decides", azure::access),
    ("network_acls", "the address that the server listens on decides", object),
    ("system_datastores_auth_mode", "there are no datastores in Azure's sense", text),
    ("identity", "there are no managed identities", azure::identity),
    ("primary_user_assigned_identity", "there are no managed identities", text),
    ("managed_network", "there is no managed network", object),
    ("provision_network_now", "there is no managed network", boolean),
    ("enable_data_isolation", "there are no hubs", boolean),
    ("workspace_hub", "there are no hubs", text),
    ("allow_roleassignment_on_rg", "resource groups are Azure's", boolean),
    ("serverless_compute", "there is no managed network", object),
];

type Check = fn(&mut Reader, &Node) -> Option<()>;

fn text(reader: &mut Reader, node: &Node) -> Option<()> {
    scalars::text(reader, node).map(|_| ())
}

fn boolean(reader: &mut Reader, node: &Node) -> Option<()> {
    scalars::boolean(reader, node).map(|_| ())
}

fn object(reader: &mut Reader, node: &Node) -> Option<()> {
    scalars::object(reader, node)
}

impl Read for Workspace {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        let mut fields = Fields::open(reader, node, Self::KIND)?;
        fields.read_only(&["$schema", "id", "mlflow_tracking_uri", "discovery_url", "creation_context"]);
        let name = fields.required(reader, "name", scalars::name);
        let display_name = fields.optional(reader, "display_name", scalars::text);
        let description = fields.optional(reader, "description", scalars::text);
        let tags = fields.optional(reader, "tags", scalars::tags);
        for (key, why, check) in AZURE {
            fields.azure_only(reader, key, why, check);
        }
        fields.close(reader);
        Some(Self { name: name?, display_name, description, tags: tags.unwrap_or_default() })
    }
}
