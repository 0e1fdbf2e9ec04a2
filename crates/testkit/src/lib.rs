//! Conformance suites for the seams, fakes that pass them, and fixtures.
