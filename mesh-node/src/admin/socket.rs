//! The Unix socket of the command line: only its owner may connect, and only one agent has it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tokio::net::UnixListener;

use super::{Agent, routes, server};

/// A listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another agent answers at {path}; give each agent its own --admin-socket")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands there.
    #[error("{path} is no socket; move it away or set --admin-socket")]
    NoSocket {
        /// What stands there.
        path: PathBuf,
    },
    /// The system refused.
    #[error("listen at {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl AdminSocket {
    /// Listens; takes the place of a socket that an agent left behind when it was killed.
    ///
    /// # Errors
    /// If another agent answers there, or the system refuses.
    pub fn listen(path: &Path) -> Result<Self, SocketError> {
        let failed = |cause| SocketError::Listen { path: path.to_owned(), cause };
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        }
        remove_stale(path)?;
        // Bound under another name, so that nobody can connect before only the owner may.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let settle = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&fresh, path));
        if let Err(cause) = settle {
            // The error that is returned says more than one of the clean-up would.
            fs::remove_file(&fresh).ok();
            return Err(failed(cause));
        }
        Ok(Self { listener, path: path.to_owned() })
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |cause| SocketError::Listen { path: path.to_owned(), cause };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Taken { path: path.to_owned() });
    }
    fs::remove_file(path).map_err(failed)
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Gone already means that someone cleaned up: nothing is left to do.
        fs::remove_file(&self.path).ok();
    }
}

/// Serves the command line; ends when it is dropped.
pub async fn serve_socket<A: Agent>(socket: AdminSocket, agent: Arc<A>) {
    let accept = async || socket.listener.accept().await.map(|(stream, _)| (stream, None));
    server::serve(accept, move |request: Request<Incoming>| {
        let agent = Arc::clone(&agent);
        async move { routes::admin(&*agent, request).await }
    })
    .await;
}
