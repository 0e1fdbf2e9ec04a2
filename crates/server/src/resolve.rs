//! From a document to what is desired: references become versions, defaults become values, and what cannot work is
//! refused before anything is stored.

use moorline_core::{Desired, Name};
use moorline_spec::OnlineDeployment;
use moorline_store::Store;

use crate::problem::ApiError;

/// A deployment's document with its references pinned, and what follows from it.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub document: OnlineDeployment,
    pub desired: Desired,
    /// Things that were decided for the user and are worth a line.
    pub notes: Vec<String>,
}

/// Resolves a deployment of `endpoint`; `compute` wins over what the documents say.
pub async fn deployment(
    store: &Store,
    workspace: &Name,
    endpoint: &Name,
    document: &OnlineDeployment,
    compute: Option<&Name>,
) -> Result<Resolved, ApiError> {
    unimplemented!("{store:?} {workspace} {endpoint} {document:?} {compute:?}")
}
