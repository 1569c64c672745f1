//! Builds the kernel programs and says where their object is, for `kernel::load` to embed.
//!
//! `MESH_EBPF_OBJECT=PATH` uses an object that was built elsewhere.

use std::env;
use std::path::{Path, PathBuf};

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;

fn main() {
    println!("cargo::rerun-if-env-changed=MESH_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=MESH_EBPF_RUSTC");
    let object = match env::var_os("MESH_EBPF_OBJECT") {
        Some(path) => prebuilt(PathBuf::from(path)),
        None => built(),
    };
    println!("cargo::rustc-env=MESH_EBPF_OBJECT_PATH={}", object.display());
}

fn prebuilt(path: PathBuf) -> PathBuf {
    println!("cargo::rerun-if-changed={}", path.display());
    path.canonicalize().unwrap_or_else(|error| panic!("MESH_EBPF_OBJECT={}: {error}", path.display()))
}

fn built() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let workspace = Path::new(&manifest).parent().expect("the crate is in a workspace");
    for source in ["mesh-ebpf", "mesh-common/src/abi", "mesh-common/Cargo.toml", "xtask/src/build_ebpf.rs"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    match build_ebpf::build(workspace, &Path::new(&out).join("ebpf")) {
        Ok(object) => object,
        Err(error) => panic!("{error}"),
    }
}
