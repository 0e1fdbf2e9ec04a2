//! Turns a panic of an engine's library into an error, so that one bad model or input never takes a thread away.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; a panic becomes its message.
///
/// The caller must not use again whatever `work` may have left half done: sessions rebuild their state after a panic.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        format!("the engine panicked: {message}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(guarded(|| panic!("static")), Err::<(), _>("the engine panicked: static".to_owned()));
        let number = 7;
        assert_eq!(
            guarded(|| panic!("formatted {number}")),
            Err::<(), _>("the engine panicked: formatted 7".to_owned())
        );
    }
}
