//! The cgroup hierarchies of this machine, and a node's root in each.
//!
//! Where version 1 has the controllers, version 2 stands beside it without any; a node then needs a cgroup in each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::run::{Run, cgroup_mount, remove_cgroup_tree};
use serde::{Deserialize, Serialize};

/// Where the hierarchies are, on this machine and on a node.
pub const CGROUPS: &str = "/sys/fs/cgroup";
/// How long processes that were killed may be members, on a machine that does other work too.
const EMPTY: Duration = Duration::from_secs(10);
/// Options of a mount that say nothing about its controllers.
const FLAGS: [&str; 8] = ["rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "xattr"];

/// A hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What mounts it elsewhere too.
    pub options: String,
}

/// The hierarchies of version 1.
///
/// # Errors
/// There are none: kubelets and runc then need controllers of version 2 in the nodes' cgroups, which nobody set up.
pub fn mounted() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let found: Vec<Hierarchy> = mounts.lines().filter_map(hierarchy).collect();
    if found.is_empty() {
        bail!(
            "this machine has cgroups of version 2 alone, which clusters with nodes do not know yet; \
             --nodes 0 starts one without, and the kernel's option systemd.unified_cgroup_hierarchy=0 brings both"
        );
    }
    Ok(found)
}

/// A line of `/proc/mounts`.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let mut words = line.split(' ').skip(1);
    let (mount, kind, options) = (words.next()?, words.next()?, words.next()?);
    let told: Vec<&str> = options.split(',').filter(|option| !FLAGS.contains(option)).collect();
    let told = told.into_iter().filter(|option| !option.starts_with("release_agent")).collect::<Vec<_>>();
    let named = told.iter().any(|option| option.starts_with("name="));
    let options = format!("{}{}", if named { "none," } else { "" }, told.join(","));
    // Once: somebody's root below another folder has them mounted too.
    (kind == "cgroup" && Path::new(mount).starts_with(CGROUPS))
        .then(|| Hierarchy { mount: mount.into(), options })
}

/// Makes the roots of a node in all hierarchies of version 1; the run's reaper removes them.
///
/// # Errors
/// One cannot be made.
pub fn make_roots(run: &Run, node: &str) -> Result<Vec<PathBuf>> {
    mounted()?.iter().map(|hierarchy| make_root(run, node, hierarchy)).collect()
}

/// Removes the cgroups of a node whose processes are gone.
///
/// # Errors
/// A process is still in one.
pub fn remove_roots<'a>(roots: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    for root in roots {
        // A process that was killed is a member until the kernel has done with it.
        eventually("a cgroup of a node is empty", EMPTY, || remove_cgroup_tree(root).ok())?;
    }
    Ok(())
}

/// What the roots of a node are called.
pub fn root_name(run: &Run, node: &str) -> String {
    format!("{}-{node}", run.name())
}

fn make_root(run: &Run, node: &str, hierarchy: &Hierarchy) -> Result<PathBuf> {
    let root = hierarchy.mount.join(root_name(run, node));
    fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
    // Without them no process may enter a cpuset.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (of_all, own) = (hierarchy.mount.join(file), root.join(file));
        if own.exists() {
            fs::copy(&of_all, &own).with_context(|| format!("write {}", own.display()))?;
        }
    }
    Ok(root)
}

/// Where version 2 is mounted below [`CGROUPS`].
///
/// # Errors
/// It is not mounted there.
pub fn second_version() -> Result<PathBuf> {
    let mount = cgroup_mount()?;
    Ok(mount.strip_prefix(CGROUPS).unwrap_or(Path::new("")).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_known_by_its_mount() {
        let both = hierarchy("cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,relatime,cpu,cpuacct 0 0");
        assert_eq!(both.unwrap().options, "cpu,cpuacct");
        let named = hierarchy("cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0");
        assert_eq!(named.unwrap().options, "none,name=systemd");
        assert_eq!(hierarchy("cgroup /tmp/root/sys/fs/cgroup/cpu cgroup rw,cpu 0 0"), None);
        assert_eq!(hierarchy("cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0"), None);
    }
}
