//! HTTP/2 connections of a core: from their first bytes to the conductor of their requests, listed, rechecked and drained.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use mesh_common::model::{ConnectionFacts, Direction, PeerIdentity, Protocol, ServerName};
use mesh_common::policy;
use mesh_common::resolve;
use mesh_common::snapshot::Snapshot;
use tracing::debug;

use super::Proxy;
use super::decisions::Cause;
use super::http2::Http2Connection;
use super::inbound::{caller_pod, is_worth_reading};
use super::limits::Place;
use super::pod::PodHandle;
use super::record::{HttpConnection, Record, Subject};
use super::response::Rejection;
use super::unresolved::Between;
use crate::identity::Peer;
use crate::telemetry::chain::Chain;
use crate::transport::handshakes;
use crate::transport::http2::ServeError;
use crate::transport::tasks;
use crate::transport::tunnel::Speaks;
use crate::transport::{CloseReason, TunnelLoss, connect};

impl Proxy {
    /// Serves a connection that was decided and whose bytes turned out to be HTTP/2, or are to be translated to it.
    pub(super) fn serve_http2(&self, pod: &PodHandle, mut record: Record, socket: OwnedFd, speaks: Speaks) {
        let dialled = record.facts().original_dst;
        if let Some(http) = record.http() {
            http.turns_out_http2();
        }
        let connection = Http2Connection::enter(self.clone(), pod.clone(), record);
        let proxy = self.clone();
        tasks::spawn(async move {
            let server = &proxy.http2.server;
            let served = match speaks {
                Speaks::Http2 => server.serve(socket, connection.clone()).await,
                Speaks::Http1 => server.serve_http1(socket, dialled, connection.clone()).await,
            };
            proxy.http2_client_ended(&connection, served);
        });
    }

    /// Serves a connection of another agent, or of whoever shows a certificate and speaks HTTP/2 to `pod`.
    pub(super) fn serve_http2_peer(
        &self,
        pod: &PodHandle,
        socket: OwnedFd,
        peer: SocketAddr,
        local: SocketAddr,
        handshake: handshakes::Place,
    ) {
        let admitted = self.snapshot().workload(pod.uid()).cloned().ok_or(Rejection::PodGone);
        let admitted =
            admitted.and_then(|called| Ok((called, pod.places().take().map_err(Rejection::Limited)?)));
        let (called, place) = match admitted {
            Ok(admitted) => admitted,
            Err(rejection) => {
                let _ = self.refuse_unresolved(pod, Between::inbound(peer, local), &rejection);
                return connect::reset_on_close(&socket);
            }
        };
        let (proxy, pod) = (self.clone(), pod.clone());
        tasks::spawn(async move {
            let identity = called.identity.clone();
            let begin = |caller: Peer, service: Option<&str>| {
                let facts = ConnectionFacts {
                    direction: Direction::Inbound,
                    client: peer,
                    original_dst: local,
                    local: called,
                    peer: PeerIdentity::Verified(caller.identity),
                    certificate: Some(caller.certificate),
                    claimed_dst: None,
                    server_name: ServerName::Absent,
                };
                proxy.http2_arrived(&pod, place, facts, service)
            };
            let served = proxy.http2.server.serve_tls((socket, peer.ip()), &identity, handshake, begin).await;
            if let Some(reason) = served.as_ref().err().filter(|error| error.is_of_handshake()) {
                let why = (cause_of(reason), reason.reason());
                proxy.report_unresolved(&pod, Between::inbound(peer, local), why);
            }
            proxy.http2_ended(&pod, (peer, local), served);
        });
    }

    fn http2_arrived(
        &self,
        pod: &PodHandle,
        place: Place,
        facts: ConnectionFacts,
        service: Option<&str>,
    ) -> Option<Rc<Http2Connection>> {
        let snapshot = self.snapshot();
        self.ask_who_calls(pod, &snapshot, facts.client_ip(), true);
        let place = place.using(self.in_use(&facts));
        let facts = ConnectionFacts { claimed_dst: claimed(&snapshot, &facts, service), ..facts };
        let destination = resolve::destination(&snapshot, &facts).with_detected(Protocol::Http2);
        let denial = policy::authorize_connection(&snapshot, &facts, &destination).err();
        if let Some(denial) = denial.filter(|denial| !is_worth_reading(denial)) {
            let caller = caller_pod(&snapshot, &facts);
            let subject = Subject { facts: &facts, destination: &destination, caller };
            let _ = self.or_reject::<()>(Err(Rejection::Denied(denial)), subject);
            return None;
        }
        let mut http = HttpConnection::new(&snapshot, facts, destination);
        http.turns_out_http2();
        Some(Http2Connection::enter(self.clone(), pod.clone(), Record::of_requests(place, http)))
    }

    /// A connection in the clear is no tunnel: what breaks it is its client's doing.
    fn http2_client_ended(&self, connection: &Http2Connection, served: Result<(), ServeError>) {
        let Err(error) = served else { return };
        let pod = &connection.pod;
        match &error {
            ServeError::NotTaken | ServeError::SlowHead => self.shared.metrics.refused(error.reason()),
            error if error.is_violation() => {
                self.shared.metrics.refused("http2_violation");
                self.client_cut_off(pod, connection.record.borrow().facts());
            }
            _ => {}
        }
        debug!(pod = %pod.uid().0, reason = error.reason(), error = %Chain(&error), "HTTP/2 client lost");
    }

    fn http2_ended(
        &self,
        pod: &PodHandle,
        (peer, local): (SocketAddr, SocketAddr),
        served: Result<(), ServeError>,
    ) {
        let Err(error) = served else { return };
        self.shared.metrics.tunnel_lost(error.reason());
        if error.is_violation() {
            self.peer_cut_off(pod, peer, Some(local));
        }
        debug!(pod = %pod.uid().0, reason = error.reason(), error = %Chain(&error), "HTTP/2 connection lost");
    }

    /// What is known of each open connection, and since when it is.
    pub fn each_http2(&self, mut see: impl FnMut(&Record, Duration)) {
        for connection in self.http2.connections() {
            see(&connection.record.borrow(), connection.began.elapsed());
        }
    }

    /// Decides again what is open. For when the tables have changed.
    pub fn recheck_http2(&self) {
        let snapshot = self.snapshot();
        for connection in self.http2.connections() {
            connection.recheck(&snapshot);
        }
    }

    /// Ends the connections of peers that nobody vouches for any more.
    pub fn recheck_http2_peers(&self) {
        self.http2.server.recheck_peers();
    }

    /// Every caller is told to go; what is open goes on.
    pub fn drain_http2(&self) {
        self.http2.connections().iter().for_each(|connection| connection.leave.notify_one());
    }
}

/// What refused a connection before anybody was asked about it, if it was refused.
fn cause_of(error: &ServeError) -> Option<Cause> {
    let loss = match error {
        ServeError::TooMany => TunnelLoss::TooMany,
        ServeError::NoIdentity(_) => TunnelLoss::NoCertificate,
        ServeError::Handshake(_) => TunnelLoss::Handshake,
        ServeError::HandshakeTimeout => TunnelLoss::HandshakeTimedOut,
        _ => return None,
    };
    Cause::of(CloseReason::TunnelLost(loss))
}

/// The Service address that stands for the name in SNI: one of those that have the endpoint, else nothing. A hint for
/// metrics and for which of several declarations of the port holds.
fn claimed(snapshot: &Snapshot, facts: &ConnectionFacts, service: Option<&str>) -> Option<SocketAddr> {
    let name = service?;
    let membership =
        snapshot.memberships(facts.original_dst).iter().find(|member| *member.service.host == *name)?;
    let address = membership.service.cluster_ips.first()?;
    Some(SocketAddr::new(*address, membership.port().port))
}
