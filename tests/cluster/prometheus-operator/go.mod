// Whose definitions tests hold our objects against: files of it are taken, nothing is built.
module nodemesh.dev/tests/cluster/prometheus-operator

go 1.24.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
