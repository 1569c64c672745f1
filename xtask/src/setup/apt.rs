//! Debian packages: installed without starting the services that some of them bring.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::process;

/// Asked by every package's install script before it starts a service.
const START_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Services that our packages bring under their own names, and that nobody asked to run.
const SERVICES: &[&str] = &["nginx", "prometheus", "redis-server"];

/// Installs packages; refreshes the package lists first.
pub fn install(packages: &[&str]) -> Result<()> {
    let _no_services = NoServices::new()?;
    refresh()?;
    let mut install = process::command("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    process::run(&mut install).context("install Debian packages")?;
    disable_services(packages);
    Ok(())
}

/// Refreshes the package lists.
pub fn refresh() -> Result<()> {
    let mut update = process::command("apt-get");
    process::run(update.args(["update", "--quiet"])).context("refresh Debian's package lists")
}

/// Keeps new services from starting with the next boot; nothing to do where systemd does not run.
fn disable_services(packages: &[&str]) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    for service in SERVICES.iter().filter(|service| packages.contains(service)) {
        let mut disable = process::command("systemctl");
        disable.args(["disable", "--quiet", service]).stdout(Stdio::null());
        if let Err(error) = process::run(&mut disable) {
            println!("setup: {service} may start at the next boot: {error:#}");
        }
    }
}

/// While it lives, no package's install script starts a service.
struct NoServices {
    /// Removed on drop; none if the machine has a policy of its own, which is left in force.
    policy: Option<PathBuf>,
}

impl NoServices {
    fn new() -> Result<Self> {
        let policy = PathBuf::from(START_POLICY);
        if policy.exists() {
            return Ok(Self { policy: None });
        }
        // 101: action forbidden by policy (invoke-rc.d(8)).
        fs::write(&policy, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {START_POLICY}"))?;
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {START_POLICY} executable"))?;
        Ok(Self { policy: Some(policy) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.policy
            && let Err(error) = fs::remove_file(policy)
        {
            println!("setup: remove {START_POLICY} by hand, it keeps services from starting: {error}");
        }
    }
}
