//! The kernel programs' user side: the only importer of aya and `mesh_common::abi`.

/// The kernel programs that this binary carries, built from `mesh-ebpf/`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT_PATH"));
