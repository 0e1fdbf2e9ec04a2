//! The pool with real Python and real processes: `MOORLINE_TEST_PYTHON`, or `python3` on the path.

mod batches;
mod contract;
mod crashes;
mod loading;
mod support;
mod times;
