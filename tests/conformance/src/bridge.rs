//! The way onto the wire for a program that speaks plain HTTP/2: it dials a port on loopback, and what it says goes on
//! in mutual TLS as between two daemons, to a pod's own address.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_test_e2e::peer::{Credentials, client_config};
use mesh_test_harness::pod::Pod;
use rustls::pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// A port that leads onto the wire; it is gone when this is dropped.
pub struct Bridge {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Bridge {
    /// Opens a port: each connection goes on from a pod's network namespace, past its hooks, to `to`, with a
    /// certificate, ALPN and SNI.
    ///
    /// # Errors
    /// The port cannot be opened, or the certificate not be used.
    pub fn open(from: &Pod, to: SocketAddr, credentials: &Credentials, service: &str) -> Result<Self> {
        let tls = TlsConnector::from(Arc::new(client_config(Some(credentials), b"nodemesh/h2")?));
        let name = ServerName::try_from(service.to_owned()).context("SNI")?;
        let netns = from.place().netns().clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).context("listen")?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((mut plain, _)) = listener.accept().await {
                let (tls, name) = (tls.clone(), name.clone());
                let dialled = netns.run(|| Ok(TcpStream::connect(to)?));
                tokio::spawn(async move {
                    let tcp = dialled?;
                    tcp.set_nonblocking(true)?;
                    let mut wire = tls.connect(name, tokio::net::TcpStream::from_std(tcp)?).await?;
                    tokio::io::copy_bidirectional(&mut plain, &mut wire).await?;
                    anyhow::Ok(())
                });
            }
        });
        Ok(Self { address, _runtime: runtime })
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
