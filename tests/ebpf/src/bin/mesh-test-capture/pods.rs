//! Pods that are held or captured, with their listeners.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use mesh_common::model::Direction;
use mesh_common::model::workload::Exclusions;
use mesh_node::capture::{Family, Listener, Namespace};
use mesh_node::kernel::{Kernel, PodFacts, PodListeners};

use crate::relay::{self, Relay};

pub(crate) struct Pod {
    pub namespace: Namespace,
    pub facts: PodFacts,
    listeners: Vec<Arc<Listener>>,
    stopped: Arc<AtomicBool>,
}

/// Reads `PATH ADDRESS,... [exclude-ports=P,...] [exclude-cidrs=C,...] [exclude-inbound=P,...] [probes=P,...]`.
pub(crate) fn parse_pod(path: &str, addresses: &str, extra: &[&str]) -> Result<Pod> {
    let addresses = list(addresses)?;
    let mut facts = PodFacts { addresses, exclusions: Exclusions::default(), probe_ports: Vec::new() };
    for word in extra {
        match word.split_once('=') {
            Some(("exclude-ports", ports)) => facts.exclusions.outbound_ports = list(ports)?.into(),
            Some(("exclude-cidrs", ranges)) => facts.exclusions.outbound_cidrs = list(ranges)?,
            Some(("exclude-inbound", ports)) => facts.exclusions.inbound_ports = list(ports)?.into(),
            Some(("probes", ports)) => facts.probe_ports = list(ports)?,
            _ => bail!("no such fact: {word}"),
        }
    }
    let namespace = Namespace::open(Path::new(path))?;
    Ok(Pod { namespace, facts, listeners: Vec::new(), stopped: Arc::default() })
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.split(',').map(|item| item.parse().with_context(|| format!("read {item}"))).collect()
}

impl Pod {
    pub(crate) fn capture(&mut self, kernel: &mut Kernel) -> Result<()> {
        for direction in [Direction::Outbound, Direction::Inbound] {
            for family in [Family::V4, Family::V6] {
                self.listeners.extend(Listener::open(&self.namespace, direction, family)?.map(Arc::new));
            }
        }
        let socket = |direction, family| {
            let wanted =
                |listener: &&Arc<Listener>| listener.direction() == direction && listener.family() == family;
            self.listeners.iter().find(wanted).map(|listener| listener.as_fd())
        };
        let listeners = PodListeners {
            outbound_v4: socket(Direction::Outbound, Family::V4),
            outbound_v6: socket(Direction::Outbound, Family::V6),
            inbound_v4: socket(Direction::Inbound, Family::V4),
            inbound_v6: socket(Direction::Inbound, Family::V6),
        };
        kernel.capture(self.namespace.cookie(), &self.facts, &listeners)?;
        for listener in &self.listeners {
            relay::start(Relay {
                namespace: self.namespace.clone(),
                listener: Arc::clone(listener),
                addresses: self.facts.addresses.clone(),
                original_dsts: kernel.original_dsts(),
                callers: kernel.callers(),
                stopped: Arc::clone(&self.stopped),
            });
        }
        Ok(())
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.listeners.iter().map(|listener| listener.port()).collect()
    }

    pub(crate) fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.listeners.clear();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop();
    }
}
