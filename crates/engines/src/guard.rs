//! Turns a panic of an engine's library into an error, so that one bad model or input never takes a thread away, nor
//! fills the log with what the process prints of a panic by default.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind},
    sync::Once,
    thread,
};

/// Characters of a message that are kept: engines like to print whole graphs.
const LONGEST_MESSAGE: usize = 600;

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic inside [`guarded`] happened.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; a panic becomes its message and its place, which are logged at debug and never printed.
///
/// The caller must not use again whatever `work` may have left half done: sessions rebuild their state after a panic.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    quieten();
    let outer = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    result.map_err(|payload| {
        let message = shortened(message(&*payload).to_owned());
        let place = PLACE.take().unwrap_or_else(|| "an unknown place".to_owned());
        tracing::debug!(message, place, "an engine panicked");
        format!("the engine panicked: {message} ({place})")
    })
}

/// `text` in a length that can be shown.
pub(crate) fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST_MESSAGE) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Puts a hook before the process's own, once: it keeps panics inside [`guarded`] to itself and passes on all others.
fn quieten() {
    static INSTALLED: Once = Once::new();
    // A thread that is panicking already cannot change the hook; the next one will.
    if INSTALLED.is_completed() || thread::panicking() {
        return;
    }
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Thread-locals may be gone when a thread ends; then it is nobody's guarded work either.
            if INSIDE.try_with(Cell::get).unwrap_or(false) {
                // The only failure is the same.
                let _ = PLACE.try_with(|last| last.replace(place(info)));
            } else {
                previous(info);
            }
        }));
    });
}

/// `crate-1.2.3/src/file.rs:7`: the file from its crate's folder on, since what comes before only tells of the
/// machine that built us.
fn place(info: &PanicHookInfo<'_>) -> Option<String> {
    let location = info.location()?;
    let file = location.file();
    let folder = file.rfind("/src/").map_or(file, |end| &file[..end]);
    let start = folder.rfind('/').filter(|_| folder.len() < file.len()).map_or(0, |slash| slash + 1);
    Some(format!("{}:{}", &file[start..], location.line()))
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message_and_place() {
        assert_eq!(guarded(|| 1), Ok(1));
        let reason = guarded(|| panic!("static")).unwrap_err();
        assert!(reason.starts_with("the engine panicked: static ("), "{reason}");
        let here = line!() + 2;
        let number = 7;
        let reason = guarded(|| panic!("formatted {number}")).unwrap_err();
        assert_eq!(reason, format!("the engine panicked: formatted 7 (engines/src/guard.rs:{here})"));
    }

    #[test]
    fn a_long_message_is_cut() {
        let reason = guarded(|| panic!("{}", "ä".repeat(10_000))).unwrap_err();
        assert!(reason.contains("ä…"), "{reason}");
        assert!(reason.chars().count() < LONGEST_MESSAGE + 200);
    }

    /// Panics inside and outside of a guard, for the test below, which runs it in a process of its own.
    #[test]
    #[ignore = "run by only_what_is_caught_here_is_not_printed"]
    fn child() {
        let caught = guarded(|| {
            // An inner guard leaves the outer one in place.
            assert!(guarded(|| panic!("quiet inner")).is_err());
            panic!("quiet outer")
        });
        assert_eq!(caught.map_err(|reason| reason.contains("quiet outer")), Err::<(), _>(true));
        assert!(catch_unwind(|| panic!("loud")).is_err());
    }

    #[test]
    fn only_what_is_caught_here_is_not_printed() {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "guard::tests::child", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{printed}");
        assert!(printed.contains("loud"), "other panics are printed as ever: {printed}");
        assert!(!printed.contains("quiet"), "caught panics are not printed: {printed}");
    }
}
