//! `registries.yml` of the home: where registries really are. It is read when the server starts.

use std::{collections::BTreeMap, path::Path};

use moorline_deploy::registry::{HostSettings, RegistryConfig};
use moorline_spec::{SourceError, load, read_file};
use thiserror::Error;

/// The file's name in the home folder.
const FILE: &str = "registries.yml";

/// A `registries.yml` that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum RegistriesError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}")]
    Document(moorline_spec::Diagnostics),
}

/// What the home says about registries; nothing where it has no such file.
pub(crate) fn read(
    home: &Path,
    environment: BTreeMap<String, String>,
) -> Result<RegistryConfig, RegistriesError> {
    let source = match read_file(&home.join(FILE)) {
        Ok(source) => source,
        Err(SourceError::Missing { .. }) => {
            return Ok(RegistryConfig { hosts: BTreeMap::new(), environment });
        }
        Err(error) => return Err(error.into()),
    };
    let loaded = load::<moorline_spec::Registries>(&source, &[]).map_err(RegistriesError::Document)?;
    let host = |(name, host): (String, moorline_spec::RegistryHost)| {
        (name, HostSettings { mirror: host.mirror, ca_file: host.ca, credentials: None })
    };
    Ok(RegistryConfig { hosts: loaded.document.registries.into_iter().map(host).collect(), environment })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_says_where_registries_are() {
        let home = tempfile::tempdir().unwrap();
        assert!(read(home.path(), BTreeMap::new()).unwrap().hosts.is_empty());
        let text = "registries:\n  mcr.microsoft.com:\n    mirror: localhost:5000/mcr\n";
        fs_err::write(home.path().join(FILE), text).unwrap();
        let config = read(home.path(), BTreeMap::new()).unwrap();
        assert_eq!(config.hosts["mcr.microsoft.com"].mirror.as_deref(), Some("localhost:5000/mcr"));
        fs_err::write(home.path().join(FILE), "registries:\n  a.io: {miror: b.io}\n").unwrap();
        let error = read(home.path(), BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("registries.yml:2:10: unknown key `miror`"), "{error}");
        assert!(error.contains("did you mean `mirror`?"), "{error}");
    }
}
