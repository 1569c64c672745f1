//! What one core's engine counts. Written by its own thread only, read by anyone without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Totals since the start, and levels where it says "now".
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// Every counter with its name.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name.read()),)*].into_iter()
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
    /// Connections accepted from listeners.
    accepted,
    /// Connections refused by the conductor: policy, limits, no original destination.
    refused_by_conductor,
    /// Connections refused because descriptors are used up.
    refused_descriptors,
    /// Connections and tunnels refused because too many handshakes are under way.
    refused_handshakes,
    /// Streams refused before the conductor was asked.
    refused_streams,
    /// Connections now.
    connections,
    /// Tunnels now, in either role.
    tunnels,
    /// Handshakes and detections under way now.
    pending_handshakes,
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
