//! What the mesh has on nodes, and what of it is left: kernel objects, files, programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use mesh_test_harness::eventually::eventually_true;

use crate::node::Node;

/// The name of its program, and what an agent is called with.
const PROGRAM: &str = "mesh-node";
const AGENT: [&str; 2] = [PROGRAM, "agent"];
/// Where it has files on a node, the first one whole.
const FOLDERS: [&str; 3] = ["/sys/fs/bpf/nodemesh", "/var/lib/nodemesh", "/run/nodemesh"];
/// How long the kernel may take to free what nobody holds any more, on a machine that does other work too.
const FREED: Duration = Duration::from_secs(30);

/// Links, programs and maps of the kernel, as `link_id 12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held(BTreeSet<String>);

/// What the agents of some nodes hold in the kernel.
///
/// # Errors
/// A node has no agent, or one that holds no link.
pub fn held<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<Held> {
    let mut held = BTreeSet::new();
    for node in nodes {
        let agents = agents(node)?;
        let of_node: BTreeSet<String> = agents.iter().flat_map(|process| objects(*process)).collect();
        ensure!(of_node.iter().any(|object| object.starts_with("link_id")), "{} has no agent", node.name());
        held.extend(of_node);
    }
    Ok(Held(held))
}

/// The agents on a node, by the ids of this machine.
///
/// # Errors
/// There is no `/proc`.
pub fn agents(node: &Node) -> Result<Vec<u32>> {
    node.processes(&AGENT)
}

/// Kernel objects that a process has open.
fn objects(process: u32) -> Vec<String> {
    let about = fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten();
    let texts = about.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let lines = texts.flat_map(|text| {
        let of_kernel =
            |line: &&str| ["link_id:", "prog_id:", "map_id:"].iter().any(|id| line.starts_with(id));
        text.lines()
            .filter(of_kernel)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    });
    lines.map(|line| line.replace(':', "")).collect()
}

/// Whether the pins of an agent are on a node.
///
/// # Errors
/// The node does not run.
pub fn has_pins(node: &Node) -> Result<bool> {
    Ok(fs::symlink_metadata(on(node, FOLDERS[0])?).is_ok())
}

/// Fails if a node has a program, pin or file of the mesh, or the kernel something of what was held.
///
/// # Errors
/// There is something; the text names it.
pub fn none_on<'a>(nodes: impl IntoIterator<Item = &'a Node>, held: &Held) -> Result<()> {
    for node in nodes {
        let processes = node.processes(&[PROGRAM])?;
        ensure!(processes.is_empty(), "{} has processes of the mesh: {processes:?}", node.name());
        if has_pins(node)? {
            bail!("{} has pins", node.name());
        }
        for folder in &FOLDERS[1..] {
            let mut files = fs::read_dir(on(node, folder)?).into_iter().flatten().flatten();
            if let Some(file) = files.next() {
                bail!("{} has {}", node.name(), file.path().display());
            }
        }
    }
    let freed = eventually_true("the kernel has nothing of the mesh", FREED, || left(held).is_empty());
    freed.map(drop).with_context(|| format!("the kernel has {:?}", left(held)))
}

/// What of that the kernel still has.
fn left(Held(held): &Held) -> Vec<String> {
    let links = loaded_links().flatten().map(|link| format!("link_id {}", link.id()));
    let programs = loaded_programs().flatten().map(|program| format!("prog_id {}", program.id()));
    let maps = loaded_maps().flatten().map(|map| format!("map_id {}", map.id()));
    links.chain(programs).chain(maps).filter(|object| held.contains(object)).collect()
}

/// A node's file, as this machine reaches it.
fn on(node: &Node, path: &str) -> Result<PathBuf> {
    Ok(format!("/proc/{}/root{path}", node.process()?).into())
}
