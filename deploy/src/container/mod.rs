//! The container target: scorers as containers of a Docker or Podman Engine.
