//! What a program decided about one socket, and why: the reasons that are counted.

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $reason:literal;)+) => {
        /// What a program decided about one socket, and why.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Verdict {
            $($(#[doc = $doc])+ $name = $code,)+
        }

        impl Verdict {
            /// Every verdict.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The verdict of a code, or `None` for a code of another version.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The stable name of the reason: metric label and log field.
            pub const fn reason(self) -> &'static str {
                match self {
                    $(Self::$name => $reason,)+
                }
            }
        }
    };
}

verdicts! {
    /// connect: sent to the daemon.
    Captured = 0, "captured";
    /// connect: not TCP.
    PassedNotTcp = 1, "not_tcp";
    /// connect: a socket of the agent's own cgroup.
    PassedAgent = 2, "agent";
    /// connect: the host's network namespace, which is never enrolled.
    PassedHostNamespace = 3, "host_namespace";
    /// connect: the pod is not known yet, and `--unknown-pods=pass`.
    PassedUnknownPod = 4, "unknown_pod";
    /// connect: the pod is known as not enrolled.
    PassedNotEnrolled = 5, "not_enrolled";
    /// connect: to loopback or to no address.
    PassedLoopback = 6, "loopback";
    /// connect: to one of the pod's own addresses.
    PassedOwnAddress = 7, "own_address";
    /// connect: to a port that the pod's annotation leaves outside.
    PassedExcludedPort = 8, "excluded_port";
    /// connect: to a range that the pod's annotation leaves outside.
    PassedExcludedRange = 9, "excluded_range";
    /// sock_create: may be made; its connect is judged later.
    SocketMade = 10, "socket_made";
    /// connect: the pod is not known yet, and `--unknown-pods=refuse`.
    RefusedUnknownPod = 16, "unknown_pod_refused";
    /// connect: the pod is enrolled and not captured yet.
    RefusedHeld = 17, "not_captured_yet";
    /// connect: the daemon's listener does not live.
    RefusedNoListener = 18, "no_listener";
    /// connect: no memory for what must be remembered.
    RefusedNoMemory = 19, "no_memory";
    /// connect: the socket is bound to a device and could not be freed from it.
    RefusedBoundToDevice = 20, "bound_to_device";
    /// sock_create: a RAW socket.
    RefusedRawSocket = 21, "raw_socket";
    /// sock_create: a transport that no hook captures.
    RefusedTransport = 22, "uncaptured_transport";
    /// sk_lookup: given to the daemon.
    Delivered = 32, "delivered";
    /// sk_lookup: to a loopback address.
    DeliveredLoopback = 33, "inbound_loopback";
    /// sk_lookup: from the pod itself, or the daemon's own connection to the application.
    DeliveredOwn = 34, "inbound_own";
    /// sk_lookup: a probe of a host process.
    DeliveredProbe = 35, "inbound_probe";
    /// sk_lookup: to a port that the pod's annotation leaves outside.
    DeliveredExcluded = 36, "inbound_excluded";
    /// sk_lookup: not TCP.
    DeliveredNotTcp = 37, "inbound_not_tcp";
    /// sk_lookup: no listener of the daemon lives for this address.
    RefusedNoInboundListener = 48, "no_inbound_listener";
    /// sk_lookup: the listener could not be chosen.
    RefusedAssign = 49, "assign_failed";
    /// sock_ops: the original destination could not be handed over; the daemon will close the connection.
    LostOriginalDst = 56, "original_destination_lost";
    /// sock_ops: the application sees the daemon's address in place of its caller's.
    LostCaller = 57, "caller_lost";
    /// sock_ops: a probe could not be marked; it is an unknown caller.
    LostProbe = 58, "probe_lost";
    /// Any program: a record did not fit on the ring buffer.
    LostEvent = 59, "event_lost";
}

impl Verdict {
    /// Entries of `COUNTERS`: one more than the greatest code.
    pub const COUNTERS: u32 = 64;

    /// The index in `COUNTERS`, and the code in events.
    #[inline(always)]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_counter_and_comes_back() {
        for verdict in Verdict::ALL {
            assert!(u32::from(verdict.code()) < Verdict::COUNTERS);
            assert_eq!(Verdict::from_code(verdict.code()), Some(*verdict));
        }
    }

    #[test]
    fn reasons_are_different() {
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert!(Verdict::ALL[..index].iter().all(|other| other.reason() != verdict.reason()));
        }
    }
}
