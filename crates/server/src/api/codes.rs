//! Code: the folders of scoring scripts, as they were uploaded.

super::versioned::versioned! {
    moorline_store::AssetKind::Code, CodeBody => CodeVersion,
    "/workspaces/{workspace}/codes",
    "/workspaces/{workspace}/codes/{name}",
    "/workspaces/{workspace}/codes/{name}/versions",
    "/workspaces/{workspace}/codes/{name}/versions/{version}",
    "/workspaces/{workspace}/codes/{name}/versions/{version}/archive",
    "/workspaces/{workspace}/codes/{name}/versions/{version}/restore"
}
