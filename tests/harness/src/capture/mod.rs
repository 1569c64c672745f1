//! Listens on a wire and says what it carried.
//!
//! In: a node and an interface. Out: TCP streams put together again, the TLS handshakes in them, and how often bytes
//! that must not be seen were seen. A capture that lost a packet fails: it would prove nothing.

mod pcap;
mod tls;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::PLAINTEXT_MARKER;
use crate::eventually::{PATIENCE, eventually};
use crate::netns::Namespace;
use crate::process::{Place, Process};
use crate::topology::Site;

pub use pcap::{Flow, Stream};
pub use tls::ClientHello;

/// How much of a file, in bytes, may have been written between the last packet and the first look for it.
const BEFORE: u64 = 1 << 20;

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    /// From where the last packet is sent.
    netns: Namespace,
    last: LastPacket,
}

/// The mark's ports: those of `echo` and `discard`, which nobody serves.
const MARK: [u16; 2] = [7, 9];

/// A connect to a closed port across the wire: once it is in the file, everything before it is.
#[derive(Clone, Copy, Debug)]
struct LastPacket {
    from: SocketAddr,
    to: SocketAddr,
}

/// What a wire carried.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// One direction of one connection each.
    pub streams: Vec<Stream>,
    /// Packets seen.
    pub packets: usize,
    /// Bytes of TCP payload seen, before repeated ones are left out.
    pub payload_bytes: usize,
}

impl Capture {
    /// Begins to listen on one interface of a node, or on `any`.
    ///
    /// # Errors
    /// Tcpdump cannot be started or does not begin in time.
    pub fn start(site: &Site, interface: &str) -> Result<Self> {
        Self::between(site.host(), site.name(), interface, site.wire_addresses().map(IpAddr::V4))
    }

    /// The same where there is no [`Site`]: on an interface of the place's namespace, on the way from the first address,
    /// which is that namespace's, to the second.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn between(place: &Place, name: &str, interface: &str, ends: [IpAddr; 2]) -> Result<Self> {
        let file = place.logs().join(format!("{interface}.pcap"));
        let path = file.display().to_string();
        // -Z root: the folder belongs to root. -B: 64 MiB of kernel buffer, so that no burst is lost.
        let arguments =
            ["-i", interface, "-w", &path, "-U", "-s", "0", "-n", "-B", "65536", "-Z", "root", "tcp"];
        let process = place.spawn(&format!("{name}-tcpdump"), "tcpdump", &arguments)?;
        let capture = Self { process, file, netns: place.netns().clone(), last: LastPacket::between(ends) };
        eventually("tcpdump listens", PATIENCE, || {
            capture.process.stderr().contains("listening on").then_some(())
        })?;
        Ok(capture)
    }

    /// The file that is being written.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Stops listening and reads what was heard.
    ///
    /// # Errors
    /// Packets were lost, or the file cannot be read.
    pub fn finish(self) -> Result<Carried> {
        self.mark()?;
        self.read()
    }

    /// Sends the packet that is waited for by [`Capture::read`]. Several captures are marked before the first is read,
    /// because each may take a second to hand over what it heard.
    ///
    /// # Errors
    /// The packet cannot be sent.
    pub fn mark(&self) -> Result<()> {
        self.netns.run(|| self.last.send())
    }

    /// Waits for the mark, stops listening and reads what was heard.
    ///
    /// # Errors
    /// Packets were lost, or the file cannot be read.
    pub fn read(self) -> Result<Carried> {
        let length = fs::metadata(&self.file).map_or(0, |about| about.len());
        let mut from = length.saturating_sub(BEFORE);
        eventually("the last packet is captured", PATIENCE, || {
            self.last.is_in(&self.file, &mut from).then_some(())
        })?;
        self.process.signal(Signal::INT)?;
        let ended = self.process.wait(Duration::from_secs(10))?;
        let dropped = ended.stderr.lines().find(|line| line.ends_with("packets dropped by kernel"));
        if dropped != Some("0 packets dropped by kernel") {
            bail!("tcpdump lost packets: {}", ended.stderr);
        }
        let bytes = fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        pcap::read(&bytes)
    }
}

impl LastPacket {
    fn between([here, there]: [IpAddr; 2]) -> Self {
        Self { from: SocketAddr::new(here, MARK[0]), to: SocketAddr::new(there, MARK[1]) }
    }

    fn send(self) -> Result<()> {
        let socket =
            Socket::new(Domain::for_address(self.from), Type::STREAM, None).context("make a socket")?;
        socket.set_reuse_address(true).context("share the port")?;
        socket.bind(&self.from.into()).with_context(|| format!("bind {}", self.from))?;
        match socket.connect(&self.to.into()) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("connect to the closed port {} gave {other:?}", self.to),
        }
    }

    /// Looks for the addresses and ports in the file, as they stand in a packet without options of IP, from a place that
    /// moves on with each look: on a busy wire much is written after it in one go.
    fn is_in(self, file: &Path, from: &mut u64) -> bool {
        let mut wanted = [octets(self.from.ip()), octets(self.to.ip())].concat();
        wanted.extend(self.from.port().to_be_bytes());
        wanted.extend(self.to.port().to_be_bytes());
        let mut end = Vec::new();
        let read = File::open(file).and_then(|mut file| {
            file.seek(SeekFrom::Start(*from))?;
            file.read_to_end(&mut end)
        });
        let found = read.is_ok() && end.windows(wanted.len()).any(|window| window == wanted);
        // What is not whole yet is looked at again.
        *from += end.len().saturating_sub(wanted.len()) as u64;
        found
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

impl Carried {
    /// What is left without everything from and to one address.
    #[must_use]
    pub fn without(&self, address: IpAddr) -> Self {
        let mut left = self.clone();
        left.streams.retain(|stream| stream.flow.from.ip() != address && stream.flow.to.ip() != address);
        left
    }

    /// What is left without the connects by which captures, this one's and others', know their ends.
    #[must_use]
    pub fn without_marks(&self) -> Self {
        let mut left = self.clone();
        left.streams.retain(|stream| {
            let ports = [stream.flow.from.port(), stream.flow.to.port()];
            ports != MARK && ports != [MARK[1], MARK[0]]
        });
        left
    }

    /// How often the plaintext marker was on the wire.
    pub fn markers(&self) -> usize {
        self.count(PLAINTEXT_MARKER.as_bytes())
    }

    /// Pods were heard through tunnels of agents alone.
    ///
    /// # Errors
    /// The plaintext marker was on the wire, no tunnel began, or one offered another TLS than 1.3.
    pub fn ensure_tunnelled(&self) -> Result<()> {
        ensure!(self.markers() == 0, "the wire shows what the pods say to each other");
        let hellos = self.client_hellos();
        let is_tunnel =
            |hello: &&ClientHello| hello.alpn.iter().any(|offered| offered.starts_with("nodemesh/"));
        let mut tunnels = hellos.iter().filter(is_tunnel).peekable();
        ensure!(tunnels.peek().is_some(), "no tunnel was begun: {hellos:?}");
        ensure!(tunnels.all(ClientHello::is_tls13_only), "another TLS than 1.3 is offered: {hellos:?}");
        Ok(())
    }

    /// How often bytes were on the wire, each stream put together first.
    pub fn count(&self, wanted: &[u8]) -> usize {
        self.streams.iter().map(|stream| stream.count(wanted)).sum()
    }

    /// Every TLS ClientHello at the beginning of a stream.
    pub fn client_hellos(&self) -> Vec<ClientHello> {
        self.streams.iter().filter_map(|stream| ClientHello::read(&stream.bytes)).collect()
    }

    /// How many streams begin with a ServerHello that chose TLS 1.3.
    pub fn tls13_answers(&self) -> usize {
        self.streams.iter().filter(|stream| tls::is_tls13_server_hello(&stream.bytes)).count()
    }

    /// Streams that carry bytes and are no TLS: what an eavesdropper could read.
    pub fn plaintext_streams(&self) -> Vec<&Stream> {
        self.streams.iter().filter(|stream| !stream.bytes.is_empty() && !tls::is_tls(&stream.bytes)).collect()
    }
}
