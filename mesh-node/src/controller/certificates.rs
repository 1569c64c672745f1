//! Signs certificates for agents: for the identities of enrolled pods that live on the caller's node, and its own.
//!
//! In: a signing request with an agent's token. Out: a chain, or why not. A node that asks for more than a node can
//! need is made to wait, and delays no other. Every answer leaves a record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_common::model::{Enrolment, NamespacedName, SpiffeId, Text, TrustDomain};
use mesh_common::snapshot::Snapshot;
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status};

use super::agents::{AgentCaller, Refused};
use super::audit::{Audit, Record};
use super::metrics::Metrics;
use super::rates::{Rate, Rates};
use super::server::PAUSE;
use super::world::Known;
use crate::identity::{AuthorityError, CertificateAuthority, Clock, Issued, now, serial_of};
use crate::telemetry::chain::Chain;
use crate::xds::certificates::{Answer, CertificateService, SignRequest, SignResponse};

/// What a node may ask for: a full one that starts has some hundred identities, and renews each twice a day.
const NODE: Rate = Rate { per_second: 20.0, burst: 500.0 };
const MAX_NODES: usize = 16_384;
/// Bytes of an identity in a record.
const MAX_SAID: usize = 256;
/// Certificates of one node that are being signed at a time. It shows where another signer takes its time.
const AT_A_TIME: usize = 4;
/// For a turn behind others of the same node.
const TURN: Duration = Duration::from_secs(5);
/// Between two records of one node that asks for too much.
const REST: Duration = Duration::from_secs(10);

/// Signs for agents.
pub(super) struct Certificates {
    pub(super) authority: Arc<dyn CertificateAuthority>,
    pub(super) known: Arc<Known>,
    pub(super) trust_domain: TrustDomain,
    pub(super) clock: Clock,
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
    pub(super) flood: Mutex<Flood>,
    pub(super) shares: Shares,
}

/// Places of each node for what is being signed: one that has many delays no other.
#[derive(Default)]
pub(super) struct Shares(Mutex<HashMap<Text, Arc<Semaphore>>>);

impl Shares {
    async fn take(&self, node: &Text) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut shares = lock(&self.0);
            if shares.len() >= MAX_NODES {
                shares.retain(|_, places| Arc::strong_count(places) > 1);
            }
            let places = shares.entry(node.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME)));
            Arc::clone(places)
        };
        timeout(TURN, places.acquire_owned()).await.ok()?.ok()
    }
}

/// Who calls, as the server found out: an extension of the request.
#[derive(Clone)]
pub(super) struct Admission(pub(super) Result<AgentCaller, Refused>);

/// Nodes that ask for too much.
pub(super) struct Flood {
    rates: Rates<Text>,
    /// Refusals that were not recorded, and when the last one was.
    silent: HashMap<Text, (u64, Instant)>,
}

impl Default for Flood {
    fn default() -> Self {
        Self { rates: Rates::new(NODE, MAX_NODES), silent: HashMap::new() }
    }
}

impl Flood {
    /// Whether a node's call is within its rate.
    fn takes(&mut self, node: &Text, now: Instant) -> bool {
        self.rates.takes(node, now)
    }

    /// Whether a refusal of a node is to be recorded, and how many were not since.
    fn is_said(&mut self, node: &Text, now: Instant) -> Option<u64> {
        match self.silent.get_mut(node) {
            Some((silent, last)) if now.saturating_duration_since(*last) < REST => {
                *silent += 1;
                None
            }
            Some(before) => Some(std::mem::replace(before, (0, now)).0),
            None => {
                if self.silent.len() >= MAX_NODES {
                    self.silent.clear();
                }
                self.silent.insert(node.clone(), (0, now));
                Some(0)
            }
        }
    }
}

/// Why a certificate is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denial {
    #[error("who calls is not known")]
    Caller(#[source] Refused),
    #[error("node {0} asks for more certificates than a node can need: wait some seconds")]
    Rate(Text),
    #[error("the identity is none: {0}")]
    Identity(String),
    #[error("{0} is of another trust domain than {1}")]
    TrustDomain(SpiffeId, TrustDomain),
    #[error("no enrolled pod of {identity} lives on node {node}")]
    NoPod { identity: SpiffeId, node: Text },
    #[error("there is no service account {0}")]
    NoAccount(NamespacedName),
    #[error("there is no certificate")]
    Authority(#[source] AuthorityError),
    #[error("the certificate could not be recorded")]
    Audit,
}

impl Denial {
    /// The stable word for records and metrics.
    fn code(&self) -> &'static str {
        match self {
            Self::Caller(Refused::Unauthenticated(_)) => "unauthenticated",
            Self::Caller(Refused::Forbidden(_)) => "not_an_agent",
            Self::Caller(Refused::Unavailable(_)) => "caller_unknown",
            Self::Rate(_) => "too_many",
            Self::Identity(_) => "not_spiffe",
            Self::TrustDomain(..) => "other_trust_domain",
            Self::NoPod { .. } => "no_pod_on_node",
            Self::NoAccount(_) => "no_service_account",
            Self::Authority(AuthorityError::BadRequest) => "bad_request",
            Self::Authority(_) => "authority",
            Self::Audit => "audit",
        }
    }

    fn status(&self) -> Status {
        let said = Chain(self).to_string();
        match self {
            // Not of the identity that it asks for: of all.
            Self::Caller(Refused::Forbidden(_)) => Status::failed_precondition(said),
            Self::Caller(refused) => refused.into(),
            Self::Rate(_) => Status::resource_exhausted(said),
            Self::Identity(_) | Self::TrustDomain(..) | Self::Authority(AuthorityError::BadRequest) => {
                Status::invalid_argument(said)
            }
            Self::NoPod { .. } | Self::NoAccount(_) | Self::Authority(AuthorityError::Refused { .. }) => {
                Status::permission_denied(said)
            }
            Self::Authority(_) | Self::Audit => Status::unavailable(said),
        }
    }
}

impl Certificates {
    /// Answers, and records it, also where the caller does not wait for it.
    async fn answer(
        self: Arc<Self>,
        request: Request<SignRequest>,
    ) -> Result<Response<SignResponse>, Status> {
        let answer = tokio::spawn(async move { self.recorded_answer(request).await });
        answer
            .await
            .unwrap_or_else(|_| Err(Status::internal("the call failed; the controller's log says why")))
    }

    async fn recorded_answer(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let missing = || Err(Refused::Unauthenticated("nobody showed a token".to_owned()));
        let Admission(admission) =
            request.extensions().get::<Admission>().cloned().unwrap_or_else(|| Admission(missing()));
        let asked = request.into_inner();
        let (caller, outcome) = match admission {
            Ok(caller) => {
                let outcome = self.issue(&caller, &asked).await;
                (Some(caller), outcome)
            }
            Err(refused) => (None, Err(Denial::Caller(refused))),
        };
        let recorded = self.record(caller.as_ref(), &asked.identity, &outcome).await;
        let issued = match outcome {
            Ok(issued) if recorded => issued,
            Ok(_) => return Err(Denial::Audit.status()),
            Err(denial) => {
                if matches!(denial, Denial::Rate(_)) {
                    // The answer is what a flood waits for: late, it slows the flood down.
                    sleep(PAUSE).await;
                }
                return Err(denial.status());
            }
        };
        let chain = issued.chain.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Response::new(SignResponse { chain }))
    }

    async fn issue(&self, caller: &AgentCaller, asked: &SignRequest) -> Result<Issued, Denial> {
        if !lock(&self.flood).takes(&caller.node, Instant::now()) {
            return Err(Denial::Rate(caller.node.clone()));
        }
        let is_permitted = || permitted(caller, &asked.identity, &self.trust_domain, &self.known.snapshot());
        is_permitted()?;
        let Some(_turn) = self.shares.take(&caller.node).await else {
            return Err(Denial::Rate(caller.node.clone()));
        };
        let identity = is_permitted()?;
        let account = NamespacedName::new(identity.namespace().clone(), identity.service_account().clone());
        if !self.known.has_account(&account) {
            return Err(Denial::NoAccount(account));
        }
        let request = CertificateSigningRequestDer::from(asked.request.as_slice());
        let issued = self.authority.sign(&identity, &request, now(&self.clock)).await;
        // The pod may have gone while somebody else signed.
        is_permitted().and(issued.map_err(Denial::Authority))
    }

    /// Records an outcome; says whether that worked.
    async fn record(
        &self,
        caller: Option<&AgentCaller>,
        asked: &str,
        outcome: &Result<Issued, Denial>,
    ) -> bool {
        let denial = outcome.as_ref().err();
        self.metrics.certificate(denial.map_or("issued", Denial::code));
        let mut more = 0;
        if let Some(Denial::Rate(node)) = denial {
            match lock(&self.flood).is_said(node, Instant::now()) {
                Some(silent) => more = silent,
                None => return true,
            }
        }
        let issued = outcome.as_ref().ok();
        let record = Record {
            event: if issued.is_some() { "certificate_issued" } else { "certificate_refused" },
            node: caller.map(|caller| caller.node.to_string()),
            agent_pod: caller.map(|caller| caller.pod_uid.to_string()),
            identity: asked.chars().take(MAX_SAID).collect(),
            reason: denial.map(Denial::code).unwrap_or_default(),
            message: denial.map(|denial| Chain(denial).to_string()).unwrap_or_default(),
            serial: issued.and_then(|issued| serial_of(&issued.chain)),
            not_after: issued.map(|issued| issued.not_after),
            more,
            ..Record::default()
        };
        self.audit.record(record).await.is_ok()
    }
}

impl CertificateService for Certificates {
    fn sign(
        self: Arc<Self>,
        request: Request<SignRequest>,
    ) -> Answer<Result<Response<SignResponse>, Status>> {
        Box::pin(async move { self.answer(request).await })
    }
}

/// PURE. The identity, if the caller may have a certificate for it: its own, or that of an enrolled pod that lives on
/// its node. A pod that has run to its end is in no snapshot.
fn permitted(
    caller: &AgentCaller,
    asked: &str,
    trust_domain: &TrustDomain,
    snapshot: &Snapshot,
) -> Result<SpiffeId, Denial> {
    let identity: SpiffeId = asked.parse().map_err(|error| Denial::Identity(format!("{error}")))?;
    if identity.trust_domain() != trust_domain {
        return Err(Denial::TrustDomain(identity, trust_domain.clone()));
    }
    let mut pods = snapshot.workloads_on(&caller.node);
    let is_here = pods.any(|pod| pod.identity == identity && pod.enrolment == Enrolment::Enabled);
    if is_here || identity == caller.identity {
        return Ok(identity);
    }
    Err(Denial::NoPod { identity, node: caller.node.clone() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
