//! Bitstreams: versioned programs for FPGAs, each in one file.

super::versioned::versioned! {
    moorline_store::AssetKind::Bitstream, BitstreamBody => BitstreamVersion,
    "/workspaces/{workspace}/bitstreams",
    "/workspaces/{workspace}/bitstreams/{name}",
    "/workspaces/{workspace}/bitstreams/{name}/versions",
    "/workspaces/{workspace}/bitstreams/{name}/versions/{version}",
    "/workspaces/{workspace}/bitstreams/{name}/versions/{version}/archive",
    "/workspaces/{workspace}/bitstreams/{name}/versions/{version}/restore"
}
