//! Why keys were not fetched. Whoever may read the object's status reads this: nothing of what a server sent is in it.

use std::io;
use std::net::IpAddr;

use mesh_common::token::KeySetError;

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// Not what a translation lets through.
    #[error("the URI is none that keys are fetched from")]
    Uri,
    #[error("the name does not resolve")]
    Name(#[source] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("{address} is {what}, which keys are not fetched from")]
    Forbidden { address: IpAddr, what: &'static str },
    #[error("connect to {address}")]
    Connect { address: IpAddr, source: io::Error },
    #[error("shake hands by TLS; --jwks-roots adds roots that servers are known by")]
    Tls(#[source] io::Error),
    #[error("ask the server")]
    Http(#[source] hyper::Error),
    #[error("answered {0}")]
    Status(u16),
    #[error("was redirected too often")]
    Redirects,
    #[error("was redirected to something that keys are not fetched from")]
    Location,
    #[error("was redirected from https to http")]
    LeavesTls,
    #[error("answered in a content coding, which was not asked for")]
    Coding,
    #[error("answered more than 1 MiB")]
    TooLarge,
    #[error("did not answer, or not to the end, within {after_ms} ms")]
    Late { after_ms: u128 },
    #[error("answered what is no key set")]
    NotText,
    #[error("the key set")]
    KeySet(#[source] KeySetError),
    #[error("the key set has no key that can be used")]
    NoKey,
}

impl FetchError {
    /// Every code, `fetched` besides.
    pub(super) const CODES: [&'static str; 6] =
        ["forbidden", "unreachable", "late", "refused", "too_large", "invalid"];

    /// The stable code for metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } | Self::Location | Self::LeavesTls | Self::Uri => "forbidden",
            Self::Name(_) | Self::NoAddress | Self::Connect { .. } | Self::Tls(_) | Self::Http(_) => {
                "unreachable"
            }
            Self::Late { .. } => "late",
            Self::Status(_) | Self::Redirects => "refused",
            Self::TooLarge => "too_large",
            Self::Coding | Self::NotText | Self::KeySet(_) | Self::NoKey => "invalid",
        }
    }
}
