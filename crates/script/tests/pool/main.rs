//! The pool with real Python and real processes: `MOORLINE_TEST_PYTHON`, or `python3` on the path.

#[cfg(test)]
mod batches;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod flask;
#[cfg(test)]
mod loading;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod mlflow;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod support;
#[cfg(test)]
mod times;
#[cfg(test)]
mod versions;
