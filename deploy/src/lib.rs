//! Targets: local processes, and the environments that they need.
