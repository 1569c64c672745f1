//! The light form: the store and the API server on loopback, enough for controllers, certificates and objects; nothing
//! runs pods.

use std::ops::Deref;

use anyhow::Result;
use mesh_test_harness::run::Run;

use crate::certificates::Certificates;
use crate::control_plane::{self, ControlPlane, Form};

/// An API server that runs. Ended, with all it holds, on drop.
#[derive(Debug)]
pub struct ApiServer {
    /// Before what removes its folders.
    control_plane: ControlPlane,
    _run: Run,
}

impl ApiServer {
    /// Starts both and waits until the API server is ready.
    ///
    /// # Errors
    /// A program cannot be built or started, or it ends; the text has the last lines of its log.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same, with more flags for the API server.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_with(flags: &[&str]) -> Result<Self> {
        let run = Run::start()?;
        let certificates = Certificates::make(&run.folder().join("pki"))?;
        let site = control_plane::loopback()?;
        let mut control_plane = ControlPlane::start(&run, &certificates, site, Form::Light, flags)?;
        control_plane.wait_until_ready()?;
        Ok(Self { control_plane, _run: run })
    }
}

impl Deref for ApiServer {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        &self.control_plane
    }
}
