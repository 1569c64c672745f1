//! Looks on while the first bytes of an opaque connection pass: nothing waits for it, nothing is kept of what it saw
//! once it is certain.

use mesh_common::model::{Detector, Found};

use super::conductor::Conductor;
use super::connection::Kind;
use super::engine::Engine;
use super::slots::Key;

/// What is known of the first bytes of one connection.
#[derive(Debug, Default)]
pub(in crate::transport) enum Watch {
    /// Nobody asks, or it was told.
    #[default]
    Off,
    /// Not enough has passed.
    On(Box<Detector>),
    /// To be told.
    Found(Box<Found>),
}

impl Watch {
    pub(super) fn begin(wanted: bool) -> Self {
        if wanted { Self::On(Box::default()) } else { Self::Off }
    }

    /// The client said this.
    pub(in crate::transport) fn client_said<'a>(&mut self, mut pieces: impl Iterator<Item = &'a [u8]>) {
        if let Self::On(detector) = self
            && let Some(found) = pieces.find_map(|piece| detector.client_said(piece))
        {
            *self = Self::Found(Box::new(found));
        }
    }

    /// The server said something.
    pub(in crate::transport) fn server_said(&mut self) {
        if let Self::On(detector) = self {
            *self = Self::Found(Box::new(detector.server_said()));
        }
    }

    /// Whether something is to be told.
    pub(super) fn has_found(&self) -> bool {
        matches!(self, Self::Found(_))
    }

    fn take(&mut self) -> Option<Box<Found>> {
        match std::mem::take(self) {
            Self::Found(found) => Some(found),
            waiting => {
                *self = waiting;
                None
            }
        }
    }
}

impl<C: Conductor> Engine<C> {
    /// Tells the conductor what a connection turned out to speak, once.
    pub(super) fn tell_found(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let watch = match &mut connection.kind {
            Kind::Pump(pump) => pump.watch(),
            Kind::Joined(joined) => joined.watch(),
            Kind::Http(_) | Kind::Look(_) => return,
        };
        if let Some(found) = watch.take() {
            self.conductor.found(&mut connection.record, &found);
        }
    }
}
