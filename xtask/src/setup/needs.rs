//! What building and testing need: how to tell that it is here, why it is needed, where it comes from.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process;
use crate::setup::go;
use crate::vm::kernel;

/// Name of the compiler for kernel programs.
pub const KERNEL_COMPILER: &str = "rustc for bpfel";

/// Name of the kernel that tests boot.
pub const OLDEST_KERNEL: &str = "Linux 6.1";

/// One thing that must be here.
pub struct Need {
    pub name: &'static str,
    /// What it is needed for.
    pub reason: &'static str,
    present: Present,
    pub source: Source,
}

/// How to tell that it is here; cheap enough to ask each time.
enum Present {
    /// A program of that name.
    Program(&'static str),
    /// A program that starts: what it was linked against is here too.
    Starts(&'static str),
    /// A file or folder.
    File(&'static str),
    /// Debian's rustc with a core for `bpfel-unknown-none`, or a nightly of rustup with rust-src.
    KernelCompiler,
    /// An unpacked kernel.
    OldestKernel,
    /// A Go that builds Kubernetes.
    Go,
}

/// Where it comes from.
pub enum Source {
    /// Debian packages.
    Debian(&'static [&'static str]),
    /// `cargo install`, after the Debian packages that its build needs.
    Cargo {
        arguments: &'static [&'static str],
        environment: &'static [(&'static str, &'static str)],
        packages: &'static [&'static str],
    },
    /// A Debian package that is unpacked into the target folder and not installed.
    OldestKernel,
    /// Debian's package where it is new enough, else a person.
    Go,
}

/// Everything but what clusters need, in the order in which it is reported.
pub const NEEDS: &[Need] = &[
    debian("cc", "links everything, builds aws-lc", Present::Program("cc"), &["gcc", "libc6-dev"]),
    debian("c++", "builds libFuzzer", Present::Program("c++"), &["g++"]),
    Need {
        name: KERNEL_COMPILER,
        reason: "compiles the kernel programs without a nightly",
        present: Present::KernelCompiler,
        source: Source::Debian(&["rustc-web", "libstd-rust-web-dev-bpf"]),
    },
    Need {
        name: "bpf-linker",
        reason: "links the kernel programs",
        present: Present::Starts("bpf-linker"),
        source: Source::Cargo {
            // The LLVM of Debian's rustc; a newer compiler's bitcode could not be read by an older one.
            arguments: &[
                "bpf-linker",
                "--version",
                "0.13.0",
                "--no-default-features",
                "--features",
                "llvm-22",
            ],
            environment: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
            packages: &["g++", "libpolly-22-dev", "libzstd-dev", "llvm-22-dev", "zlib1g-dev"],
        },
    },
    Need {
        name: "cargo-deny",
        reason: "checks dependencies",
        present: Present::Starts("cargo-deny"),
        // Without optimising it builds in a third of the time, and still checks in seconds.
        source: Source::Cargo {
            arguments: &["cargo-deny", "--version", "0.20.2", "--debug"],
            environment: &[],
            packages: &[],
        },
    },
    debian("ip", "makes the namespaces that are pods", Present::Program("ip"), &["iproute2"]),
    debian("nft", "masquerades, as a node does", Present::Program("nft"), &["nftables"]),
    debian("tcpdump", "captures the wire", Present::Program("tcpdump"), &["tcpdump"]),
    debian("nginx", "a web server in a pod", Present::Program("nginx"), &["nginx"]),
    debian("redis-server", "a database in a pod", Present::Program("redis-server"), &["redis-server"]),
    debian("redis-cli", "its client", Present::Program("redis-cli"), &["redis-tools"]),
    debian(
        "PostgreSQL",
        "a database in a pod that its client speaks to first",
        Present::File("/usr/lib/postgresql"),
        &["postgresql"],
    ),
    debian("psql", "its client", Present::Program("psql"), &["postgresql-client"]),
    debian(
        "mariadbd",
        "a database in a pod that speaks first",
        Present::Program("mariadbd"),
        &["mariadb-server-core"],
    ),
    debian("mariadb", "its client", Present::Program("mariadb"), &["mariadb-client-core"]),
    debian(
        "aiosmtpd",
        "a mail server in a pod, which speaks first",
        Present::Program("aiosmtpd"),
        &["python3-aiosmtpd"],
    ),
    debian(
        "sshd",
        "a server in a pod that speaks when its client does",
        Present::Program("sshd"),
        &["openssh-server"],
    ),
    debian("ssh", "its client", Present::Program("ssh"), &["openssh-client"]),
    debian("openssl", "makes a certificate for a pod's own TLS", Present::Program("openssl"), &["openssl"]),
    debian("setpriv", "runs what refuses to be root", Present::Program("setpriv"), &["util-linux"]),
    debian(
        "qemu-system-x86_64",
        "boots the oldest kernel that is promised",
        Present::Program("qemu-system-x86_64"),
        &["qemu-system-x86"],
    ),
    debian("busybox", "is that guest's shell", Present::Program("busybox"), &["busybox-static"]),
    debian("strip", "makes that guest's programs small", Present::Program("strip"), &["binutils"]),
    Need {
        name: OLDEST_KERNEL,
        reason: "the oldest kernel that is promised",
        present: Present::OldestKernel,
        source: Source::OldestKernel,
    },
    debian("curl", "a web client in a pod", Present::Program("curl"), &["curl"]),
    debian("wrk", "measures requests", Present::Program("wrk"), &["wrk"]),
    debian("iperf3", "measures bulk transfer", Present::Program("iperf3"), &["iperf3"]),
    debian(
        "python3 venv",
        "installs the Envoy that bench compares with, and a test suite for WebSockets",
        Present::Program("python3"),
        &["python3", "python3-venv"],
    ),
    debian(
        "CA certificates",
        "registries are reached over TLS",
        Present::File("/etc/ssl/certs"),
        &["ca-certificates"],
    ),
];

/// What the demo needs of it, by name: no emulator, no databases, nothing that only checks or measures.
pub const DEMO: &[&str] = &[
    "cc",
    KERNEL_COMPILER,
    "bpf-linker",
    "ip",
    "tcpdump",
    "nginx",
    "redis-server",
    "redis-cli",
    "curl",
    "CA certificates",
];

/// What clusters need besides.
pub const CLUSTER: &[Need] = &[
    Need { name: "Go", reason: "builds Kubernetes and containerd", present: Present::Go, source: Source::Go },
    debian(
        "libseccomp",
        "is linked into runc, which starts containers",
        Present::File("/usr/include/seccomp.h"),
        &["libseccomp-dev"],
    ),
    debian("pkg-config", "tells Go where that is", Present::Program("pkg-config"), &["pkg-config"]),
    debian(
        "network plugins",
        "join pods to the network",
        Present::File("/usr/lib/cni/bridge"),
        &["containernetworking-plugins"],
    ),
    debian("prometheus", "scrapes the mesh, as people do", Present::Program("prometheus"), &["prometheus"]),
];

const fn debian(
    name: &'static str,
    reason: &'static str,
    present: Present,
    packages: &'static [&'static str],
) -> Need {
    Need { name, reason, present, source: Source::Debian(packages) }
}

impl Need {
    /// Returns whether it is here.
    pub fn is_present(&self) -> bool {
        match self.present {
            Present::Program(program) => process::find(program).is_some(),
            Present::Starts(program) => process::find(program).is_some_and(|path| starts(&path)),
            Present::File(path) => Path::new(path).exists(),
            Present::OldestKernel => kernel::is_present(),
            Present::Go => go::is_present(),
            Present::KernelCompiler => has_debian_kernel_compiler() || has_nightly_with_source(),
        }
    }

    /// Returns the Debian packages that bring it, or that its build needs.
    pub fn packages(&self) -> &'static [&'static str] {
        match self.source {
            Source::Debian(packages) | Source::Cargo { packages, .. } => packages,
            Source::Go if go::is_packaged() => &[go::PACKAGE],
            Source::OldestKernel | Source::Go => &[],
        }
    }

    /// Returns what a person must do, if nothing else brings it.
    pub fn by_hand(&self) -> Option<&'static str> {
        (matches!(self.source, Source::Go) && !go::is_packaged()).then_some(go::BY_HAND)
    }

    /// Returns whether it is a package that is unpacked, which needs apt's lists and no rights.
    pub fn is_unpacked(&self) -> bool {
        matches!(self.source, Source::OldestKernel)
    }

    /// Returns the line that installs it with cargo, if cargo does.
    pub fn cargo_line(&self) -> Option<String> {
        let Source::Cargo { arguments, environment, .. } = self.source else {
            return None;
        };
        let environment: String =
            environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        Some(format!("{environment}cargo install --locked {}", arguments.join(" ")))
    }
}

fn starts(path: &Path) -> bool {
    let mut command = Command::new(path);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn has_debian_kernel_compiler() -> bool {
    Path::new("/usr/bin/rustc").exists() && Path::new("/usr/lib/rustlib/bpfel-unknown-none/lib").exists()
}

fn has_nightly_with_source() -> bool {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".rustup")));
    let Some(toolchains) = home.and_then(|home| std::fs::read_dir(home.join("toolchains")).ok()) else {
        return false;
    };
    toolchains
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nightly"))
        .any(|entry| entry.path().join("lib/rustlib/src/rust/library/core").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_how_to_get_it() {
        for need in NEEDS.iter().chain(CLUSTER) {
            let is_brought = !need.packages().is_empty() || need.cargo_line().is_some() || need.is_unpacked();
            assert!(is_brought || need.by_hand().is_some(), "{} has no source", need.name);
        }
    }

    #[test]
    fn what_a_demo_needs_is_named_as_it_is_here() {
        for name in DEMO {
            assert!(NEEDS.iter().any(|need| need.name == *name), "{name} is none of the needs");
        }
    }

    #[test]
    fn a_cargo_line_can_be_pasted() {
        let linker = NEEDS.iter().find(|need| need.name == "bpf-linker").expect("it is needed");
        assert_eq!(
            linker.cargo_line().as_deref(),
            Some(
                "LLVM_PREFIX=/usr/lib/llvm-22 cargo install --locked bpf-linker --version 0.13.0 \
                 --no-default-features --features llvm-22"
            )
        );
    }
}
