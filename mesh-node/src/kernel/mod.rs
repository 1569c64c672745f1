//! The kernel programs' user side: the only importer of aya and `mesh_common::abi`.
