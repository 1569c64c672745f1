//! What is attacked, and what limit stands against it.

use mesh_test_harness::attacks::Attack;

/// One attack of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As the table has it.
    pub name: &'static str,
    pub attack: Attack,
    pub target: Target,
    /// Nothing for what is no attack.
    pub limit: Option<Limit>,
}

/// Whom the attacker asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Server,
    /// A hostile server: it is the attacker too.
    TurnsAway,
}

/// What one attacker may make a daemon hold by its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// MB (10^6 bytes).
    pub megabytes: f64,
    /// Which setting says so.
    pub of: &'static str,
}

/// Heads of as many requests as a connection may have open, each as long as one may be.
const HEADS: Option<Limit> =
    Some(Limit { megabytes: 8.4, of: "256 streams (max_concurrent_streams) x 32 KiB (--max-header-bytes)" });
/// What callers may send before somebody takes it.
const WINDOW: Option<Limit> = Some(Limit { megabytes: 16.8, of: "16 MiB (connection_window)" });
/// Eight connections.
const SENT: Option<Limit> =
    Some(Limit { megabytes: 52.4, of: "8 connections x 100 streams x 64 KiB (send_buffer)" });
/// As the figure of `docs/performance.md`: 8 kB for an idle HTTP connection, with what is peeked at.
const CONNECTIONS: Option<Limit> =
    Some(Limit { megabytes: 160.0, of: "20,000 (--max-connections-per-pod) x 8 kB" });

const fn row(name: &'static str, attack: Attack, limit: Option<Limit>) -> Row {
    Row { name, attack, target: Target::Server, limit }
}

/// All rows, in their order.
pub const ROWS: [Row; 23] = [
    row("control: a neighbour computes", Attack::Burn, None),
    row("control: ordinary requests", Attack::Requests, None),
    row("rapid reset", Attack::RapidReset, HEADS),
    row("rapid reset, once read", Attack::LateReset, HEADS),
    row("MadeYouReset", Attack::MadeYouReset, HEADS),
    row("CONTINUATION flood", Attack::Continuation, HEADS),
    row("error-reset queue", Attack::ErrorResetQueue, HEADS),
    row("empty DATA flood", Attack::EmptyData, WINDOW),
    row("HPACK bomb", Attack::HpackBomb, HEADS),
    row("cookie crumbs", Attack::CookieCrumbs, HEADS),
    row("SETTINGS flood", Attack::SettingsFlood, WINDOW),
    row("PING flood", Attack::PingFlood, WINDOW),
    row("PRIORITY flood", Attack::PriorityFlood, WINDOW),
    row("WINDOW_UPDATE flood", Attack::WindowUpdateFlood, WINDOW),
    row("zero window", Attack::ZeroWindow, SENT),
    row("10,000 trailer fields", Attack::ManyTrailers, HEADS),
    row("forbidden trailers", Attack::ForbiddenTrailers, HEADS),
    Row {
        name: "server: no stream, GOAWAY",
        attack: Attack::Requests,
        target: Target::TurnsAway,
        limit: HEADS,
    },
    row("stream ids used up", Attack::StreamIds, HEADS),
    row("GOAWAY in a request", Attack::GoawayInRequest, HEADS),
    row("slow heads", Attack::SlowHeads, CONNECTIONS),
    row("slow bodies", Attack::SlowBodies, WINDOW),
    row("many connections", Attack::ManyConnections, CONNECTIONS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_has_its_row() {
        for attack in Attack::all() {
            assert!(ROWS.iter().any(|row| row.attack == *attack), "{}", attack.name());
        }
    }
}
