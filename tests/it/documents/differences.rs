//! Where we differ from Azure ML's loader on purpose.

use super::corpus::{Case, Kind};

/// One difference, and why it is none to be mended.
pub(super) struct Difference {
    /// `None` for all of them.
    kind: Option<Kind>,
    /// `*` stands for anything.
    path: &'static str,
    change: &'static str,
    we_refuse: bool,
    pub(super) why: &'static str,
}

const fn refused(
    kind: Option<Kind>,
    path: &'static str,
    change: &'static str,
    why: &'static str,
) -> Difference {
    Difference { kind, path, change, we_refuse: true, why }
}

const fn accepted(
    kind: Option<Kind>,
    path: &'static str,
    change: &'static str,
    why: &'static str,
) -> Difference {
    Difference { kind, path, change, we_refuse: false, why }
}

const MODEL: Option<Kind> = Some(Kind::Model);
const ENVIRONMENT: Option<Kind> = Some(Kind::Environment);
const COMPUTE: Option<Kind> = Some(Kind::Compute);
const WORKSPACE: Option<Kind> = Some(Kind::Workspace);
const ENDPOINT: Option<Kind> = Some(Kind::Endpoint);
const DEPLOYMENT: Option<Kind> = Some(Kind::Deployment);

const NOT_TEXT: &str = "tags, properties and variables are texts; a list or nothing at all is none";
const TEXT: &str = "numbers and booleans become text in tags of all kinds; Azure's loader does so in some";
const FRACTION: &str = "Azure's loader cuts the fraction off; a count of 1.5 is a mistake";
const SERVER: &str = "what servers write is dropped unread; Azure's loader reads some of it";
const CONTENT: &str = "conda files are read when the document is, and what is wrong in them is said then";
const INLINE: &str =
    "Azure's loader drops the name of an inline environment; a wrong one is a mistake all the same";
const FILES: &str = "files are needed, and looked for when the document is read, not when it is sent";
const BASE: &str =
    "an environment has an image or a build context, inline too; the SDK checks only those of their own";
const QUANTITY: &str = "quantities are checked";
const NUMBER: &str = "a number is a quantity, as in Kubernetes";
const ROUTE: &str = "a route begins with a slash";
const INSIDE: &str = "what is inside of keys that have no effect here is not checked";

pub(super) const LIST: &[Difference] = &[
    refused(None, "*tags.a", "= *", NOT_TEXT),
    refused(None, "*properties.a", "= *", NOT_TEXT),
    refused(DEPLOYMENT, "environment_variables.A", "= *", NOT_TEXT),
    accepted(COMPUTE, "tags.a", "= *", TEXT),
    accepted(WORKSPACE, "tags.a", "= *", TEXT),
    refused(None, "*", "= 1.5", FRACTION),
    accepted(None, "*$schema", "= null", SERVER),
    accepted(ENDPOINT, "id", "= *", SERVER),
    accepted(ENDPOINT, "kind", "= null", SERVER),
    accepted(ENDPOINT, "*_uri", "= *", SERVER),
    accepted(None, "provisioning_state", "= *", SERVER),
    accepted(MODEL, "job_name", "= null", SERVER),
    accepted(MODEL, "latest_version", "= null", SERVER),
    accepted(COMPUTE, "created_on", "= null", SERVER),
    accepted(WORKSPACE, "discovery_url", "= *", SERVER),
    refused(None, "*conda_file", "= []", CONTENT),
    refused(ENVIRONMENT, "conda_file.*", "*", CONTENT),
    refused(DEPLOYMENT, "environment.name", "= *", INLINE),
    refused(MODEL, "path", "*", FILES),
    refused(DEPLOYMENT, "model.path", "*", FILES),
    refused(DEPLOYMENT, "model", "= {}", FILES),
    refused(DEPLOYMENT, "code_configuration.*", "= *", FILES),
    refused(ENVIRONMENT, "build.dockerfile_path", "= *", FILES),
    refused(ENVIRONMENT, "build", "= {}", FILES),
    refused(ENVIRONMENT, "build.path", "removed", FILES),
    refused(DEPLOYMENT, "environment", "= *", BASE),
    refused(DEPLOYMENT, "environment.image", "removed", BASE),
    refused(DEPLOYMENT, "resources.*", "= \"text\"", QUANTITY),
    accepted(DEPLOYMENT, "resources.*", "= *", NUMBER),
    refused(None, "*inference_config.*_route.path", "= *", ROUTE),
    accepted(WORKSPACE, "managed_network*", "*", INSIDE),
    refused(
        None,
        "*version",
        "= true",
        "a boolean is no version; Azure's loader takes it for the number 1 and writes `True`",
    ),
    refused(
        DEPLOYMENT,
        "code_configuration",
        "= *",
        "code and script are needed both; Azure's loader wants the script only where there is code",
    ),
    refused(DEPLOYMENT, "code_configuration.code", "removed", "the same"),
    refused(DEPLOYMENT, "endpoint_name", "= \"5\"", "no endpoint can have this name"),
    refused(DEPLOYMENT, "name", "= \"\"", "a deployment has a name"),
    accepted(DEPLOYMENT, "name", "= \"ab\"", "short names such as `v1` do no harm"),
    refused(DEPLOYMENT, "model", "= \"azureml:\"", "a reference has a name"),
    refused(ENDPOINT, "compute", "= \"azureml:\"", "a reference has a name"),
    refused(DEPLOYMENT, "scale_settings.min_instances", "= *", "the least is not more than the most"),
    refused(
        ENDPOINT,
        "mirror_traffic",
        "= *",
        "one deployment and 50 % at most, as the schema's own description has it",
    ),
    refused(ENDPOINT, "", "a duplicate key", "which of the two was meant? Azure's loader takes the last"),
    accepted(ENDPOINT, "", "a date", "a date is text; Azure's loader has no use for dates either"),
    accepted(DEPLOYMENT, "instance_type", "removed", "a machine of one's own has the size that it has"),
    accepted(DEPLOYMENT, "*.enabled", "= true", "the boolean says what the text says"),
];

/// The first listed difference that this is.
pub(super) fn find(case: &Case, we_refuse: bool) -> Option<usize> {
    LIST.iter().position(|difference| {
        difference.we_refuse == we_refuse
            && difference.kind.is_none_or(|kind| kind == case.kind)
            && fits(difference.path, &case.path)
            && fits(difference.change, &case.change)
    })
}

/// Whether a pattern with `*` fits a text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(after, &rest[at..]))
        }),
    }
}
