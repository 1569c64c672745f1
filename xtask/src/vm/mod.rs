//! Kernel tests on Debian's 6.1 kernel, the oldest that is promised: booted under emulation, with the tests inside.
//!
//! In: the built tests. Out: their lines, as if they had run here. Nothing is shared with the guest: everything that
//! a test starts is packed with its libraries into the archive that the guest boots from.

mod archive;
mod guest;
pub mod kernel;

use anyhow::Result;

use crate::binaries::Binaries;
use crate::vm::archive::Archive;
use crate::vm::guest::Test;

/// Kernel tests that are run elsewhere only: they make thousands of things, or hold to a time on the clock.
const LEFT_OUT: &[&str] = &[
    "pods::a_thousand_pods_leave_nothing_behind_and_are_enrolled_fast",
    "lifecycle::a_pod_cannot_take_the_place_of_a_dead_daemon",
];

/// End-to-end tests that are run there too: the whole agent on this kernel, once.
const END_TO_END: &[&str] = &["tcp_crosses_the_wire_as_a_tunnel"];

/// Programs that the tests find on PATH.
const TOOLS: &[&str] = &["ip", "nft", "tcpdump"];

/// Boots the kernel, runs the tests inside and hands on every line that they print.
///
/// # Errors
/// The guest does not boot or does not end in time, or a test fails.
pub fn run(binaries: &Binaries, line: impl FnMut(&str)) -> Result<()> {
    let kernel = kernel::find()?;
    let programs = ["mesh-node", "mesh-test-pod", "mesh-test-capture"];
    let programs = programs.map(|name| binaries.program(name)).into_iter().collect::<Result<Vec<_>>>()?;
    let kernel_tests = binaries.test("mesh-test-ebpf", "kernel")?;
    let end_to_end = binaries.test("mesh-test-e2e", "first_chain")?;
    let tests = [
        Test { binary: kernel_tests, words: LEFT_OUT.iter().flat_map(|test| ["--skip", *test]).collect() },
        Test { binary: end_to_end, words: [&["--exact"], END_TO_END].concat() },
    ];
    let mut archive = Archive::create()?;
    for tool in TOOLS {
        archive.tool(tool)?;
    }
    for file in programs.iter().copied().chain(tests.iter().map(|test| test.binary.executable())) {
        archive.program(file)?;
    }
    archive.modules(&kernel)?;
    archive.init(&guest::script(&tests, &kernel, binaries)?)?;
    guest::boot(&kernel, &archive.pack()?, line)
}
