//! Closed sets of label values: each value is a word that dashboards know.

use mesh_common::model::Direction;

/// A label whose values are known beforehand.
macro_rules! closed_label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The value as it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

closed_label! {
    /// Label `reporter`: which side's daemon counted.
    Reporter {
        /// The caller's.
        Source = "source",
        /// The called side's.
        Destination = "destination",
    }
}

closed_label! {
    /// Label `server_name`: what the application's own TLS asks for. Names themselves are their clients' to choose.
    AskedName {
        /// It asks for none, or it is no TLS.
        None = "none",
        /// The Service that was dialled.
        Service = "service",
        /// Another name.
        Other = "other",
        /// It could not be told.
        Unknown = "unknown",
    }
}

closed_label! {
    /// Label `request_protocol`.
    RequestProtocol {
        /// Opaque bytes.
        Tcp = "tcp",
        /// HTTP/1.1 and HTTP/2.
        Http = "http",
        /// gRPC.
        Grpc = "grpc",
    }
}

closed_label! {
    /// Label `connection_security_policy`.
    SecurityPolicy {
        /// Both sides proved who they are; between two pods of one agent, in process.
        MutualTls = "mutual_tls",
        /// In the clear.
        None = "none",
        /// The reporter is the source and the destination is outside the mesh.
        Unknown = "unknown",
    }
}

closed_label! {
    /// Label `response_flags`: how a connection or request ended, in Envoy's and ztunnel's words.
    ResponseFlags {
        /// Nothing special.
        None = "-",
        /// Policy refused it.
        Denied = "DENY",
        /// The destination could not be connected to.
        ConnectFailure = "CONNECT",
        /// The TLS handshake failed.
        TlsFailure = "TLS_FAILURE",
        /// The peer is not who it should be, or there is no certificate to show.
        IdentityError = "IDENTITY_ERROR",
        /// No healthy endpoint.
        NoHealthyUpstream = "UH",
        /// The connection to the endpoint failed, or ended before the response did.
        UpstreamFailure = "UF",
        /// A limit was reached.
        UpstreamOverflow = "UO",
        /// No answer in time.
        UpstreamTimeout = "UT",
        /// The caller went away.
        DownstreamDisconnect = "DC",
        /// The caller's message was refused.
        DownstreamProtocolError = "DPE",
    }
}

closed_label! {
    /// Field `protocol` of an access record.
    RecordedProtocol {
        /// Opaque bytes.
        Tcp = "tcp",
        /// HTTP/1.1.
        Http1 = "http/1.1",
        /// HTTP/2.
        Http2 = "http/2",
        /// gRPC.
        Grpc = "grpc",
    }
}

closed_label! {
    /// Field `verdict` of an access record.
    Verdict {
        /// Policy let it through.
        Allowed = "allowed",
        /// Policy let it through, and a policy that refuses nothing found something: see field `audit`.
        Audited = "audited",
        /// Policy refused it.
        Denied = "denied",
        /// It ended before policy was asked.
        Undecided = "undecided",
    }
}

closed_label! {
    /// Label `effect`: what a policy that refuses nothing found.
    AuditEffect {
        /// In force, it would have refused.
        WouldDeny = "would_deny",
        /// A rule of an AUDIT policy matches.
        Matched = "matched",
    }
}

impl From<Direction> for Reporter {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Outbound => Self::Source,
            Direction::Inbound => Self::Destination,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_flags_share_a_word() {
        let words: std::collections::BTreeSet<&str> =
            ResponseFlags::ALL.iter().map(|flags| flags.as_str()).collect();
        assert_eq!(words.len(), ResponseFlags::ALL.len());
    }
}
