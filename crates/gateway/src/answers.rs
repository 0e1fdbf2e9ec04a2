//! What a deployment has answered: numbers that only grow, for whoever judges it by what came between two looks.

use http::{HeaderValue, Response, StatusCode};

use crate::headers;

/// Requests that were answered, or that their callers left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    pub requests: u64,
    /// By the deployment's fault: its own 5xx and those of its script, 408, 429, and what the gateway says in its place
    /// because no replica could be asked.
    pub failed: u64,
    /// How many took at most so many seconds, for each of the bounds of the metric, which rise.
    pub within: Vec<(f64, u64)>,
}

impl Answers {
    /// These and what another gateway has counted. Bounds that only one of the two has are left out: nobody knows the sum.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        if other.requests == 0 {
            return self.clone();
        }
        if self.within.is_empty() {
            return Self {
                requests: self.requests + other.requests,
                failed: self.failed + other.failed,
                within: other.within.clone(),
            };
        }
        let shared = |(bound, count): &(f64, u64)| {
            let theirs = other.within.iter().find(|(own, _)| own == bound)?;
            Some((*bound, count + theirs.1))
        };
        Self {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            within: self.within.iter().filter_map(shared).collect(),
        }
    }

    /// What came since `earlier`. Numbers that have become smaller belong to a deployment that was made anew, and began
    /// at nothing.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if self.requests < earlier.requests || self.failed < earlier.failed {
            return self.clone();
        }
        let before = |index: usize| earlier.within.get(index).map_or(0, |(_, count)| *count);
        let within = self.within.iter().enumerate();
        Self {
            requests: self.requests - earlier.requests,
            failed: self.failed - earlier.failed,
            within: within
                .map(|(index, (bound, count))| (*bound, count.saturating_sub(before(index))))
                .collect(),
        }
    }
}

/// Whether a replica's answer is one that it should not have given. What a script says of a request, as in 404 for one
/// that asks for nothing that there is, is the caller's.
pub(crate) fn is_failure<B>(response: &Response<B>) -> bool {
    match response.status() {
        status if status.is_server_error() => true,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::FAILED_DEPENDENCY => {
            let own = response.headers().get(headers::MODEL_STATUS).map(HeaderValue::as_bytes);
            own.is_some_and(|status| status.starts_with(b"5"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(requests: u64, failed: u64, within: &[u64]) -> Answers {
        let within = within.iter().enumerate().map(|(index, count)| (index as f64, *count));
        Answers { requests, failed, within: within.collect() }
    }

    #[test]
    fn between_two_looks_is_the_difference() {
        let earlier = answers(10, 2, &[4, 9]);
        assert_eq!(answers(25, 3, &[5, 20]).since(&earlier), answers(15, 1, &[1, 11]));
        assert_eq!(earlier.since(&Answers::default()), earlier);
        assert_eq!(earlier.since(&earlier), answers(0, 0, &[0, 0]));
    }

    #[test]
    fn what_two_gateways_counted_is_added() {
        let one = answers(10, 2, &[4, 9]);
        assert_eq!(one.with(&answers(5, 1, &[1, 5])), answers(15, 3, &[5, 14]));
        assert_eq!(one.with(&Answers::default()), one);
        assert_eq!(Answers::default().with(&one), one);
        assert_eq!(one.with(&answers(5, 1, &[1])), answers(15, 3, &[5]));
    }

    #[test]
    fn what_was_made_anew_began_at_nothing() {
        let anew = answers(3, 1, &[1, 2]);
        assert_eq!(anew.since(&answers(10, 0, &[4, 9])), anew);
        assert_eq!(anew.since(&answers(2, 2, &[1, 1])), anew);
    }

    #[test]
    fn a_failure_is_the_deployments_and_not_the_callers() {
        let failed = |status: u16, own: Option<&str>| {
            let response = own.into_iter().fold(Response::builder().status(status), |response, own| {
                response.header(headers::MODEL_STATUS, own)
            });
            is_failure(&response.body(()).unwrap())
        };
        for (status, own) in
            [(500, None), (502, None), (503, None), (408, None), (429, None), (424, Some("500"))]
        {
            assert!(failed(status, own), "{status} {own:?}");
        }
        for (status, own) in
            [(200, None), (304, None), (400, None), (404, None), (424, Some("404")), (424, None)]
        {
            assert!(!failed(status, own), "{status} {own:?}");
        }
    }
}
