//! Certificates from the controller.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::SpiffeId;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::connection::bearer;
use super::roots::Roots;
use crate::identity::{AuthorityError, CertificateAuthority, Issued, Signing, TrustBundle};
use crate::xds::certificates::{SignRequest, sign};

/// Connecting, authentication and signing together.
const ANSWER: Duration = Duration::from_secs(20);

/// The mesh's authority, as an agent reaches it.
pub struct ControllerAuthority {
    pub(super) channel: Channel,
    pub(super) token_file: PathBuf,
    pub(super) roots: Arc<Roots>,
}

impl ControllerAuthority {
    async fn ask(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'_>,
    ) -> Result<Issued, AuthorityError> {
        let away = |what: String| AuthorityError::Away { what };
        let token = bearer(&self.token_file).map_err(|error| {
            away(format!("the token {} cannot be read: {error}", self.token_file.display()))
        })?;
        let message = SignRequest { identity: identity.to_string(), request: request.to_vec() };
        let mut request = Request::new(message);
        request.set_timeout(ANSWER);
        request.metadata_mut().insert("authorization", token);
        let answer = timeout(ANSWER, sign(self.channel.clone(), request)).await;
        let answer = answer.map_err(|_| away(format!("no answer in {} s", ANSWER.as_secs())))?;
        let response = answer.map_err(|status| refused(identity, &status))?;
        let chain = response.chain.into_iter().map(CertificateDer::from).collect();
        Issued::of(chain).ok_or_else(|| away("it answered with something that is no certificate".to_owned()))
    }
}

fn refused(identity: &SpiffeId, status: &Status) -> AuthorityError {
    match status.code() {
        Code::PermissionDenied => {
            AuthorityError::Refused { identity: identity.clone(), reason: status.message().to_owned() }
        }
        // It would say the same of any identity.
        Code::Unauthenticated | Code::InvalidArgument | Code::FailedPrecondition => {
            AuthorityError::Stranger { reason: status.message().to_owned() }
        }
        _ => AuthorityError::Away { what: super::stream::reason_of(status) },
    }
}

impl CertificateAuthority for ControllerAuthority {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        request: &'a CertificateSigningRequestDer<'a>,
        _now: u64,
    ) -> Signing<'a> {
        Box::pin(self.ask(identity, request))
    }

    fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        self.roots.of_peers()
    }
}
