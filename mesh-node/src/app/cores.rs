//! The threads that carry traffic: one per core, each with a runtime, an engine and a conductor of its own.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use mesh_common::model::WorkloadUid;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tracing::error;

use crate::capture::Listener;
use crate::proxy::{PodHandle, Proxy, Shared};
use crate::transport::handshakes::{self, Handshakes};
use crate::transport::http2;
use crate::transport::tunnel::{Counters, Engine, Handle, ListenerId, Neighbour, NewListener, Settings};

/// The threads that carry traffic.
pub(super) struct Cores {
    cores: Vec<Core>,
    shared: Arc<Shared>,
}

struct Core {
    handle: Handle<Proxy>,
    neighbour: Neighbour<Proxy>,
    counters: Arc<Counters>,
    thread: JoinHandle<()>,
}

impl Cores {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// A thread, its runtime or its epoll cannot be made.
    pub(super) fn start(
        count: usize,
        shared: &Arc<Shared>,
        settings: Settings,
        http2: &http2::Settings,
        handshakes: handshakes::Limits,
    ) -> io::Result<Self> {
        let start = |number| Core::start(number, Arc::clone(shared), settings, http2.clone(), handshakes);
        let cores = (0..count).map(start).collect::<io::Result<Vec<_>>>()?;
        for (number, core) in cores.iter().enumerate() {
            let others = cores.iter().enumerate().filter(|(other, _)| *other != number);
            let neighbours = others.map(|(_, other)| other.neighbour.clone()).collect();
            core.tell(move |engine| engine.share_with(neighbours));
        }
        Ok(Self { cores, shared: Arc::clone(shared) })
    }

    /// A pod's listeners belong to every core; the one that accepts keeps the connection, or gives it to one that carries
    /// less: so all know the pod before any listens.
    pub(super) fn add_pod(&self, pod: &PodHandle, listeners: &[Arc<Listener>]) {
        for core in &self.cores {
            let pod = pod.clone();
            core.tell(move |engine| engine.conductor().add_pod(pod));
        }
        for core in &self.cores {
            let (pod, listeners) = (pod.clone(), listeners.to_vec());
            core.tell(move |engine| {
                for listener in listeners {
                    let (id, direction) = (ListenerId(listener.id()), listener.direction());
                    let new = NewListener { id, socket: listener, pod: pod.clone(), direction };
                    if let Err(error) = engine.listen(new) {
                        error!(pod = %pod.uid().0, %error, "a core cannot watch a listener");
                    }
                }
            });
        }
    }

    /// Accepts nothing more from these listeners; what is open goes on.
    pub(super) fn close_listeners(&self, listeners: &[Arc<Listener>]) {
        for core in &self.cores {
            let ids: Vec<ListenerId> = listeners.iter().map(|listener| ListenerId(listener.id())).collect();
            core.tell(move |engine| ids.into_iter().for_each(|id| engine.unlisten(id)));
        }
    }

    /// A pod is gone: its connections and tunnels end when the cores look again.
    pub(super) fn remove_pod(&self, uid: &WorkloadUid) {
        for core in &self.cores {
            let uid = uid.clone();
            core.tell(move |engine| engine.conductor().remove_pod(&uid));
        }
    }

    /// Policy or pods changed: every open connection is decided again.
    pub(super) fn recheck(&self) {
        for core in &self.cores {
            core.tell(|engine| {
                engine.recheck();
                engine.conductor().recheck_http2();
            });
        }
    }

    /// The trust bundle changed: every peer is looked at again.
    pub(super) fn recheck_peers(&self) {
        for core in &self.cores {
            core.tell(|engine| {
                engine.recheck_peers();
                engine.conductor().recheck_http2_peers();
            });
        }
    }

    /// What each core's engine counts.
    pub(super) fn counters(&self) -> Vec<Arc<Counters>> {
        self.cores.iter().map(|core| Arc::clone(&core.counters)).collect()
    }

    /// Ways to ask each core something.
    pub(super) fn handles(&self) -> Vec<Handle<Proxy>> {
        self.cores.iter().map(|core| core.handle.clone()).collect()
    }

    /// Open connections now, over HTTP/2 too.
    pub(super) fn connections(&self) -> u32 {
        self.shared.places.used()
    }

    /// Tunnels now, accepted or opened.
    pub(super) fn tunnels(&self) -> u64 {
        self.cores.iter().map(|core| core.counters.tunnels.read()).sum()
    }

    /// Takes nothing new; open connections may finish.
    pub(super) fn drain(&self) {
        for core in &self.cores {
            core.tell(|engine| {
                engine.drain();
                engine.conductor().drain_http2();
            });
        }
    }

    /// Ends the threads. What is open is reset.
    pub(super) fn stop(self) {
        for core in self.cores {
            core.tell(Engine::stop);
            if core.thread.join().is_err() {
                error!("a core's thread panicked");
            }
        }
    }
}

/// Has each core look at the connections that it holds, as soon as more is known: what else follows a change may take
/// its time.
pub(super) async fn look_at_held(cores: Vec<Handle<Proxy>>, mut changed: watch::Receiver<Option<u64>>) {
    while changed.changed().await.is_ok() {
        for core in &cores {
            core.send(Engine::look_at_held);
        }
    }
}

impl Core {
    fn start(
        number: usize,
        shared: Arc<Shared>,
        settings: Settings,
        http2: http2::Settings,
        handshakes: handshakes::Limits,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (started, start) = channel();
        let thread = thread::Builder::new().name(format!("core-{number}")).spawn(move || {
            let handshakes = Handshakes::new(handshakes);
            let proxy = Proxy::new(shared, number, http2, handshakes.clone());
            let engine = Engine::new(proxy, settings, handshakes);
            let outcome = LocalSet::new().block_on(&runtime, carry(engine, started));
            if let Err(error) = outcome {
                error!(core = number, %error, "a core could not make its event loop");
            }
        })?;
        let (handle, neighbour, counters) = start
            .recv()
            .map_err(|_| io::Error::other(format!("core {number} could not make its event loop")))?;
        Ok(Self { handle, neighbour, counters, thread })
    }

    fn tell(&self, message: impl FnOnce(&mut Engine<Proxy>) + Send + 'static) {
        if !self.handle.send(message) {
            error!("a core's thread has ended");
        }
    }
}

async fn carry(
    engine: io::Result<Engine<Proxy>>,
    started: Sender<(Handle<Proxy>, Neighbour<Proxy>, Arc<Counters>)>,
) -> io::Result<()> {
    let mut engine = engine?;
    // Nobody waits only if the whole agent is ending.
    let _ = started.send((engine.handle(), engine.neighbour(), engine.counters()));
    let last_words = LastWords;
    match engine.drive().await {
        // It was told to stop.
        Ok(()) => std::mem::forget(last_words),
        Err(error) => error!(%error, "a core's event loop failed"),
    }
    Ok(())
}

/// Ends the process when a core ends that nobody told to, by an error or a panic. The listeners of its pods would
/// stay open: the kernel would accept connections that nobody carries. Without a process the pinned programs refuse
/// them at once, and whoever runs the agent starts it anew.
struct LastWords;

impl Drop for LastWords {
    fn drop(&mut self) {
        error!("a core stopped carrying traffic; the agent ends, and is to be started again");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Set in the process that this test starts: itself, to panic in.
    const INNER: &str = "MESH_TEST_CORE_PANICS";

    #[test]
    fn a_core_that_panics_ends_the_process() {
        if std::env::var_os(INNER).is_some() {
            let core = thread::spawn(|| {
                let _last_words = LastWords;
                panic!("a core panics");
            });
            let _ = core.join();
            return;
        }
        let name = thread::current().name().expect("a test's thread has its name").to_owned();
        let mut inner = Command::new(std::env::current_exe().unwrap());
        inner.args([&name, "--exact"]).env(INNER, "1").stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(inner.status().unwrap().signal(), Some(libc::SIGABRT));
    }
}
