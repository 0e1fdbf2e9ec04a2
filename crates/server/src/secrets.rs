//! References from environment variables to secrets: how they are written, and what they stand for at the start of a
//! replica.

use std::collections::BTreeMap;

use moorline_core::{Desired, ErrorClass, Name, TargetError, Variable};
use moorline_store::{Store, StoreError};

/// The secret that a variable's value refers to: `secret:NAME`, `NAME@vault`, or Azure's
/// `${{keyvault:https://VAULT/secrets/NAME[/VERSION]}}`. `None` for any other text.
pub(crate) fn reference(value: &str) -> Option<String> {
    let name = if let Some(name) = value.strip_prefix("secret:") {
        name
    } else if let Some(name) = value.strip_suffix("@vault") {
        name
    } else {
        let url = value.strip_prefix("${{keyvault:")?.strip_suffix("}}")?;
        url.split_once("/secrets/")?.1.split('/').next()?
    };
    name.parse::<Name>().ok().map(String::from)
}

/// The variable that hands over the secret `reference` as it is now.
pub(crate) async fn variable(
    store: &Store,
    workspace: &Name,
    reference: &str,
) -> Result<Variable, TargetError> {
    let found = store.secret(workspace, reference).await.map_err(|error| {
        TargetError::caused(error.class(), format!("could not read the secret `{reference}`"), error)
    })?;
    let (version, value) = found.ok_or_else(|| missing(reference))?;
    Ok(Variable::Secret { reference: reference.to_owned(), version, value })
}

/// The versions that the secrets of a deployment have now, by reference; those that there are none of are left out.
pub(crate) async fn versions(store: &Store, desired: &Desired) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut versions = BTreeMap::new();
    for reference in desired.release.environment_variables.values().filter_map(|value| reference(value)) {
        if let Some((version, _)) = store.secret(&desired.id.workspace, &reference).await? {
            versions.insert(reference, version);
        }
    }
    Ok(versions)
}

pub(crate) fn missing(reference: &str) -> TargetError {
    TargetError::new(
        ErrorClass::NotFound,
        format!("there is no secret `{reference}`; set it with `moorline secret set {reference}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_to_refer_to_a_secret() {
        assert_eq!(reference("secret:db").as_deref(), Some("db"));
        assert_eq!(reference("db@vault").as_deref(), Some("db"));
        let azure = "${{keyvault:https://v.vault.azure.net/secrets/db/0123}}";
        assert_eq!(reference(azure).as_deref(), Some("db"));
        for plain in ["", "db", "user@host", "secret:", "secret:a/b", "${{keyvault:x}}"] {
            assert_eq!(reference(plain), None, "{plain}");
        }
    }
}
