//! Models: versioned sets of files.

super::versioned::versioned! {
    moorline_store::AssetKind::Model, ModelBody => ModelVersion,
    "/workspaces/{workspace}/models",
    "/workspaces/{workspace}/models/{name}",
    "/workspaces/{workspace}/models/{name}/versions",
    "/workspaces/{workspace}/models/{name}/versions/{version}",
    "/workspaces/{workspace}/models/{name}/versions/{version}/archive",
    "/workspaces/{workspace}/models/{name}/versions/{version}/restore"
}
