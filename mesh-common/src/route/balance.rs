//! Which of the eligible endpoints.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use foldhash::quality::FixedState;

use super::eligible::Eligible;
use crate::model::Endpoint;

/// How many endpoints are compared by their connections; of more, chance names where to begin.
const MOST_COMPARED: usize = 32;

/// What chance and load have to say.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// A number drawn evenly from all 64-bit numbers.
    pub random: u64,
    /// How busy endpoints are, as this agent sees it.
    pub load: &'a dyn Load,
    /// Endpoints that refused just now.
    pub tried: &'a [SocketAddr],
}

/// How busy endpoints are.
pub trait Load {
    /// Open connections to an endpoint.
    fn connections(&self, endpoint: SocketAddr) -> u32;
    /// Requests to an endpoint that are not answered yet.
    fn requests(&self, endpoint: SocketAddr) -> u32;
}

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balance {
    LeastConnections,
    LeastRequestOfTwo,
}

impl Balance {
    pub(super) fn choose<'a>(self, eligible: &Eligible<'a>, choice: &Choice<'_>) -> Option<&'a Endpoint> {
        let count = eligible.count();
        if count < 2 {
            return eligible.nth(0);
        }
        match self {
            Self::LeastConnections => {
                let rotated = || eligible.iter().chain(eligible.iter()).skip(scale(choice.random, count));
                let compared = rotated().take(count.min(MOST_COMPARED));
                compared.min_by_key(|endpoint| choice.load.connections(address(endpoint)))
            }
            Self::LeastRequestOfTwo => {
                let first = scale(choice.random, count);
                let second = scale(choice.random << 32, count - 1);
                let second = if second < first { second } else { second + 1 };
                let pair = [eligible.nth(first)?, eligible.nth(second)?];
                pair.into_iter().min_by_key(|endpoint| choice.load.requests(address(endpoint)))
            }
        }
    }
}

/// `sessionAffinity: ClientIP`: the endpoint with the highest hash of client and endpoint (rendezvous hashing). A
/// client keeps its endpoint as long as it is eligible, whichever others come and go and whichever agent asks. Nothing
/// is remembered, so there is nothing that `timeoutSeconds` could forget.
pub(super) fn by_client<'a>(
    eligible: impl Iterator<Item = &'a Endpoint>,
    client: IpAddr,
) -> Option<&'a Endpoint> {
    let hasher = FixedState::with_seed(0);
    eligible.max_by_key(|endpoint| hasher.hash_one((client, endpoint.address, endpoint.port)))
}

fn address(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.address, endpoint.port)
}

/// A number below `count`, from the upper half of a random one.
fn scale(random: u64, count: usize) -> usize {
    (((random >> 32) * count as u64) >> 32) as usize
}
