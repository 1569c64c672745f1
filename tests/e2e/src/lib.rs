//! End-to-end tests: real eBPF, real daemons, pods as network namespaces.
