//! Nodes, pods, servers and clients for tests: real namespaces, real daemons.
