//! Builds the kernel programs: finds a tool chain that can, or says exactly what is missing.
//!
//! In: the workspace's root and a target folder of its own, so that a build inside another build waits for no
//! lock. Out: the path of the object. Used by `cargo xtask` and, through `#[path]`, by `mesh-node/build.rs`: one
//! recipe for both. Only the standard library is used, because build scripts compile it too.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
const BPF_LINKER_VERSION: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// How `core` for the kernel's target is had.
#[derive(Clone, Debug)]
pub enum Toolchain {
    /// A `rustc` that has it prebuilt: Debian's packages `rustc-web` and `libstd-rust-web-dev-bpf`.
    Prebuilt {
        /// The compiler.
        rustc: PathBuf,
    },
    /// A rustup nightly with `rust-src`, which builds it.
    Nightly,
}

/// Why the programs could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// A tool is missing; each line names one and how to get it.
    Missing(Vec<String>),
    /// The compiler could not be started.
    Start(std::io::Error),
    /// The compiler failed; its output has been printed.
    Failed {
        /// The command.
        command: String,
        /// What it printed.
        output: String,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(lines) => {
                write!(f, "the kernel programs cannot be built here:")?;
                lines.iter().try_for_each(|line| write!(f, "\n  - {line}"))?;
                write!(
                    f,
                    "\n`cargo xtask setup` gets them; MESH_EBPF_OBJECT=PATH uses an object that was built elsewhere"
                )
            }
            Self::Start(_) => write!(f, "start cargo for the kernel programs"),
            Self::Failed { command, output } => write!(f, "`{command}` failed:\n{output}"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(error) => Some(error),
            Self::Missing(_) | Self::Failed { .. } => None,
        }
    }
}

/// Builds the kernel programs of the workspace at `workspace` into `target_dir`, and returns the object's path.
///
/// # Errors
/// [`BuildError::Missing`] names every tool that is not there; [`BuildError::Failed`] has the compiler's words.
pub fn build(workspace: &Path, target_dir: &Path) -> Result<PathBuf, BuildError> {
    let toolchain = find_toolchain()?;
    let mut command = cargo(&toolchain, workspace);
    command
        .current_dir(workspace)
        .args(["build", "--package", "mesh-ebpf", "--release", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        // What the programs' profile must not inherit from the binary's: bpf-linker links by itself.
        .args(["--config", "profile.release.lto=false", "--config", "profile.release.debug=2"]);
    let output = command.output().map_err(BuildError::Start)?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BuildError::Failed { command: format!("{command:?}"), output });
    }
    Ok(target_dir.join(TARGET).join("release/mesh-ebpf"))
}

/// Finds what can build the kernel programs.
///
/// # Errors
/// [`BuildError::Missing`] names every tool that is not there.
pub fn find_toolchain() -> Result<Toolchain, BuildError> {
    let mut missing = Vec::new();
    if find_program("bpf-linker").is_none() {
        missing.push(format!(
            "bpf-linker: `LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version {BPF_LINKER_VERSION} \
             --no-default-features --features llvm-22` (package llvm-22-dev)"
        ));
    }
    let toolchain = prebuilt().or_else(nightly);
    if toolchain.is_none() {
        missing.push(format!(
            "core for {TARGET}: Debian packages `rustc-web libstd-rust-web-dev-bpf`, or \
             `rustup toolchain install nightly --component rust-src`"
        ));
    }
    match toolchain {
        Some(toolchain) if missing.is_empty() => Ok(toolchain),
        _ => Err(BuildError::Missing(missing)),
    }
}

fn prebuilt() -> Option<Toolchain> {
    let rustc = env::var_os("MESH_EBPF_RUSTC").map_or_else(|| PathBuf::from(DEBIAN_RUSTC), PathBuf::from);
    let sysroot = printed(Command::new(&rustc).args(["--print", "sysroot"]))?;
    let core = Path::new(&sysroot).join("lib/rustlib").join(TARGET);
    core.is_dir().then_some(Toolchain::Prebuilt { rustc })
}

fn nightly() -> Option<Toolchain> {
    let sysroot = printed(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
    source.is_dir().then_some(Toolchain::Nightly)
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cargo(toolchain: &Toolchain, workspace: &Path) -> Command {
    let mut command = match toolchain {
        Toolchain::Prebuilt { rustc } => {
            let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            // `-C link-arg`, and the attributes that the kernel's target needs, are unstable there.
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            command
        }
        Toolchain::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
            command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
            command
        }
    };
    // What an outer cargo or clippy set for its own compiler.
    for name in
        ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(name);
    }
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    // The object names its sources, and must be the same wherever they are.
    let moved = [(Some(workspace.to_path_buf()), "/nodemesh"), (cargo_home(), "/cargo")];
    let moved = moved.into_iter().filter_map(|(folder, name)| {
        folder.map(|folder| format!("--remap-path-prefix={}={name}", folder.display()))
    });
    let flags = flags.into_iter().chain(moved).collect::<Vec<_>>();
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    if let Some(path) = search_path() {
        command.env("PATH", path);
    }
    command
}

fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// `PATH`, and where `cargo install` puts programs.
fn search_path() -> Option<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(cargo_home().map(|home| home.join("bin")));
    env::join_paths(folders).ok()
}

fn cargo_home() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}
