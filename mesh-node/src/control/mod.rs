//! The reconciler: Kubernetes objects in, deltas and snapshots out. The only importer of kube.

pub mod documents;
pub mod object;
pub mod resources;
pub mod translate;
