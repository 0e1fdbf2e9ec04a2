//! The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, on the data port beside HTTP.

use std::{pin::Pin, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use moorline_core::Signature;
use prost::Message;
use tonic::{Status, codec::CompressionEncoding, server::UnaryService};
use tonic_prost::ProstCodec;

use crate::{
    app::{App, Backend},
    codec::grpc::{self, ModelInferRequest, ModelInferResponse},
    metrics::Protocol,
    problem::Problem,
    routes::{Exchange, named, scripted},
};

/// Every method of the service.
pub(crate) const ROUTE: &str = "/inference.GRPCInferenceService/{method}";

/// One call, routed by its method's name.
pub(crate) async fn call(
    State(app): State<Arc<App>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    match method.as_str() {
        "ServerLive" => {
            unary(&app, request, async |_, _: grpc::ServerLiveRequest| {
                Ok(grpc::ServerLiveResponse { live: true })
            })
            .await
        }
        "ServerReady" => {
            unary(&app, request, async |app, _: grpc::ServerReadyRequest| {
                Ok(grpc::ServerReadyResponse { ready: app.ready() })
            })
            .await
        }
        "ModelReady" => unary(&app, request, model_ready).await,
        "ServerMetadata" => {
            unary(&app, request, async |_, _: grpc::ServerMetadataRequest| {
                Ok(grpc::server_metadata(env!("CARGO_PKG_VERSION")))
            })
            .await
        }
        "ModelMetadata" => unary(&app, request, model_metadata).await,
        "ModelInfer" => {
            let exchange = Exchange::begin(&app, Protocol::OipGrpc, request.headers(), request.extensions());
            unary(&app, request, async move |app, request| {
                let result = infer(&app, &exchange, request).await;
                exchange.finish_elsewhere(result.as_ref().err());
                result
            })
            .await
        }
        _ => Status::unimplemented(format!("method `{method}` is not offered")).into_http(),
    }
}

async fn model_ready(
    app: Arc<App>,
    request: grpc::ModelReadyRequest,
) -> Result<grpc::ModelReadyResponse, Problem> {
    named(app.served()?, &request.name, Some(&request.version))?;
    Ok(grpc::ModelReadyResponse { ready: app.ready() })
}

async fn model_metadata(
    app: Arc<App>,
    request: grpc::ModelMetadataRequest,
) -> Result<grpc::ModelMetadataResponse, Problem> {
    let served = named(app.served()?, &request.name, Some(&request.version))?;
    let none = Signature::default();
    let signature = match &served.backend {
        Backend::Model(sessions) => sessions.signature(),
        Backend::Script(_) => &none,
    };
    Ok(grpc::model_metadata(served.identity(), &served.name.platform, signature))
}

async fn infer(
    app: &App,
    exchange: &Exchange,
    request: ModelInferRequest,
) -> Result<ModelInferResponse, Problem> {
    let size = request.encoded_len();
    app.metrics().request_bytes.inc_by(size as u64);
    let mut share = app.budget().share();
    share.grow(size)?;
    let served = named(app.served()?, &request.model_name, Some(&request.model_version))?;
    let Backend::Model(sessions) = &served.backend else { return Err(scripted(served)) };
    let decoded = grpc::decode(request, sessions.signature(), app.limits())?;
    drop(share);
    let scored = exchange.run(sessions, decoded.inputs).await?;
    let response = grpc::encode(served.identity(), decoded.id, &decoded.outputs, &scored.outputs)?;
    app.metrics().response_bytes.inc_by(response.encoded_len() as u64);
    Ok(response)
}

/// Runs one unary method: gRPC's framing, compression and status around `handle`.
async fn unary<Q, A, F>(
    app: &Arc<App>,
    request: Request,
    handle: impl FnOnce(Arc<App>, Q) -> F + Send + 'static,
) -> Response
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
    F: Future<Output = Result<A, Problem>> + Send + 'static,
{
    let limit = app.config().max_body_bytes;
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default())
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let method = Method { app: Arc::clone(app), handle: Some(handle), message: std::marker::PhantomData };
    grpc.unary(method, request).await.map(Body::new)
}

/// One method as tonic calls it: once.
struct Method<H, Q> {
    app: Arc<App>,
    handle: Option<H>,
    message: std::marker::PhantomData<fn(Q)>,
}

impl<H, Q, A, F> UnaryService<Q> for Method<H, Q>
where
    H: FnOnce(Arc<App>, Q) -> F,
    F: Future<Output = Result<A, Problem>> + Send + 'static,
{
    type Response = A;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<A>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let handled = self.handle.take().map(|handle| handle(Arc::clone(&self.app), request.into_inner()));
        Box::pin(async move {
            let Some(handled) = handled else {
                return Err(Status::internal("a unary method was called twice"));
            };
            handled
                .await
                .map(tonic::Response::new)
                .map_err(|problem| Status::new(problem.grpc_code(), problem.message))
        })
    }
}
