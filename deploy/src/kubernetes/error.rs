//! What a cluster did not do, with its reason in one line: who refused what, and what to do about it.

use std::error::Error;

use kube::core::Status;
use moorline_core::{ErrorClass, TargetError};
use thiserror::Error;

use super::cluster::REQUEST_TIMEOUT;

/// A request that a cluster refused, or that did not reach it.
#[derive(Debug, Error)]
#[error("{what}: {reason}")]
pub struct ClusterError {
    class: ErrorClass,
    what: String,
    reason: String,
    /// The object is not there: what a removal wants.
    absent: bool,
}

impl ClusterError {
    pub(super) fn new(class: ErrorClass, what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { class, what: what.into(), reason: reason.into(), absent: false }
    }

    /// There was no answer in time.
    pub(super) fn late(what: impl Into<String>) -> Self {
        let seconds = REQUEST_TIMEOUT.as_secs();
        Self::new(ErrorClass::Unavailable, what, format!("the API server did not answer within {seconds} s"))
    }

    pub(super) fn of(what: impl Into<String>, error: kube::Error) -> Self {
        let what = what.into();
        if let kube::Error::Api(status) = error {
            let (class, reason) = refusal(&status);
            return Self { class, what, reason, absent: status.code == 404 };
        }
        let class = match &error {
            kube::Error::Auth(_) => ErrorClass::Unauthenticated,
            kube::Error::BuildRequest(_) | kube::Error::InferKubeconfig(_) | kube::Error::RustlsTls(_) => {
                ErrorClass::InvalidInput
            }
            _ => ErrorClass::Unavailable,
        };
        Self { class, what, reason: innermost(&error), absent: false }
    }

    pub fn class(&self) -> ErrorClass {
        self.class
    }

    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }
}

impl From<ClusterError> for TargetError {
    fn from(error: ClusterError) -> Self {
        Self::new(error.class, error.to_string())
    }
}

/// The class of a refusal, and its reason with what to do.
fn refusal(status: &Status) -> (ErrorClass, String) {
    let message = crate::failure::one_line(&status.message);
    let said = |what: &str| message.contains(what);
    let with = |advice: &str| format!("{message}; {advice}");
    match status.code {
        401 => (
            ErrorClass::Unauthenticated,
            with("the credentials of the kubeconfig are not valid, or not any more: renew them"),
        ),
        403 if said("exceeded quota") => (
            // It heals when something else ends, or when the quota is raised.
            ErrorClass::Unavailable,
            with("raise the namespace's ResourceQuota, or ask for less"),
        ),
        403 if said("being terminated") => {
            (ErrorClass::Unavailable, with("the namespace is being deleted: wait for it, and make it anew"))
        }
        // A plug-in of the API server, such as Pod Security or a limit range.
        403 if said("violates PodSecurity") || said("denied the request") || said("forbidden: maximum") => {
            (ErrorClass::InvalidInput, message)
        }
        403 if said(" cannot ") => (
            ErrorClass::Forbidden,
            with("`moorline kubernetes rbac | kubectl apply -f -` grants what is missing"),
        ),
        403 => (ErrorClass::Forbidden, message),
        404 if said("namespaces ") => {
            (ErrorClass::NotFound, with("make it with `kubectl create namespace`, or name another one"))
        }
        404 => (ErrorClass::NotFound, message),
        409 => (ErrorClass::Conflict, message),
        400 | 413 | 422 => (ErrorClass::InvalidInput, message),
        429 => (ErrorClass::Unavailable, with("the API server has too many requests")),
        _ => (
            ErrorClass::Unavailable,
            if message.is_empty() { format!("status {}", status.code) } else { message },
        ),
    }
}

/// What went wrong at the bottom: what is above it only repeats it.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut at: &(dyn Error + 'static) = error;
    while let Some(source) = at.source() {
        at = source;
    }
    crate::failure::one_line(&at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> ClusterError {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        ClusterError::of("could not apply Deployment iris", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_refusal_says_who_refused_what_and_what_to_do() {
        let cases = [
            (401, "Unauthorized", ErrorClass::Unauthenticated, "renew them"),
            (
                403,
                "deployments.apps \"iris\" is forbidden: User \"system:serviceaccount:ml:moorline\" cannot patch resource \"deployments\" in API group \"apps\" in the namespace \"ml\"",
                ErrorClass::Forbidden,
                "moorline kubernetes rbac",
            ),
            (
                403,
                "services \"iris\" is forbidden: exceeded quota: few, requested: services=1, used: services=1, limited: services=1",
                ErrorClass::Unavailable,
                "ResourceQuota",
            ),
            (
                403,
                "deployments.apps \"iris\" is forbidden: unable to create new content in namespace ml because it is being terminated",
                ErrorClass::Unavailable,
                "being deleted",
            ),
            (404, "namespaces \"ml\" not found", ErrorClass::NotFound, "kubectl create namespace"),
            (
                403,
                "admission webhook \"policy.example.com\" denied the request: no tags",
                ErrorClass::InvalidInput,
                "no tags",
            ),
            (422, "Deployment.apps \"iris\" is invalid: spec", ErrorClass::InvalidInput, "is invalid"),
            (500, "", ErrorClass::Unavailable, "status 500"),
        ];
        for (code, message, class, advice) in cases {
            let error = refused(code, message);
            assert_eq!(error.class(), class, "{message}");
            let text = error.to_string();
            assert!(text.starts_with("could not apply Deployment iris: "), "{text}");
            assert!(text.contains(message) && text.contains(advice), "{text}");
            assert!(!text.contains('\n'));
        }
        assert!(refused(404, "services \"iris\" not found").is_absent());
    }
}
