//! What models, environments and code have in common: named assets whose versions are registered and never change.

/// The routes of one kind of asset, in the module that calls it. Each path is a literal, as the generator of the OpenAPI
/// document needs it.
macro_rules! versioned {
    (
        $kind:expr, $body:ident => $shown:ident,
        $all:literal, $name:literal, $versions:literal, $version:literal, $archive:literal, $restore:literal
    ) => {
        use axum::{Json, extract::State};
        use http::StatusCode;
        use serde_json::Value;
        use utoipa_axum::{router::OpenApiRouter, routes};

        use super::{
            AtName, AtVersion, InWorkspace, Refusals,
            assets::{self, Archived, Registration},
            bodies::{$body, $shown, Described},
            extract::{Asked, At, Document, DocumentWithFiles},
            list::{List, Part},
        };
        use crate::{control::Control, problem::ApiError};

        pub(super) fn routes() -> OpenApiRouter<Control> {
            OpenApiRouter::new()
                .routes(routes!(list))
                .routes(routes!(versions))
                .routes(routes!(register_next))
                .routes(routes!(get, register, describe))
                .routes(routes!(archive))
                .routes(routes!(restore))
        }

        /// The newest version of every name, by name and without files.
        #[utoipa::path(get, path = $all, params(InWorkspace, Part, Archived),
            responses((status = 200, body = List<$shown>), Refusals))]
        async fn list(
            State(control): State<Control>,
            At(at): At<InWorkspace>,
            Asked(part): Asked<Part>,
            Asked(archived): Asked<Archived>,
        ) -> Result<Json<List<Value>>, ApiError> {
            assets::list(&control, $kind, &at.workspace, part, &archived).await.map(Json)
        }

        /// The versions of a name, newest first and without files.
        #[utoipa::path(get, path = $name, params(AtName, Part, Archived),
            responses((status = 200, body = List<$shown>), Refusals))]
        async fn versions(
            State(control): State<Control>,
            At(at): At<AtName>,
            Asked(part): Asked<Part>,
            Asked(archived): Asked<Archived>,
        ) -> Result<Json<List<Value>>, ApiError> {
            assets::versions(&control, $kind, &at, part, &archived).await.map(Json)
        }

        /// One version; `latest` is the newest one that is not archived.
        #[utoipa::path(get, path = $version, params(AtVersion),
            responses((status = 200, body = $shown), Refusals))]
        async fn get(State(control): State<Control>, At(at): At<AtVersion>) -> Result<Json<Value>, ApiError> {
            assets::get(&control, $kind, &at).await.map(Json)
        }

        /// Registers a version. The same content again is no change; other content is refused: versions never change.
        #[utoipa::path(put, path = $version, params(AtVersion, Registration), request_body = $body,
            responses((status = 201, description = "Registered.", body = $shown),
                (status = 200, description = "It was there.", body = $shown), Refusals))]
        async fn register(
            State(control): State<Control>,
            At(at): At<AtVersion>,
            Asked(registration): Asked<Registration>,
            DocumentWithFiles(document): DocumentWithFiles,
        ) -> Result<(StatusCode, Json<Value>), ApiError> {
            let name = AtName { workspace: at.workspace, name: at.name };
            let (status, shown) =
                assets::register(&control, $kind, name, Some(at.version), document, &registration).await?;
            Ok((status, Json(shown)))
        }

        /// Registers the next version: one more than the highest number so far.
        #[utoipa::path(post, path = $versions, params(AtName, Registration), request_body = $body,
            responses((status = 201, description = "Registered.", body = $shown), Refusals))]
        async fn register_next(
            State(control): State<Control>,
            At(at): At<AtName>,
            Asked(registration): Asked<Registration>,
            DocumentWithFiles(document): DocumentWithFiles,
        ) -> Result<(StatusCode, Json<Value>), ApiError> {
            let (status, shown) =
                assets::register(&control, $kind, at, None, document, &registration).await?;
            Ok((status, Json(shown)))
        }

        /// Changes what describes a version, by a merge patch.
        #[utoipa::path(patch, path = $version, params(AtVersion),
            request_body(content((Described = "application/json"), (Described = "application/merge-patch+json"))),
            responses((status = 200, body = $shown), Refusals))]
        async fn describe(
            State(control): State<Control>,
            At(at): At<AtVersion>,
            Document(patch): Document,
        ) -> Result<Json<Value>, ApiError> {
            assets::describe(&control, $kind, &at, patch).await.map(Json)
        }

        /// Takes a version off the lists; it is still found by its version.
        #[utoipa::path(post, path = $archive, params(AtVersion),
            responses((status = 200, body = $shown), Refusals))]
        async fn archive(
            State(control): State<Control>,
            At(at): At<AtVersion>,
        ) -> Result<Json<Value>, ApiError> {
            assets::archive(&control, $kind, &at, true).await.map(Json)
        }

        /// Puts an archived version back on the lists.
        #[utoipa::path(post, path = $restore, params(AtVersion),
            responses((status = 200, body = $shown), Refusals))]
        async fn restore(
            State(control): State<Control>,
            At(at): At<AtVersion>,
        ) -> Result<Json<Value>, ApiError> {
            assets::archive(&control, $kind, &at, false).await.map(Json)
        }
    };
}

pub(super) use versioned;
