//! Tries what a pod might try to get past the hooks: kinds of sockets, and the ports of loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::report::{event, how};

/// SCTP's number (RFC 9260); socket2 has no name for it on every system.
const SCTP: i32 = 132;

/// Flags of `sockets`.
#[derive(Args)]
pub(crate) struct Sockets {}

impl Sockets {
    /// Makes one socket of each kind and says what came of it.
    pub(crate) fn run(&self) -> Result<()> {
        for (kind, domain, socket_type, protocol) in [
            ("raw", Domain::IPV4, Type::RAW, Protocol::TCP),
            ("raw6", Domain::IPV6, Type::RAW, Protocol::TCP),
            ("raw-any", Domain::IPV4, Type::RAW, Protocol::from(255)),
            ("icmp", Domain::IPV4, Type::RAW, Protocol::ICMPV4),
            ("icmp6", Domain::IPV6, Type::RAW, Protocol::ICMPV6),
            ("sctp", Domain::IPV4, Type::STREAM, Protocol::from(SCTP)),
            ("sctp6", Domain::IPV6, Type::SEQPACKET, Protocol::from(SCTP)),
            ("udp", Domain::IPV4, Type::DGRAM, Protocol::UDP),
        ] {
            let outcome = Socket::new(domain, socket_type, Some(protocol));
            let how = outcome.map_or_else(|error| how(&error), |_| "made".to_owned());
            event(&json!({ "event": "socket", "kind": kind, "how": how }));
        }
        Ok(())
    }
}

/// Flags of `squat`.
#[derive(Args)]
pub(crate) struct Squat {
    /// Address and port to dial once the ports are taken
    #[arg(long)]
    to: std::net::SocketAddr,
    /// How many ports are held at a time
    #[arg(long, default_value = "4000")]
    held: u16,
}

impl Squat {
    /// Takes as many free ports of loopback as it may, slice by slice, and dials each time.
    pub(crate) fn run(&self) -> Result<()> {
        let mut reached = 0_u32;
        let mut answers = std::collections::BTreeMap::<String, u32>::new();
        for slice in (1024..=u16::MAX).collect::<Vec<u16>>().chunks(self.held.into()) {
            let listeners: Vec<TcpListener> = slice
                .iter()
                .filter_map(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
                .collect();
            let outcome = TcpStream::connect_timeout(&self.to, Duration::from_secs(2));
            let word = outcome.map_or_else(|error| how(&error), |_| "connected".to_owned());
            *answers.entry(word).or_default() += 1;
            for listener in &listeners {
                listener.set_nonblocking(true)?;
                match listener.accept() {
                    Ok(_) => reached += 1,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        event(&json!({ "event": "squatted", "reached": reached, "answers": answers }));
        Ok(())
    }
}
