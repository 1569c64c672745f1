//! The certificate service: `nodemesh.v1alpha1.CertificateService/Sign`.
//!
//! In: a signing request and the identity that it is for. Out: a chain, or a status that says why there is none. Who
//! calls, the service reads from the call's metadata: an agent's bearer token.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tonic::body::Body;
use tonic::codegen::{Body as AnyBody, Service, StdError, http};
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Where the one method is.
const SIGN: &str = "/nodemesh.v1alpha1.CertificateService/Sign";

/// Most bytes of a request to sign: an id of 2048 and a signing request of 4096 at most.
const MAX_REQUEST: usize = 8 << 10;
/// Most bytes of an answer: the longest chain that peers take is 16 kB.
const MAX_RESPONSE: usize = 64 << 10;

/// Asks for a certificate.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SignRequest {
    /// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    #[prost(string, tag = "1")]
    pub identity: String,
    /// PKCS #10, DER: of it the key is taken, and the proof that its maker holds it.
    #[prost(bytes = "vec", tag = "2")]
    pub request: Vec<u8>,
}

/// A certificate.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SignResponse {
    /// X.509, DER: leaf first, then intermediates; no root.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub chain: Vec<Vec<u8>>,
}

/// A future of a service.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whoever signs.
pub trait CertificateService: Send + Sync + 'static {
    /// Signs, or says why not.
    fn sign(self: Arc<Self>, request: Request<SignRequest>)
    -> Answer<Result<Response<SignResponse>, Status>>;
}

/// Serves a [`CertificateService`] over gRPC.
#[derive(Debug)]
pub struct CertificateServer<T>(Arc<T>);

impl<T: CertificateService> CertificateServer<T> {
    /// Serves this one.
    pub fn new(service: Arc<T>) -> Self {
        Self(service)
    }
}

impl<T> Clone for CertificateServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> NamedService for CertificateServer<T> {
    const NAME: &'static str = "nodemesh.v1alpha1.CertificateService";
}

impl<T: CertificateService> UnaryService<SignRequest> for CertificateServer<T> {
    type Response = SignResponse;
    type Future = Answer<Result<Response<SignResponse>, Status>>;

    fn call(&mut self, request: Request<SignRequest>) -> Self::Future {
        Arc::clone(&self.0).sign(request)
    }
}

impl<T, B> Service<http::Request<B>> for CertificateServer<T>
where
    T: CertificateService,
    B: AnyBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != SIGN {
                let status = Status::unimplemented(format!("the certificate service has only {SIGN}"));
                return Ok(status.into_http());
            }
            let codec = ProstCodec::<SignResponse, SignRequest>::default();
            let mut grpc =
                tonic::server::Grpc::new(codec).apply_max_message_size_config(Some(MAX_REQUEST), None);
            Ok(grpc.unary(service, request).await)
        })
    }
}

/// Calls the service.
///
/// # Errors
/// The status that it answers with, or that says why it could not be asked.
pub async fn sign<C>(channel: C, request: Request<SignRequest>) -> Result<SignResponse, Status>
where
    C: tonic::client::GrpcService<Body>,
    C::Error: Into<StdError>,
    C::ResponseBody: AnyBody<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as AnyBody>::Error: Into<StdError> + Send,
{
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let not_ready = |error: C::Error| Status::unavailable(format!("no connection: {}", error.into()));
    grpc.ready().await.map_err(not_ready)?;
    let codec = ProstCodec::<SignRequest, SignResponse>::default();
    let path = http::uri::PathAndQuery::from_static(SIGN);
    Ok(grpc.unary(request, path, codec).await?.into_inner())
}
