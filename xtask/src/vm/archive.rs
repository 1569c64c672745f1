//! The archive that the guest boots from: programs at the paths that they have here, their libraries, the modules.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::vm::kernel::Kernel;
use crate::workspace;

/// Folders and files of modules that the tests may need, below `kernel/`.
const MODULES: &[&str] =
    &["net", "lib", "crypto", "arch/x86/crypto", "drivers/net/veth.ko", "drivers/net/dummy.ko"];

/// A folder that becomes the guest's root.
pub struct Archive {
    root: PathBuf,
}

impl Archive {
    /// Begins with what every guest needs: a shell and the folders that are mounted upon.
    ///
    /// # Errors
    /// If the folder cannot be made, or there is no busybox.
    pub fn create() -> Result<Self> {
        let root = workspace::root().join("target/vm/root");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("clear {}", root.display()))?;
        }
        for folder in ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "etc", "usr/bin", "usr/sbin"] {
            fs::create_dir_all(root.join(folder)).with_context(|| format!("make {folder} of the guest"))?;
        }
        let archive = Self { root };
        let busybox = process::find("busybox").context("no busybox: cargo xtask setup")?;
        archive.copy(&busybox, Path::new("/bin/busybox"))?;
        archive.libraries(&busybox)?;
        // What the kernel calls to load a module.
        symlink("/bin/busybox", archive.root.join("sbin/modprobe")).context("link modprobe")?;
        symlink("/bin/busybox", archive.root.join("bin/sh")).context("link sh")?;
        Ok(archive)
    }

    /// Adds a program of the system, to be found on PATH.
    ///
    /// # Errors
    /// If it is not here.
    pub fn tool(&mut self, name: &str) -> Result<()> {
        let file = process::find(name).with_context(|| format!("no {name}: cargo xtask setup"))?;
        self.copy(&file, &Path::new("/usr/bin").join(name))?;
        self.libraries(&file)
    }

    /// Adds a built program at the very path that it has here, without its symbols: the guest's disk is its memory.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn program(&mut self, file: &Path) -> Result<()> {
        let inside = self.inside(file)?;
        process::run(Command::new("strip").arg("--strip-all").arg("-o").arg(&inside).arg(file))?;
        self.libraries(file)
    }

    /// Adds the modules of a kernel.
    ///
    /// # Errors
    /// If one of them is not there.
    pub fn modules(&mut self, kernel: &Kernel) -> Result<()> {
        let inside = self.root.join("lib/modules").join(&kernel.release);
        for name in MODULES {
            let from = kernel.modules.join("kernel").join(name);
            let to = inside.join("kernel").join(name);
            fs::create_dir_all(to.parent().context("a module stands in a folder")?)?;
            process::run(Command::new("cp").arg("-r").arg(from).arg(to))?;
        }
        for name in ["modules.builtin", "modules.order"] {
            fs::copy(kernel.modules.join(name), inside.join(name)).with_context(|| format!("copy {name}"))?;
        }
        Ok(())
    }

    /// Adds what the guest's first process runs.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn init(&mut self, script: &str) -> Result<()> {
        let init = self.root.join("init");
        fs::write(&init, script).context("write the guest's script")?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("make it executable")
    }

    /// Packs everything, and returns the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn pack(self) -> Result<PathBuf> {
        let file = self.root.with_extension("cpio");
        let mut pack = Command::new("sh");
        pack.arg("-c").arg("find . | busybox cpio --quiet -o -H newc > \"$0\"").arg(&file);
        process::run(pack.current_dir(&self.root)).context("pack the guest's root")?;
        Ok(file)
    }

    /// Adds the libraries of a program, as the dynamic linker finds them.
    fn libraries(&self, file: &Path) -> Result<()> {
        // A program without libraries makes ldd fail.
        let output = Command::new("ldd").arg(file).output().context("start ldd")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            if !self.root.join(library.trim_start_matches('/')).exists() {
                self.copy(Path::new(library), Path::new(library))?;
            }
        }
        Ok(())
    }

    fn copy(&self, file: &Path, inside: &Path) -> Result<()> {
        let inside = self.inside(inside)?;
        fs::copy(file, &inside).with_context(|| format!("copy {}", file.display()))?;
        Ok(())
    }

    /// Where a path of the guest is here; its folder is made.
    fn inside(&self, path: &Path) -> Result<PathBuf> {
        let inside = self.root.join(path.strip_prefix("/").context("a path from the root")?);
        fs::create_dir_all(inside.parent().context("a file stands in a folder")?)
            .with_context(|| format!("make the folder of {}", inside.display()))?;
        Ok(inside)
    }
}

/// The paths in lines as `libc.so.6 => /lib/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn libraries(lines: &str) -> impl Iterator<Item = &str> {
    lines.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let lines = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibmnl.so.0 => /lib/libmnl.so.0 (0x00007f)\n\
                     \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let found: Vec<&str> = libraries(lines).collect();
        assert_eq!(found, ["/lib/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
