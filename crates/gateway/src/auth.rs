//! Who may call: endpoint keys by their digests, tokens by asking whoever knows them, and no longer than need be.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, header};
use moorline_core::Digest;

use crate::{config::Verify, route::Auth};

/// Verdicts that are remembered at one time.
const MAX_VERDICTS: usize = 4096;

/// What was lately said of tokens. A token is remembered by its digest.
#[derive(Debug)]
pub(crate) struct Verdicts {
    lifetime: Duration,
    known: Mutex<HashMap<(Digest, String), (bool, Instant)>>,
}

impl Verdicts {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, known: Mutex::default() }
    }

    /// Whether a request with these headers may call `endpoint`.
    pub(crate) async fn allow(
        &self,
        auth: &Auth,
        endpoint: &str,
        headers: &HeaderMap,
        verify: &Verify,
    ) -> bool {
        if *auth == Auth::Open {
            return true;
        }
        let Some(credential) = bearer(headers) else { return false };
        let digest = Digest::of(credential.as_bytes());
        if let Auth::Key { hashes } = auth {
            // Both are looked at, whichever it is.
            let [primary, secondary] = hashes.map(|hash| same(&hash, &digest));
            if primary | secondary {
                return true;
            }
        }
        let key = (digest, endpoint.to_owned());
        if let Some(verdict) = self.recall(&key) {
            return verdict;
        }
        let verdict = verify(credential, endpoint).await;
        self.remember(key, verdict);
        verdict
    }

    fn recall(&self, key: &(Digest, String)) -> Option<bool> {
        let known = self.known();
        let (verdict, said) = known.get(key)?;
        (said.elapsed() < self.lifetime).then_some(*verdict)
    }

    fn remember(&self, key: (Digest, String), verdict: bool) {
        let mut known = self.known();
        if known.len() >= MAX_VERDICTS {
            known.retain(|_, (_, said)| said.elapsed() < self.lifetime);
        }
        // Full of fresh ones: somebody guesses. Theirs are asked for again, so are all others.
        if known.len() >= MAX_VERDICTS {
            known.clear();
        }
        known.insert(key, (verdict, Instant::now()));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(Digest, String), (bool, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The credential of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let credential = credential.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !credential.is_empty()).then_some(credential)
}

/// Takes as long for digests that differ in the first byte as for those that differ in the last.
fn same(a: &Digest, b: &Digest) -> bool {
    let difference =
        a.bytes().iter().zip(b.bytes()).fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    difference == 0
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().unwrap())])
    }

    /// Knows `token` at `iris`, and counts how often it is asked.
    fn verify() -> (Verify, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let verify: Verify = Arc::new(move |token, endpoint| {
            count.fetch_add(1, Ordering::Relaxed);
            let verdict = (token, endpoint) == ("token", "iris");
            Box::pin(async move { verdict })
        });
        (verify, asked)
    }

    #[tokio::test]
    async fn either_key_opens_and_nothing_else_does() {
        let (verify, _) = verify();
        let verdicts = Verdicts::new(Duration::from_mins(1));
        let auth = Auth::Key { hashes: [Digest::of(b"one"), Digest::of(b"two")] };
        for (authorization, allowed) in [
            ("Bearer one", true),
            ("bearer  two", true),
            ("Bearer token", true),
            ("Bearer three", false),
            ("Basic one", false),
            ("one", false),
            ("Bearer ", false),
        ] {
            let headers = headers(authorization);
            assert_eq!(verdicts.allow(&auth, "iris", &headers, &verify).await, allowed, "{authorization}");
        }
        assert!(!verdicts.allow(&auth, "iris", &HeaderMap::new(), &verify).await);
        assert!(verdicts.allow(&Auth::Open, "iris", &HeaderMap::new(), &verify).await);
    }

    #[tokio::test]
    async fn a_verdict_holds_for_a_while_and_for_one_endpoint() {
        let (verify, asked) = verify();
        let verdicts = Verdicts::new(Duration::from_mins(1));
        for _ in 0..3 {
            assert!(verdicts.allow(&Auth::Token, "iris", &headers("Bearer token"), &verify).await);
            assert!(!verdicts.allow(&Auth::Token, "iris", &headers("Bearer other"), &verify).await);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(!verdicts.allow(&Auth::Token, "other", &headers("Bearer token"), &verify).await);
        let forgetful = Verdicts::new(Duration::ZERO);
        for _ in 0..2 {
            assert!(forgetful.allow(&Auth::Token, "iris", &headers("Bearer token"), &verify).await);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let verdicts = Verdicts::new(Duration::from_mins(1));
        for guess in 0..=MAX_VERDICTS {
            verdicts.remember((Digest::of(&guess.to_le_bytes()), "iris".to_owned()), false);
        }
        assert!(verdicts.known().len() <= MAX_VERDICTS);
    }
}
