//! Why a stream was reset and why a tunnel goes away: codes on the wire, words in logs and metrics.

macro_rules! reasons {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $code:literal, $word:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$inner])* $variant,)*
            /// A code that a newer peer knows; treated like any other end.
            Unknown(u16),
        }

        impl $name {
            /// Every reason that this version names.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code on the wire.
            pub fn code(self) -> u16 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Unknown(code) => code,
                }
            }

            /// The reason that a code stands for.
            pub fn from_code(code: u16) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }

            /// The stable word for logs and metrics.
            pub fn reason(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Unknown(_) => "unknown",
                }
            }
        }
    };
}

reasons! {
    /// Why a stream ended without its two FINs.
    ResetReason {
        /// The application on the sender's side closed or reset its connection.
        Cancelled = 1, "cancelled";
        /// Policy does not permit the stream, or no longer does.
        Denied = 2, "denied";
        /// The application refused the connection.
        ConnectRefused = 3, "connect_refused";
        /// The application's address cannot be reached.
        Unreachable = 4, "unreachable";
        /// The application did not answer the connect in time.
        ConnectTimedOut = 5, "connect_timed_out";
        /// Nothing moved for longer than the idle deadline.
        IdleTimedOut = 6, "idle_timed_out";
        /// A limit of the sender is reached.
        Overloaded = 7, "overloaded";
        /// The sender is going away and takes no new stream.
        Draining = 8, "draining";
        /// The stream's bytes are not what OPEN announced.
        BadMessage = 9, "bad_message";
        /// The kind of stream is not served for this destination.
        WrongKind = 10, "wrong_kind";
        /// The dialled address is not one that the sender answers for.
        WrongDestination = 11, "wrong_destination";
        /// A fault of the sender's own.
        Internal = 12, "internal";
        /// The time the sender allows for one exchange is over.
        DeadlineExceeded = 13, "deadline_exceeded";
    }
}

reasons! {
    /// Why a tunnel takes no new streams.
    GoAwayReason {
        /// The sender stops or restarts.
        Draining = 1, "draining";
        /// The tunnel is as old as tunnels get.
        MaxAge = 2, "max_age";
        /// Nothing used it for long.
        Idle = 3, "idle";
        /// The receiver broke a rule of this document; the tunnel ends at once.
        Violation = 4, "violation";
        /// The sender's certificate is about to expire, or the receiver's identity is no longer accepted.
        Identity = 5, "identity";
        /// The receiver costs the sender more than it may.
        Overloaded = 6, "overloaded";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_its_reason() {
        for code in 0..=200 {
            assert_eq!(ResetReason::from_code(code).code(), code);
            assert_eq!(GoAwayReason::from_code(code).code(), code);
        }
        for reason in ResetReason::ALL {
            assert_eq!(ResetReason::from_code(reason.code()), *reason);
        }
    }
}
