//! Scoring scripts in a pool of Python worker processes, behind [`moorline_core::Script`].
