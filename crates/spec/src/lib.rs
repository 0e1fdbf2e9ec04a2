//! Documents: what people write for a workspace, in Azure ML's YAML, as typed values.
//!
//! [`load`] reads a file, [`from_json`] the body of a request; both make the same checks and find all that is wrong,
//! each with its place, what was expected and the nearest known key. A document read from a file and written as JSON
//! has Azure ML's field names. Nothing here speaks to a network or changes a disk; files are read where a document
//! names them (`file:`, `conda_file`, requirements).
//!
//! ```
//! use moorline_spec::{OnlineEndpoint, SourceFile, load};
//!
//! let file = SourceFile::new("endpoint.yml", "name: diabetes\nauth_mode: key\n");
//! let endpoint = load::<OnlineEndpoint>(&file, &[]).unwrap().document;
//! assert_eq!(endpoint.name.as_str(), "diabetes");
//!
//! let file = SourceFile::new("endpoint.yml", "name: diabetes\nauth_mod: key\n");
//! let problems = load::<OnlineEndpoint>(&file, &[]).unwrap_err();
//! let text = "endpoint.yml:2:1: unknown key `auth_mod` in online endpoint; did you mean `auth_mode`?";
//! assert_eq!(problems.to_string(), text);
//! ```

pub mod conda;
mod diagnostic;
mod document;
mod documents;
mod fields;
mod overrides;
mod paths;
mod quantity;
mod reader;
mod reference;
mod scalars;
mod source;
mod yaml;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use document::{Document, Loaded, from_json, load};
pub use documents::{
    AuthMode, Bitstream, BuildContext, BuildSource, ClusterGateway, CodeConfiguration, Collection,
    CollectionData, Compute, ContainerHost, DataAsset, DataCollector, DeploymentType, EdgeDevices,
    EdgeMessaging, EngineTls, Environment, FpgaDevice, FpgaDevices, GatewayParent, InstanceType,
    KubernetesCluster, Model, ModelVolume, ModelVolumeKind, OnlineDeployment, OnlineEndpoint, OsType, Reach,
    Registries, RegistryHost, RequestLogging, Requests, ResourceRequirements, ResourceSettings, RollingRate,
    RuntimeSettings, ScaleSettings, Tags, Workspace,
};
pub use overrides::{Override, OverrideError, set};
pub use quantity::{QuantityError, parse_bytes, parse_millis};
pub use reference::{AssetRef, CodeSource, LocalPath, Reference, ReferenceError, Scope, VersionRef};
pub use source::{MAX_FILE_BYTES, SourceError, SourceFile, read_file};
