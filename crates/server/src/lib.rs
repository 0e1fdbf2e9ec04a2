//! The control plane: API, operations, reconciler, roles.
