//! The shapes of keys that only Azure can do something with.

use crate::{
    fields::Fields,
    reader::Reader,
    scalars,
    yaml::{Content, Node},
};

/// `identity`: of which kind, and which ones.
pub(super) fn identity(reader: &mut Reader, node: &Node) -> Option<()> {
    let mut fields = Fields::open(reader, node, "identity")?;
    fields.read_only(&["principal_id", "tenant_id"]);
    let kinds =
        [("system_assigned", ()), ("user_assigned", ()), ("none", ()), ("system_assigned,user_assigned", ())];
    let kind = fields.required(reader, "type", scalars::choice(&kinds));
    // A list or an object, depending on what it is the identity of.
    fields.optional(reader, "user_assigned_identities", |reader, node| match &node.content {
        Content::List(_) | Content::Map(_) => Some(()),
        _ => {
            reader.mismatch(node, "a list or an object");
            None
        }
    });
    fields.close(reader);
    kind
}

/// `public_network_access` and its like.
pub(super) fn access(reader: &mut Reader, node: &Node) -> Option<()> {
    scalars::choice(&[("enabled", ()), ("disabled", ())])(reader, node)
}
