//! The images that every node has: made from what is on this machine, as no registry is asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use mesh_test_harness::binary::Build;

use crate::oci::Image;
use crate::programs;

/// What holds a pod's namespaces.
pub const PAUSE: &str = "localhost/pause:local";
/// A shell, `curl`, `ip`, `httpd` and more, for pods of tests.
pub const TOOLS: &str = "localhost/tools:local";
/// The name server.
pub const COREDNS: &str = "localhost/coredns:local";

/// The mesh: the program under test, under the name that the manifests have.
pub const MESH: &str = concat!("nodemesh.dev/mesh-node:", env!("CARGO_PKG_VERSION"));

/// The same of an earlier commit, beside it.
pub const PREVIOUS_MESH: &str = "nodemesh.dev/mesh-node:previous";

/// The conformance suite's pods, as the suite calls them.
pub const ECHO: &str = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1";

/// What scrapes.
pub const PROMETHEUS: &str = "localhost/prometheus:local";

/// A proxy in front of the mesh.
pub const NGINX: &str = "localhost/nginx:local";

/// The sample application's: what its manifests call them is what a registry would have.
const APPLICATION: [Made; 3] = [
    Made {
        name: "docker.io/library/nginx:1",
        stem: "application-nginx",
        entrypoint: &[],
        command: &[],
        fill: nginx_program,
    },
    Made {
        name: "docker.io/library/python:3",
        stem: "application-python",
        entrypoint: &[],
        command: &[],
        fill: python_program,
    },
    Made {
        name: "docker.io/library/redis:8",
        stem: "application-redis",
        entrypoint: &[],
        command: &[],
        fill: redis_program,
    },
];

/// It waits, ends when it is told to, and buries the processes that nobody else does.
const PAUSE_SOURCE: &str = "\
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { exit(0); }
static void bury(int signal) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
	signal(SIGINT, end);
	signal(SIGTERM, end);
	signal(SIGCHLD, bury);
	for (;;) pause();
}
";
/// What tools has besides busybox.
const PROGRAMS: [&str; 3] = ["/usr/bin/curl", "/usr/bin/getent", "/bin/ip"];
/// Loaded by name when a program asks for an address.
const NAME_LIBRARIES: [&str; 3] = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"];
/// Where Debian's libraries are.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

/// An image, and what fills its root.
struct Made {
    name: &'static str,
    stem: &'static str,
    entrypoint: &'static [&'static str],
    command: &'static [&'static str],
    fill: fn(&Path) -> Result<()>,
}

const ALL: [Made; 3] = [
    Made { name: PAUSE, stem: "pause", entrypoint: &["/pause"], command: &[], fill: pause },
    Made { name: TOOLS, stem: "tools", entrypoint: &[], command: &["/bin/sh"], fill: tools },
    Made { name: COREDNS, stem: "coredns", entrypoint: &["/coredns"], command: &[], fill: coredns },
];

/// Makes all images below `folder`; returns their archives.
///
/// # Errors
/// A program that an image is made of is missing or cannot be built.
pub fn make(folder: &Path) -> Result<Vec<PathBuf>> {
    ALL.iter().map(|image| image.make(folder)).collect()
}

/// Makes the image of the mesh from the program that was built for tests: `cargo xtask image` links it whole, which
/// takes longer than all tests. Returns its archive.
///
/// # Errors
/// The program cannot be built or copied, or nothing names that of the earlier commit.
pub fn mesh(folder: &Path, build: Build) -> Result<PathBuf> {
    let (name, stem, fill): (_, _, fn(&Path) -> Result<()>) = match build {
        Build::Own => (MESH, "mesh-node", |root| mesh_node(root, Build::Own)),
        Build::Previous => (PREVIOUS_MESH, "previous", |root| mesh_node(root, Build::Previous)),
    };
    Made { name, stem, entrypoint: &["/usr/bin/mesh-node"], command: &[], fill }.make(folder)
}

impl Made {
    fn make(&self, folder: &Path) -> Result<PathBuf> {
        let root = folder.join(self.stem);
        fs::create_dir_all(root.join("tmp")).with_context(|| format!("make {}", root.display()))?;
        (self.fill)(&root).with_context(|| format!("make the image {}", self.name))?;
        let archive = folder.join(format!("{}.tar", self.stem));
        let Self { name, entrypoint, command, .. } = self;
        Image { name, root: &root, entrypoint, command }.write(&archive)?;
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
        Ok(archive)
    }
}

fn pause(root: &Path) -> Result<()> {
    let source = root.join("tmp/pause.c");
    fs::write(&source, PAUSE_SOURCE)?;
    let mut cc = Command::new("cc");
    cc.args(["-Os", "-static", "-o"]).arg(root.join("pause")).arg(&source);
    output(&mut cc)?;
    Ok(fs::remove_file(source)?)
}

fn coredns(root: &Path) -> Result<()> {
    copy(&programs::coredns()?, &root.join("coredns"))
}

/// Makes the image of the conformance suite's pods. Returns its archive.
///
/// # Errors
/// Its programs cannot be built or copied.
pub fn echo(folder: &Path) -> Result<PathBuf> {
    Made { name: ECHO, stem: "echo", entrypoint: &["/usr/bin/server"], command: &[], fill: echo_programs }
        .make(folder)
}

/// Makes the image of Debian's Prometheus. Returns its archive.
///
/// # Errors
/// It is not installed, or cannot be copied.
pub fn prometheus(folder: &Path) -> Result<PathBuf> {
    let entrypoint = &["/usr/bin/prometheus"];
    Made { name: PROMETHEUS, stem: "prometheus", entrypoint, command: &[], fill: prometheus_program }
        .make(folder)
}

/// Makes the image of Debian's nginx, which has no configuration. Returns its archive.
///
/// # Errors
/// It is not installed, or cannot be copied.
pub fn nginx(folder: &Path) -> Result<PathBuf> {
    let entrypoint = &["/usr/sbin/nginx"];
    Made { name: NGINX, stem: "nginx", entrypoint, command: &[], fill: nginx_program }.make(folder)
}

fn nginx_program(root: &Path) -> Result<()> {
    copy_linked(Path::new("/usr/sbin/nginx"), root)?;
    // It begins by opening a log here, and by asking who it is to be.
    for folder in ["etc", "var/log/nginx", "var/lib/nginx"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?)
}

/// Makes the images of the sample application from Debian's programs. Returns their archives.
///
/// # Errors
/// A program is not installed, or cannot be copied.
pub fn application(folder: &Path) -> Result<Vec<PathBuf>> {
    APPLICATION.iter().map(|image| image.make(folder)).collect()
}

fn redis_program(root: &Path) -> Result<()> {
    copy_linked(Path::new("/usr/bin/redis-server"), root)
}

/// The interpreter and what it comes with.
fn python_program(root: &Path) -> Result<()> {
    let python = Path::new("/usr/bin/python3");
    copy_linked(python, root)?;
    let asked = ["-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"];
    let library = PathBuf::from(output(Command::new(python).args(asked))?.trim());
    let place = inside(root, &library);
    fs::create_dir_all(place.parent().unwrap_or(root))?;
    output(Command::new("cp").arg("-rL").arg(&library).arg(&place))?;
    names(root)
}

fn prometheus_program(root: &Path) -> Result<()> {
    copy_linked(Path::new("/usr/bin/prometheus"), root)
}

/// Copies a program with the libraries that it is linked with.
fn copy_linked(program: &Path, root: &Path) -> Result<()> {
    copy(program, &inside(root, program))?;
    libraries(program)?.iter().try_for_each(|library| copy(library, &inside(root, library)))
}

fn echo_programs(root: &Path) -> Result<()> {
    let programs = programs::echo()?;
    for name in ["client", "server"] {
        copy(&programs.join(name), &root.join("usr/bin").join(name))?;
    }
    // Its server wants one, and nobody checks it.
    let certificate = rcgen::generate_simple_self_signed(["echo".to_owned()])?;
    fs::write(root.join("cert.crt"), certificate.cert.pem())?;
    Ok(fs::write(root.join("cert.key"), certificate.signing_key.serialize_pem())?)
}

fn mesh_node(root: &Path, build: Build) -> Result<()> {
    let built = build.mesh_node()?;
    let program = root.join("usr/bin/mesh-node");
    copy(built, &program)?;
    symlink("mesh-node", root.join("usr/bin/kubectl-mesh"))?;
    for library in libraries(built)? {
        copy(&library, &inside(root, &library))?;
    }
    // What a debugger wants is nine tenths of it, for every node to unpack.
    output(Command::new("strip").arg(program)).map(drop)
}

fn tools(root: &Path) -> Result<()> {
    // As Debian has it: one place under two names.
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(folder))?;
        symlink(Path::new("usr").join(folder), root.join(folder))?;
    }
    copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    for applet in output(Command::new("/bin/busybox").arg("--list"))?.lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    for program in PROGRAMS.map(Path::new) {
        let place = inside(root, program);
        // Busybox has a smaller one of that name.
        let _ = fs::remove_file(&place);
        copy_linked(program, root)?;
    }
    names(root)
}

/// What the C library loads to ask for an address.
fn names(root: &Path) -> Result<()> {
    for library in NAME_LIBRARIES {
        let library = Path::new(LIBRARIES).join(library);
        copy(&library, &inside(root, &library))?;
    }
    fs::create_dir_all(root.join("etc"))?;
    Ok(fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?)
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The libraries that a program is linked with, and its loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(program))?;
    let paths = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// The file itself, whatever links lead to it, for all to run.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", to.display()))
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read what {name} says"))
}
