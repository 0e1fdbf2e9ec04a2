//! The OpenAPI document: what the routes say of themselves, and what is the same for all of them.

use std::sync::LazyLock;

use http::Method;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use crate::{
    api,
    auth::{self, Action},
    problem::{DiagnosticBody, Problem},
};

const TOKEN: &str = "token";

/// What the document begins with.
pub(crate) fn head() -> OpenApi {
    let mut components = Components::new();
    components.schemas.insert(Problem::name().into(), Problem::schema());
    components.schemas.insert(DiagnosticBody::name().into(), DiagnosticBody::schema());
    let scheme = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "Asked for on addresses that other machines can reach; see `moorline token create`.",
            ))
            .build(),
    );
    components.add_security_scheme(TOKEN, scheme);
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Moorline")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("An ML workspace on machines of your own, in Azure ML's words."))
                .license(Some(LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).build()))
                .contact(Some(ContactBuilder::new().url(Some(env!("CARGO_PKG_REPOSITORY"))).build()))
                .build(),
        )
        .components(Some(components))
        .build()
}

/// The OpenAPI document of the API.
pub fn document() -> OpenApi {
    let mut document = api::document();
    let mut tags = std::collections::BTreeSet::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            operation.operation_id = Some(operation_id(&method, path));
            let tag = tag_of(path);
            tags.insert(tag);
            operation.tags = Some(vec![tag.to_owned()]);
            let Some(action) = auth::action(&method, path) else { continue };
            if action != Action::Greet {
                operation.security = Some(vec![
                    SecurityRequirement::default(),
                    SecurityRequirement::new(TOKEN, [] as [&str; 0]),
                ]);
            }
            let said = operation.description.get_or_insert_default();
            if !said.is_empty() {
                said.push_str("\n\n");
            }
            said.push_str("Needs ");
            said.push_str(action.needs());
            said.push('.');
        }
    }
    document.tags = Some(tags.into_iter().map(|tag| TagBuilder::new().name(tag).build()).collect());
    document
}

/// The document as it is sent.
pub(crate) fn text() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| document().to_json().expect("the document has only string keys"));
    &TEXT
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::HEAD, &mut item.head),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// `get_models_by_name`: the method, and the path without what all paths have.
fn operation_id(method: &Method, path: &str) -> String {
    let mut id = method.as_str().to_ascii_lowercase();
    let path = path.strip_prefix(api::BASE).unwrap_or(path);
    let path = path.strip_prefix("/workspaces/{workspace}/").unwrap_or(path);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if let Some(parameter) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            id.push_str("_by_");
            id.push_str(parameter);
        } else {
            id.push('_');
            id.push_str(&part.replace(['-', '.'], "_"));
        }
    }
    id
}

/// The kind of resource that a path is about.
fn tag_of(path: &str) -> &'static str {
    const TAGS: [&str; 12] = [
        "deployments",
        "online-endpoints",
        "models",
        "environments",
        "codes",
        "bitstreams",
        "blobs",
        "computes",
        "secrets",
        "operations",
        "workspaces",
        "tokens",
    ];
    TAGS.into_iter().find(|tag| path.split('/').any(|part| part == *tag)).unwrap_or("server")
}
