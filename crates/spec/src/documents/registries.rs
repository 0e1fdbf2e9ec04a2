//! `registries.yml` of a server's home: where registries really are. Credentials are Docker's business: its
//! `config.json` and the helpers that it names.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use super::container::absolute;
use crate::{
    document::{Document, sealed::Read},
    fields::Fields,
    reader::Reader,
    scalars,
    yaml::Node,
};

/// Settings of image registries, by host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Registries {
    /// By `host` or `host:port`, as references have it.
    pub registries: BTreeMap<String, RegistryHost>,
}

/// Settings of one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegistryHost {
    /// `host[:port][/prefix]`, asked first; the registry itself is asked for what it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Certificates (PEM) of the authority that signed the registry's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl Document for Registries {
    const KIND: &'static str = "registries";
}

impl Read for Registries {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        let mut fields = Fields::open(reader, node, Self::KIND)?;
        let registries = fields.required(reader, "registries", |reader, node| {
            scalars::map(reader, node, |reader, node| {
                let mut fields = Fields::open(reader, node, "registry")?;
                let mirror = fields.optional(reader, "mirror", scalars::filled);
                let ca = fields.optional(reader, "ca", absolute);
                fields.close(reader);
                Some(RegistryHost { mirror, ca })
            })
        });
        fields.close(reader);
        Some(Self { registries: registries? })
    }
}
