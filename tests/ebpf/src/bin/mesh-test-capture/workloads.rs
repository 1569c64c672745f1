//! Pods as lines of text, read into what the daemon's configuration would make of their objects.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use mesh_common::model::{
    Enrolment, NamespacedName, PodDetails, SpiffeId, TrustDomain, Workload, WorkloadUid,
};

/// An enrolled pod, with `[exclude-ports=P,...] [exclude-cidrs=C,...] [exclude-inbound=P,...] [probes=P,...]`.
pub(crate) fn described(name: &str, path: &str, addresses: &str, facts: &[&str]) -> Result<Workload> {
    let mut workload = workload(name, path, addresses)?;
    let details = Arc::make_mut(&mut workload.details);
    let exclusions = &mut details.exclusions;
    for fact in facts {
        match fact.split_once('=') {
            Some(("exclude-ports", ports)) => exclusions.outbound_ports = list(ports)?.into(),
            Some(("exclude-cidrs", ranges)) => exclusions.outbound_cidrs = list(ranges)?,
            Some(("exclude-inbound", ports)) => exclusions.inbound_ports = list(ports)?.into(),
            Some(("probes", ports)) => details.probe_ports = list(ports)?.into(),
            _ => bail!("no such fact: {fact}"),
        }
    }
    Ok(workload)
}

/// A pod as `NAME:MODE:PATH:ADDRESS`, the address IPv4, or none; the path `-` leaves it to the cgroup named for `NAME`,
/// and `=UID` to that of a static pod.
pub(crate) fn named(text: &str) -> Result<Workload> {
    let parts: Vec<&str> = text.split(':').collect();
    let [name, mode, path, address] = parts.as_slice() else {
        bail!("not a pod: {text}");
    };
    let enrolment = match *mode {
        "enabled" => Enrolment::Enabled,
        "disabled" => Enrolment::Disabled,
        _ => bail!("not a mode: {mode}"),
    };
    Ok(Workload { enrolment, ..workload(name, path, address)? })
}

fn workload(name: &str, path: &str, addresses: &str) -> Result<Workload> {
    let identity = SpiffeId::new(&TrustDomain::parse("cluster.local")?, "shop", name)?;
    let static_uid = path.strip_prefix('=').map(|uid| WorkloadUid(uid.into()));
    let netns = (path != "-" && static_uid.is_none()).then(|| path.into());
    Ok(Workload {
        addresses: list(addresses)?.into(),
        details: Arc::new(PodDetails { netns, static_uid, ..PodDetails::default() }),
        ..Workload::new(NamespacedName::new("shop", name), "node-a", identity)
    })
}

fn list<T: FromStr>(text: &str) -> Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(|item| item.parse().with_context(|| format!("read {item}")))
        .collect()
}
