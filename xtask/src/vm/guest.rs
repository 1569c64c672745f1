//! The guest: what it runs, and the emulator that it runs in.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::binaries::{Binaries, Binary};
use crate::process;
use crate::vm::kernel::Kernel;

/// Longest time for the whole guest, in seconds.
const DEADLINE: &str = "600";

/// How much slower than the machine the guest may be: bounded waits are longer by that.
const SLOWNESS: &str = "10";

/// Says that every test passed; what the emulator itself says about its end does not tell.
const PASSED: &str = "guest: every test passed";

/// One test binary and the words that it is started with.
pub struct Test<'a> {
    pub binary: &'a Binary,
    pub words: Vec<&'a str>,
}

/// What the guest's first process runs.
pub fn script(tests: &[Test], kernel: &Kernel, binaries: &Binaries) -> Result<String> {
    let mut lines = vec![
        "#!/bin/busybox sh".to_owned(),
        "/bin/busybox --install -s /bin".to_owned(),
        "export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/tmp".to_owned(),
        "mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev".to_owned(),
        "mkdir -p /run/netns && echo root:x:0:0:root:/:/bin/sh > /etc/passwd".to_owned(),
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t bpf bpf /sys/fs/bpf".to_owned(),
        "stty -onlcr".to_owned(),
        format!("depmod {}", kernel.release),
        // What tests make at the same time must not wait for the same module twice.
        "modprobe -a bridge veth nft_chain_nat nft_masq inet_diag tcp_diag sctp".to_owned(),
        "ip link set lo up".to_owned(),
        "echo \"guest: Linux $(uname -r), $(nproc) processors\"".to_owned(),
        format!("export MESH_TEST_SLOWNESS={SLOWNESS}"),
        format!("export MESH_NODE_BIN={}", binaries.program("mesh-node")?.display()),
        format!("export MESH_TEST_POD_BIN={}", binaries.program("mesh-test-pod")?.display()),
        "passed=yes".to_owned(),
    ];
    for Test { binary, words } in tests {
        // More than there are processors: a test waits about as much as it computes.
        let line = format!("{} --test-threads 3 {}", binary.executable().display(), words.join(" "));
        lines.push(format!("{line} || passed=no"));
    }
    lines.push(format!("test $passed = yes && echo '{PASSED}'"));
    lines.push("poweroff -f".to_owned());
    Ok(lines.join("\n") + "\n")
}

/// Boots, and hands on every line of the guest's console.
///
/// # Errors
/// The emulator does not start, the guest does not end in time, or a test failed.
pub fn boot(kernel: &Kernel, archive: &Path, mut line: impl FnMut(&str)) -> Result<()> {
    let emulator = process::find("qemu-system-x86_64").context("no emulator: cargo xtask setup")?;
    let mut command = process::command("timeout");
    command.args(["--kill-after=10", DEADLINE]).arg(emulator);
    // Emulated everywhere: hardware that is itself a guest is often not able to boot it.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(archive);
    command.stdin(std::process::Stdio::null());
    let mut passed = false;
    let ended = process::watch(command, |text| {
        passed |= text.trim_end() == PASSED;
        line(text.trim_end());
    })?;
    match (ended, passed) {
        (true, true) => Ok(()),
        (true, false) => bail!("tests on Linux {} failed; the guest's console is above", kernel.release),
        (false, _) => bail!(
            "the guest with Linux {} did not end by itself within {DEADLINE} s; its console is above",
            kernel.release
        ),
    }
}
