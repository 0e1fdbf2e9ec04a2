//! Environments: what scoring scripts need around them.

super::versioned::versioned! {
    moorline_store::AssetKind::Environment, EnvironmentBody => EnvironmentVersion,
    "/workspaces/{workspace}/environments",
    "/workspaces/{workspace}/environments/{name}",
    "/workspaces/{workspace}/environments/{name}/versions",
    "/workspaces/{workspace}/environments/{name}/versions/{version}",
    "/workspaces/{workspace}/environments/{name}/versions/{version}/archive",
    "/workspaces/{workspace}/environments/{name}/versions/{version}/restore"
}
