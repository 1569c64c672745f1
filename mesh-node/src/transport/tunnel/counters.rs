//! What one core's engine counts. Written by its own thread only, read by anyone without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::readout::{Readout, Sample};
use crate::telemetry::registry::Registry;

macro_rules! counters {
    (
        totals { $($(#[$total_doc:meta])* $total:ident,)* }
        levels { $($(#[$level_doc:meta])* $level:ident,)* }
    ) => {
        /// Totals since the start, and levels where it says "now".
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$total_doc])* pub $total: Counter,)*
            $($(#[$level_doc])* pub $level: Counter,)*
        }

        impl Counters {
            /// Every total with its name.
            pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($total), self.$total.read()),)*].into_iter()
            }
        }
    };
}

/// One number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(in crate::transport) fn add(&self, amount: u64) {
        // One writer: a plain store is enough, and cheaper than a locked addition.
        self.0.store(self.read().wrapping_add(amount), Ordering::Relaxed);
    }

    pub(in crate::transport) fn subtract(&self, amount: u64) {
        self.0.store(self.read().wrapping_sub(amount), Ordering::Relaxed);
    }
}

counters! {
    totals {
        /// Connections accepted from listeners.
        accepted,
        /// Connections given to another core, which had less to carry.
        given,
        /// Connections refused by the conductor: policy, limits, no original destination.
        refused_by_conductor,
        /// Connections refused because descriptors are used up.
        refused_descriptors,
        /// Connections and tunnels refused because too many handshakes are under way.
        refused_handshakes,
        /// Those of them whose source alone had too many.
        refused_handshakes_of_source,
        /// Streams refused before the conductor was asked.
        refused_streams,
        /// Tunnels that came up, as client.
        tunnels_opened,
        /// Tunnels that came up, as server.
        tunnels_accepted,
        /// Tunnels that ended with streams or before they were up.
        tunnels_lost,
        /// Streams opened.
        streams_opened,
        /// Streams accepted.
        streams_accepted,
        /// Connections that were tried at another endpoint.
        retries,
        /// Turns of the event loop.
        turns,
    }
    levels {
        /// Connections now.
        connections,
        /// Tunnels now, in either role.
        tunnels,
        /// Handshakes and detections under way now.
        pending_handshakes,
    }
}

/// Registers what the engines of all cores count; read at each scrape, summed over the cores.
///
/// # Errors
/// If `registry` has series of the same names already.
pub fn register_metrics(registry: &Registry, cores: Vec<Arc<Counters>>) -> Result<(), prometheus::Error> {
    let cores: Arc<[Arc<Counters>]> = cores.into();
    let counted = Arc::clone(&cores);
    let events = Readout::counter(
        "nodemesh_transport_events_total",
        "What the engines did and met, counted when it happened, by what it was.",
        "event",
        move || totals(&counted),
    )?;
    registry.register(Box::new(events))?;
    let register = |name: &str, help: &str, level: fn(&Counters) -> &Counter| {
        let counted = Arc::clone(&cores);
        let read = move || counted.iter().map(|core| level(core).read()).sum();
        registry.register(Box::new(Readout::gauge(name, help, read)?))
    };
    register(
        "nodemesh_transport_connections",
        "Connections that are carried now; one between two pods of this node is one.",
        |core| &core.connections,
    )?;
    register("nodemesh_transport_tunnels", "Tunnels that are open now, of either role.", |core| {
        &core.tunnels
    })?;
    register(
        "nodemesh_transport_pending_handshakes",
        "TLS handshakes and waits for first bytes that are under way now.",
        |core| &core.pending_handshakes,
    )
}

fn totals(cores: &[Arc<Counters>]) -> Vec<Sample> {
    let mut sums: Vec<Sample> =
        Counters::default().totals().map(|(event, _)| Sample { label: Some(event), value: 0 }).collect();
    for core in cores {
        for (sum, (_, value)) in sums.iter_mut().zip(core.totals()) {
            sum.value += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_are_summed() {
        let cores = vec![Arc::<Counters>::default(), Arc::default()];
        let registry = Registry::new();
        register_metrics(&registry, cores.clone()).unwrap();
        for core in &cores {
            core.retries.add(2);
            core.tunnels.add(3);
        }
        cores[0].tunnels.subtract(1);
        let text = registry.render().unwrap();
        assert!(text.contains("nodemesh_transport_events_total{event=\"retries\"} 4\n"), "{text}");
        assert!(text.contains("nodemesh_transport_events_total{event=\"accepted\"} 0\n"), "{text}");
        assert!(text.contains("nodemesh_transport_tunnels 5\n"), "{text}");
    }
}
