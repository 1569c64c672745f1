//! Who is meant: the caller and the called of a question, found among what is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mesh_common::model::{Enrolment, NamespacedName, SpiffeId, Workload};
use mesh_common::snapshot::{ServiceRecord, Snapshot};

/// Stands for an address outside the mesh (RFC 5737, RFC 3849).
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// Names that are listed of those that are known.
const LISTED: usize = 12;
/// Endpoints of a Service that are asked about.
pub(super) const MAX_ENDPOINTS: usize = 100;

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Calling {
    pub(super) pod: Option<Arc<Workload>>,
    pub(super) identity: Option<SpiffeId>,
    /// IPv4 and IPv6, as far as it has them.
    pub(super) addresses: [Option<IpAddr>; 2],
    pub(super) notes: Vec<String>,
}

/// Whom it reaches.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `None`: no pod is known there.
    pub(super) pod: Option<Arc<Workload>>,
    /// The pod's address and port.
    pub(super) address: SocketAddr,
    /// What the caller dials.
    pub(super) dialled: SocketAddr,
    /// The Service, as `NAMESPACE/NAME:PORT`.
    pub(super) service: Option<String>,
    /// What a request names as its host where nothing is said.
    pub(super) host: String,
}

impl Calling {
    /// The address of the family of another.
    pub(super) fn address(&self, like: SocketAddr) -> Option<IpAddr> {
        self.addresses[usize::from(like.is_ipv6())]
    }
}

/// Finds the caller.
pub(super) fn caller(
    snapshot: &Snapshot,
    from: Option<&str>,
    identity: Option<&str>,
) -> Result<Calling, String> {
    let given = identity.map(str::parse::<SpiffeId>).transpose();
    let given = given.map_err(|error| format!("--from-identity: {error}"))?;
    let mut calling = match (from, &given) {
        (Some(from), _) => named(snapshot, from)?,
        (None, Some(identity)) => anyone_of(snapshot, identity),
        (None, None) => return Err("--from: say who calls".to_owned()),
    };
    if let Some(identity) = given {
        calling.identity = Some(identity);
    }
    Ok(calling)
}

fn named(snapshot: &Snapshot, from: &str) -> Result<Calling, String> {
    if from == "outside" {
        let note = format!(
            "the caller has no identity and the address {}, which stands for any outside the mesh; for another give \
             --from ADDRESS",
            OUTSIDE[0]
        );
        return Ok(Calling { pod: None, identity: None, addresses: OUTSIDE.map(Some), notes: vec![note] });
    }
    if let Ok(address) = from.parse::<IpAddr>() {
        return Ok(match snapshot.workload_at(address) {
            Some(pod) => of_pod(pod),
            None => {
                Calling { pod: None, identity: None, addresses: by_family(&[address]), notes: Vec::new() }
            }
        });
    }
    let name = namespaced(from.strip_prefix("pod/").unwrap_or(from), "--from")?;
    let pod = snapshot.workloads().find(|pod| pod.name == name);
    let all = || snapshot.workloads().map(|pod| &pod.name);
    pod.map(of_pod).ok_or_else(|| unknown("--from: no pod", &name, all()))
}

fn of_pod(pod: &Arc<Workload>) -> Calling {
    let is_enrolled = pod.enrolment == Enrolment::Enabled;
    let mut notes = Vec::new();
    if !is_enrolled {
        notes.push(format!("{} is not enrolled: it calls in the clear and proves no identity", pod.name));
    }
    let identity = is_enrolled.then(|| pod.identity.clone());
    Calling { pod: Some(Arc::clone(pod)), identity, addresses: by_family(&pod.addresses), notes }
}

/// Somebody who proves an identity: a pod that has it, if one is known.
fn anyone_of(snapshot: &Snapshot, identity: &SpiffeId) -> Calling {
    let mut pods: Vec<_> = snapshot.workloads().filter(|pod| pod.identity == *identity).collect();
    pods.sort_by_key(|pod| &pod.name);
    match pods.first() {
        Some(pod) => {
            let note = format!("the address is that of {}, which has the identity", pod.name);
            Calling { notes: vec![note], ..of_pod(pod) }
        }
        None => {
            let note = format!(
                "no pod that is known has the identity: the caller has the address {}, for another give --from ADDRESS",
                OUTSIDE[0]
            );
            Calling { pod: None, identity: None, addresses: OUTSIDE.map(Some), notes: vec![note] }
        }
    }
}

/// Finds whom is called: one, or each endpoint of a Service.
pub(super) fn called(snapshot: &Snapshot, to: &str, calling: &Calling) -> Result<Vec<Target>, String> {
    let (kind, rest) = match to.split_once('/') {
        Some(("pod", rest)) if rest.contains('/') => (Some("pod"), rest),
        Some(("service" | "svc", rest)) if rest.contains('/') => (Some("service"), rest),
        _ => (None, to),
    };
    let Some((name, port)) = rest.rsplit_once(':') else {
        return Err(format!("--to: {to:?} names no port; write it as in shop/web:8080"));
    };
    let name = namespaced(name, "--to")?;
    let pod = snapshot.workloads().find(|pod| pod.name == name).filter(|_| kind != Some("service"));
    let service = snapshot.service(&name).filter(|_| kind != Some("pod"));
    match (pod, service) {
        (None, None) => {
            let names = snapshot
                .workloads()
                .map(|pod| &pod.name)
                .chain(snapshot.services().map(|known| &known.service.name));
            Err(unknown("--to: no pod or Service", &name, names))
        }
        (Some(pod), None) => Ok(vec![at_pod(pod, port, calling)?]),
        (None, Some(service)) => at_service(snapshot, service, port, calling),
        // Both are called so: the Service, if it has the port.
        (Some(pod), Some(service)) => match service_port(service, port) {
            Some(_) => at_service(snapshot, service, port, calling),
            None => Ok(vec![at_pod(pod, port, calling)?]),
        },
    }
}

fn at_pod(pod: &Arc<Workload>, port: &str, calling: &Calling) -> Result<Target, String> {
    let ports = &pod.details.named_ports;
    let by_name = || ports.iter().find(|(name, _)| **name == *port).map(|(_, number)| *number);
    let number = port.parse().ok().filter(|port| *port != 0).or_else(by_name).ok_or_else(|| {
        let known: Vec<String> = ports.iter().map(|(name, number)| format!("{name} ({number})")).collect();
        format!("--to: {port:?} is no port of {}; it has {}", pod.name, list(known))
    })?;
    let mut addresses = pod.addresses.iter().map(|address| SocketAddr::new(*address, number));
    let address = addresses.clone().find(|address| calling.address(*address).is_some());
    let address = address.or_else(|| addresses.next());
    let address = address.ok_or_else(|| format!("--to: {} has no address", pod.name))?;
    Ok(Target {
        pod: Some(Arc::clone(pod)),
        address,
        dialled: address,
        service: None,
        host: address.to_string(),
    })
}

fn service_port(record: &ServiceRecord, port: &str) -> Option<usize> {
    let number = port.parse::<u16>().ok();
    record
        .service
        .ports
        .iter()
        .position(|known| Some(known.port) == number || *known.name == *port && !port.is_empty())
}

fn at_service(
    snapshot: &Snapshot,
    record: &ServiceRecord,
    port: &str,
    calling: &Calling,
) -> Result<Vec<Target>, String> {
    let service = &record.service;
    let Some(index) = service_port(record, port) else {
        let known =
            service.ports.iter().map(|known| format!("{} {}", known.port, known.name).trim().to_owned());
        return Err(format!(
            "--to: {port:?} is no port of Service {}; it has {}",
            service.name,
            list(known.collect())
        ));
    };
    let number = service.ports[index].port;
    let mut targets = Vec::new();
    for endpoint in record.endpoints_of(index) {
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        if calling.address(address).is_none() {
            continue;
        }
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4();
        let dialled = service.cluster_ips.iter().find(same_family).map(|ip| SocketAddr::new(*ip, number));
        let pod = endpoint.workload.as_ref().and_then(|uid| snapshot.workload(uid));
        // An endpoint has one address of each family: once is enough.
        if targets.iter().any(|known: &Target| known.pod.is_some() && known.pod.as_ref() == pod) {
            continue;
        }
        targets.push(Target {
            pod: pod.cloned(),
            address,
            dialled: dialled.unwrap_or(address),
            service: Some(format!("{}:{number}", service.name)),
            host: service.host.to_string(),
        });
    }
    if targets.is_empty() {
        return Err(format!("--to: no endpoint is known of Service {}, port {number}", service.name));
    }
    targets.truncate(MAX_ENDPOINTS);
    Ok(targets)
}

fn by_family(addresses: &[IpAddr]) -> [Option<IpAddr>; 2] {
    let first = |is_v4: bool| addresses.iter().find(|address| address.is_ipv4() == is_v4).copied();
    [first(true), first(false)]
}

fn namespaced(text: &str, flag: &str) -> Result<NamespacedName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(NamespacedName::new(namespace, name))
        }
        _ => Err(format!("{flag}: {text:?} is no name; write it with its namespace, as in shop/web")),
    }
}

/// What is said of a name that nobody has: names that are alike, then some of those in its namespace.
fn unknown<'a>(what: &str, name: &NamespacedName, all: impl Iterator<Item = &'a NamespacedName>) -> String {
    let wanted = name.to_string();
    let mut known: Vec<String> = all.map(ToString::to_string).collect();
    known.sort();
    known.dedup();
    let is_alike = |known: &&String| strsim::osa_distance(known, &wanted) <= (wanted.len() / 4).min(3);
    let mut alike: Vec<String> = known.iter().filter(is_alike).cloned().collect();
    if !alike.is_empty() {
        alike.truncate(LISTED);
        return format!("{what} {wanted} is known; is {} meant?", alike.join(" or "));
    }
    let namespace = format!("{}/", name.namespace);
    let here: Vec<String> = known.iter().filter(|known| known.starts_with(&namespace)).cloned().collect();
    let (here, of) =
        if here.is_empty() { (known, String::new()) } else { (here, format!(" in {}", name.namespace)) };
    format!("{what} {wanted} is known; known{of}: {}", list(here))
}

fn list(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}
