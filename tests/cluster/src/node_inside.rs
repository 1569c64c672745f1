//! A node from inside: what its first process does.
//!
//! In: what [`crate::node::Inside`] says. Out: nothing; it ends when a program of the node does.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_test_harness::eventually::eventually;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Pid, WaitOptions, wait};

use crate::hierarchies::CGROUPS;
use crate::node::{CONTAINERD, Inside};
use crate::node_files::PLUGINS;

/// How long a program may take to answer, on a machine that does other work too.
const START: Duration = Duration::from_secs(120);
/// Where `/proc` has nothing hidden.
const WHOLE_PROC: &str = "/run/proc";
const KUBELET: &str = "kubelet";
/// How often one that ended is started again, as an init does: it ends while containerd, after a reboot, still reads what
/// there was before.
const KUBELETS: u8 = 20;
/// Where Debian has the network plugins.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";
/// Settings of the whole machine that a kubelet would change: a node sees the values that it wants.
const SETTINGS: [(&str, &str); 4] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
];

/// Enters the node's cgroups and namespaces and goes on there as its first process.
///
/// # Errors
/// It cannot enter them.
pub fn enter(inside: &Inside) -> Result<()> {
    for root in &inside.roots {
        let members = root.join("cgroup.procs");
        fs::write(&members, "0").with_context(|| format!("write {}", members.display()))?;
    }
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--uts",
        "--ipc",
        "--cgroup",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    unshare.arg("--").arg(std::env::current_exe().context("find this program")?);
    unshare.args(["node-inside", &serde_json::to_string(inside)?]);
    Err(unshare.exec()).context("start unshare (package util-linux)")
}

/// Makes the node's mounts, starts its programs, and buries what ends until one of them does.
///
/// # Errors
/// A mount fails, or a program does not start or ends.
pub fn run(inside: &Inside) -> Result<()> {
    rustix::system::sethostname(inside.name.as_bytes()).context("set the name of the host")?;
    mount_all(inside).context("make the mounts of a node")?;
    let mut programs = HashMap::new();
    let mut containerd = Command::new(inside.runtime[0].join("containerd"));
    // Where it finds its shim, and that one runc.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = inside.runtime.iter().cloned().chain(std::env::split_paths(&path));
    containerd.env("PATH", std::env::join_paths(folders).context("join folders of programs")?);
    start(
        inside,
        "containerd",
        containerd,
        &[format!("--config={}", file(inside, "containerd.toml"))],
        &mut programs,
    )?;
    let socket = || UnixStream::connect(CONTAINERD).ok();
    eventually("containerd answers", START, socket).context("start containerd; see containerd.log")?;
    for image in &inside.images {
        // Through the root of this very process.
        crate::node::load(1, image)?;
    }
    eventually("the API server listens", START, || {
        TcpStream::connect_timeout(&inside.api_server, Duration::from_secs(1)).ok()
    })?;
    start_kubelet(inside, &mut programs)?;
    let proxy = Command::new(inside.programs.join("kube-proxy"));
    start(inside, "kube-proxy", proxy, &proxy_flags(inside), &mut programs)?;
    bury(inside, programs)
}

fn start_kubelet(inside: &Inside, programs: &mut HashMap<Pid, &'static str>) -> Result<()> {
    let kubelet = Command::new(inside.programs.join(KUBELET));
    start(inside, KUBELET, kubelet, &kubelet_flags(inside), programs)
}

/// Waits for children, its own and those whose parents are gone.
fn bury(inside: &Inside, mut programs: HashMap<Pid, &'static str>) -> Result<()> {
    let mut left = KUBELETS;
    loop {
        let Some((ended, status)) = wait(WaitOptions::empty()).context("wait for a program of the node")?
        else {
            continue;
        };
        match programs.remove(&ended) {
            Some(KUBELET) if left > 0 => {
                left -= 1;
                start_kubelet(inside, &mut programs)?;
            }
            Some(name) => bail!("{name} ended: {status:?}; see {name}.log"),
            None => {}
        }
    }
}

fn start(
    inside: &Inside,
    name: &'static str,
    mut command: Command,
    flags: &[String],
    programs: &mut HashMap<Pid, &'static str>,
) -> Result<()> {
    let log = inside.folder.join(format!("{name}.log"));
    let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    command.args(flags).stdin(Stdio::null()).stdout(file.try_clone().context("share a log")?).stderr(file);
    let child = command.spawn().with_context(|| format!("start {name}"))?;
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child has an id")?;
    programs.insert(process, name);
    Ok(())
}

fn kubelet_flags(inside: &Inside) -> [String; 4] {
    let addresses: Vec<String> = inside.addresses.iter().map(ToString::to_string).collect();
    [
        format!("--config={}", file(inside, "kubelet.json")),
        format!("--kubeconfig={}", inside.kubelet.display()),
        format!("--hostname-override={}", inside.name),
        format!("--node-ip={}", addresses.join(",")),
    ]
}

fn proxy_flags(inside: &Inside) -> [String; 8] {
    [
        format!("--kubeconfig={}", inside.proxy.display()),
        format!("--hostname-override={}", inside.name),
        format!("--cluster-cidr={}", inside.families.pods()),
        "--proxy-mode=nftables".to_owned(),
        // Settings that a network namespace cannot change.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-min=0".to_owned(),
        "--conntrack-tcp-timeout-established=0s".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
    ]
}

fn file(inside: &Inside, name: &str) -> String {
    inside.folder.join(name).display().to_string()
}

fn mount_all(inside: &Inside) -> Result<()> {
    // Before anything is hidden.
    mount_new("sysfs", "/sys", "")?;
    mount_new("bpf", "/sys/fs/bpf", "")?;
    mount_cgroups(inside)?;
    for folder in ["/etc", "/opt", "/var"] {
        mount_own_layer(inside, folder)?;
    }
    for folder in ["/var/lib/kubelet", "/var/lib/containerd"] {
        mount_own_folder(inside, folder)?;
    }
    mount_new("tmpfs", "/run", "mode=755")?;
    for folder in ["/run/netns", "/run/lock", "/etc/cni/net.d"] {
        fs::create_dir_all(folder).with_context(|| format!("make {folder}"))?;
    }
    fs::copy(inside.folder.join("cni.conflist"), "/etc/cni/net.d/10-bridge.conflist")
        .context("configure the network of pods")?;
    link_plugins()?;
    hide_settings()?;
    // Pods may see what is mounted on the node later.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("share the mounts")
}

/// Debian's, beside which others may put their own.
fn link_plugins() -> Result<()> {
    fs::create_dir_all(PLUGINS).with_context(|| format!("make {PLUGINS}"))?;
    for plugin in fs::read_dir(DEBIAN_PLUGINS).context("find network plugins")?.flatten() {
        let link = Path::new(PLUGINS).join(plugin.file_name());
        // There since the node started for the first time.
        if fs::symlink_metadata(&link).is_err() {
            symlink(plugin.path(), &link).with_context(|| format!("link {}", link.display()))?;
        }
    }
    Ok(())
}

fn mount_cgroups(inside: &Inside) -> Result<()> {
    mount_new("tmpfs", CGROUPS, "mode=755")?;
    for hierarchy in &inside.hierarchies {
        let Some(name) = hierarchy.mount.file_name() else { continue };
        let place = Path::new(CGROUPS).join(name);
        fs::create_dir(&place).with_context(|| format!("make {}", place.display()))?;
        mount_new("cgroup", &place, &hierarchy.options)?;
    }
    for (alias, name) in aliases(inside) {
        symlink(name, Path::new(CGROUPS).join(alias)).context("link a controller")?;
    }
    let second = Path::new(CGROUPS).join(&inside.second_version);
    fs::create_dir_all(&second).with_context(|| format!("make {}", second.display()))?;
    mount_new("cgroup2", &second, "")
}

/// `cpu` of `cpu,cpuacct`, as programs look for it.
fn aliases(inside: &Inside) -> impl Iterator<Item = (String, String)> {
    let names = inside.hierarchies.iter().filter_map(|hierarchy| hierarchy.mount.file_name());
    names.flat_map(|name| {
        let name = name.to_string_lossy().into_owned();
        let parts: Vec<String> = name.split(',').map(str::to_owned).collect();
        parts.into_iter().filter(|part| *part != name).map(|part| (part, name.clone())).collect::<Vec<_>>()
    })
}

/// What this machine has there, with changes that are the node's own.
fn mount_own_layer(inside: &Inside, folder: &str) -> Result<()> {
    let own = inside.folder.join("layers").join(folder.trim_start_matches('/'));
    let (changes, work) = (own.join("changes"), own.join("work"));
    for made in [&changes, &work] {
        fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
    }
    let layers = format!("lowerdir={folder},upperdir={},workdir={}", changes.display(), work.display());
    mount_new("overlay", folder, &layers)
}

/// A folder that is the node's own: containerd's layers cannot lie on a layer.
fn mount_own_folder(inside: &Inside, folder: &str) -> Result<()> {
    let own = inside.folder.join(Path::new(folder).file_name().context("a folder has a name")?);
    for made in [own.as_path(), Path::new(folder)] {
        fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
    }
    mount_bind(&own, folder).with_context(|| format!("mount {folder}"))
}

fn hide_settings() -> Result<()> {
    // Who has a user namespace of its own may mount a /proc only where one is seen whole (fs/namespace.c,
    // `mnt_already_visible`).
    fs::create_dir_all(WHOLE_PROC).with_context(|| format!("make {WHOLE_PROC}"))?;
    mount_new("proc", WHOLE_PROC, "")?;
    let folder = Path::new("/run/settings");
    for (name, value) in SETTINGS {
        let seen = folder.join(name);
        fs::create_dir_all(seen.parent().context("a file has a folder")?).context("make a folder in /run")?;
        fs::write(&seen, format!("{value}\n")).with_context(|| format!("write {}", seen.display()))?;
        let real = Path::new("/proc/sys").join(name);
        mount_bind(&seen, &real).with_context(|| format!("hide {}", real.display()))?;
    }
    Ok(())
}

fn mount_new(kind: &str, place: impl AsRef<Path>, options: &str) -> Result<()> {
    let place = place.as_ref();
    let options = CString::new(options).context("options have no zero byte")?;
    mount(kind, place, kind, MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("mount {kind} at {}", place.display()))
}
