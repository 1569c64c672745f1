//! Throughput, latency, CPU and memory against no mesh and against Envoy.
