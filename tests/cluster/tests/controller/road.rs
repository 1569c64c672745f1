//! The way from a node to the controller, which can be cut: then no byte passes, and neither end hears of it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};

use anyhow::{Context, Result};
use mesh_test_harness::topology::Site;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where the controller is, on each node's own loopback.
pub const CONTROLLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15012);

/// Gone, with what it carries, on drop.
pub struct Road {
    cut: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Road {
    pub fn open(site: &Site, controller: SocketAddr) -> Result<Self> {
        let listen = || StdListener::bind(CONTROLLER).context("listen on a node");
        let listener = site.netns().run(listen)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (cut, is_cut) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                carried.spawn(carry(stream, controller, is_cut.clone()));
            }
        });
        Ok(Self { cut, _task: task })
    }

    pub fn is_cut(&self, is_cut: bool) {
        self.cut.send_replace(is_cut);
    }
}

async fn carry(agent: TcpStream, controller: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let Ok(_) = is_cut.wait_for(|is_cut| !is_cut).await else { return };
    let Ok(controller) = TcpStream::connect(controller).await else { return };
    let ((from_agent, to_agent), (from_controller, to_controller)) =
        (agent.into_split(), controller.into_split());
    let up = copy(from_agent, to_controller, is_cut.clone());
    // One end gone ends both: nobody half-closes here.
    tokio::select! {
        _ = up => {}
        _ = copy(from_controller, to_agent, is_cut) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_cut: watch::Receiver<bool>,
) -> Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        is_cut.wait_for(|is_cut| !is_cut).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
    }
}
